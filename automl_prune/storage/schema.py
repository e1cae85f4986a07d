"""Our tables are made, recognised and brought up to date; race-free, by whoever comes first."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import sqlalchemy as sa

from automl_prune.errors import SchemaError, StudyNotFoundError
from automl_prune.storage.tables import VERSION_TABLE
from automl_prune.storage.urls import shown, sqlite_file

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection

    from automl_prune.storage.database import Database

SCHEMA_VERSION = "0004"
"""Newest revision in ``automl_prune/storage/migrations``."""


def ensure_schema(database: Database, *, must_exist: bool) -> None:
    """See that the tables are there and of this version; make them where there are none.

    Args:
        database: reachable.
        must_exist: make nothing.

    Raises:
        SchemaError: they are newer or older than this version of automl-prune.
        StudyNotFoundError: there are none and ``must_exist``.
    """
    found = stored_version(database)
    if found is None and must_exist:
        raise no_studies(database)
    if found is None:
        with database.exclusive("schema"):
            if stored_version(database) is None:
                if database.is_sqlite:  # readers go on while a worker writes; once for good
                    database.set_write_ahead_log()
                _make_optuna_tables(database)
                _upgrade(database, SCHEMA_VERSION)
        found = stored_version(database)
    where = shown(database.url)
    if found is None or found < SCHEMA_VERSION:
        raise SchemaError(
            f"the storage {where} has schema {found}, this automl-prune needs {SCHEMA_VERSION}; "
            "stop its workers, make a backup, and run `automl-prune migrate --storage URL`"
        )
    if found > SCHEMA_VERSION:
        raise SchemaError(
            f"the storage {where} has schema {found}, this automl-prune knows up to "
            f"{SCHEMA_VERSION}; upgrade automl-prune here"
        )


def no_studies(database: Database) -> StudyNotFoundError:
    """The error for a storage that holds nothing of ours."""
    return StudyNotFoundError(
        f"the storage {shown(database.url)} holds no studies of automl-prune; begin one with "
        "`automl-prune search`, or name another storage with --storage URL"
    )


def stored_version(database: Database) -> str | None:
    """Revision of the tables in the database; None: there are none."""

    def look(connection: Connection) -> str | None:
        if not sa.inspect(connection).has_table(VERSION_TABLE):
            return None
        version = connection.scalar(sa.text(f"SELECT version_num FROM {VERSION_TABLE}"))
        return None if version is None else str(version)

    return database.read(look)


def migrate(database: Database) -> tuple[str, str]:
    """Bring our tables and Optuna's to this version; nothing happens where they are.

    Returns:
        The schema's version before and after.

    Raises:
        SchemaError: the storage is newer.
        StudyNotFoundError: the storage holds nothing of ours.
    """
    if stored_version(database) is None:
        raise no_studies(database)
    with database.exclusive("schema"):
        before = stored_version(database) or ""
        if before < SCHEMA_VERSION:
            _upgrade(database, SCHEMA_VERSION)
        _upgrade_optuna_tables(database)
    ensure_schema(database, must_exist=True)
    return before, SCHEMA_VERSION


def _upgrade(database: Database, revision: str) -> None:
    """Run Alembic's revisions up to ``revision`` in one transaction; the lock is ours already."""
    from alembic.config import Config
    from alembic.runtime.environment import EnvironmentContext
    from alembic.script import ScriptDirectory

    folder = str(Path(__file__).with_name("migrations"))
    config = Config()
    config.set_main_option("script_location", folder.replace("%", "%%"))
    config.set_main_option("version_locations", folder.replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    scripts = ScriptDirectory.from_config(config)

    def run(connection: Connection) -> None:
        with EnvironmentContext(
            config,
            scripts,
            fn=lambda rev, _: scripts._upgrade_revs(revision, rev),
            destination_rev=revision,
        ) as environment:
            environment.configure(connection=connection, version_table=VERSION_TABLE)
            environment.run_migrations()

    database.write(run)


def _make_optuna_tables(database: Database) -> None:
    """Optuna's constructor makes its tables if there are none; we check those that are there."""
    from optuna.storages import RDBStorage

    storage = RDBStorage(
        database.url.render_as_string(hide_password=False), skip_compatibility_check=True
    )
    try:
        found, wanted = storage.get_current_version(), storage.get_head_version()
    finally:
        storage.engine.dispose()
    if found != wanted:
        raise SchemaError(
            f"Optuna's tables in {shown(database.url)} are of another version: found {found}, "
            f"this Optuna needs {wanted}. Use the Optuna that made them, or run "
            "`optuna storage upgrade`"
        )


def _upgrade_optuna_tables(database: Database) -> None:
    from optuna.storages import RDBStorage

    storage = RDBStorage(
        database.url.render_as_string(hide_password=False), skip_compatibility_check=True
    )
    try:
        if storage.get_current_version() != storage.get_head_version():
            storage.upgrade()
    finally:
        storage.engine.dispose()


def database_file_missing(database: Database) -> bool:
    """Whether this is a SQLite file that does not exist."""
    file = sqlite_file(database.url)
    return file is not None and not file.is_file()
