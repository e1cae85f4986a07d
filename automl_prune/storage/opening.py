"""Opening a storage: the one door to the database for everything above."""

from __future__ import annotations

import os
import uuid
from typing import TYPE_CHECKING

import sqlalchemy as sa

from automl_prune.errors import StorageError
from automl_prune.storage import schema
from automl_prune.storage.database import PATIENCE_S, Database, now
from automl_prune.storage.process import host_name, identity
from automl_prune.storage.tables import studies, workers
from automl_prune.storage.urls import parse_url, shown, sqlite_file

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection


class StudyStorage:
    """An open storage: reachable when it was opened, its schema of this version."""

    def __init__(self, database: Database) -> None:
        """Use :func:`open_storage` instead."""
        self.database = database

    @property
    def shown(self) -> str:
        """The URL without its password."""
        return shown(self.database.url)

    @property
    def url(self) -> str:
        """The URL with its password: for handing on to another process, never for showing."""
        return self.database.url.render_as_string(hide_password=False)

    @property
    def is_sqlite(self) -> bool:
        """Whether this is a file that serves one worker."""
        return self.database.is_sqlite

    def study_names(self) -> list[str]:
        """Names of the studies in this storage, sorted."""
        rows = self.database.read(
            lambda connection: connection.execute(sa.select(studies.c.name)).scalars().all()
        )
        return sorted(rows)

    def join(self, study_id: int, *, device: str) -> str:
        """Enter this process as a worker of a study; returns the worker's id."""
        worker_id = uuid.uuid4().hex
        content = {"host": host_name(), "process": identity(), "device": device}

        def enter(connection: Connection) -> None:
            known = connection.scalar(sa.select(workers.c.id).where(workers.c.id == worker_id))
            if known is None:
                time_now = now(connection)
                connection.execute(
                    sa.insert(workers).values(
                        id=worker_id,
                        study_id=study_id,
                        pid=os.getpid(),
                        started_at=time_now,
                        beat_at=time_now,
                        **content,
                    )
                )

        self.database.write(enter)
        return worker_id

    def leave(self, worker_id: str) -> None:
        """Say that a worker has ended in good order."""
        self.database.write(
            lambda connection: connection.execute(
                sa.update(workers).where(workers.c.id == worker_id).values(left_at=now(connection))
            )
        )

    def close(self) -> None:
        """Close all connections."""
        self.database.close()


def open_storage(
    url: str, *, must_exist: bool = False, patience_s: float = PATIENCE_S
) -> StudyStorage:
    """Open a storage, and make its tables if nobody has.

    Args:
        url: ``sqlite:///FILE`` or ``postgresql://...``; psycopg 3 is used for the latter.
        must_exist: make nothing; for reading.
        patience_s: how long later transactions wait for a database that went away.

    Raises:
        StorageError: no storage URL, or it cannot be reached; one line, no password.
        SchemaError: made by a newer or an older version of automl-prune.
        StudyNotFoundError: ``must_exist`` and there is nothing of ours.
    """
    database = Database(parse_url(url), patience_s=patience_s)
    file = sqlite_file(database.url)
    if file is not None and not file.is_file():
        if must_exist:
            raise schema.no_studies(database)
        if not file.parent.is_dir():
            raise StorageError(
                f"--storage: the folder {file.parent} of {database.url.database} does not exist; "
                "make it first, or name another file"
            )
    try:
        database.check()
        schema.ensure_schema(database, must_exist=must_exist)
    except BaseException:
        database.close()
        raise
    return StudyStorage(database)


def migrate_storage(url: str) -> tuple[str, str]:
    """Bring the tables of a storage to this version.

    Returns:
        The schema's version before and after.

    Raises:
        StorageError: it cannot be reached.
        SchemaError: it is newer than this version of automl-prune.
        StudyNotFoundError: there is nothing of ours.
    """
    database = Database(parse_url(url))
    if schema.database_file_missing(database):
        raise schema.no_studies(database)
    try:
        database.check()
        return schema.migrate(database)
    finally:
        database.close()
