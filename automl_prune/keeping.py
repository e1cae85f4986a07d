"""A stored study, to tidy up: artifacts that nobody needs, and the study as a whole."""

from __future__ import annotations

import logging
import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING

import sqlalchemy as sa

from automl_prune.errors import StorageError
from automl_prune.reading import StudyReader, artifact_location
from automl_prune.storage.artifacts import from_column
from automl_prune.storage.slots import parents_of_open_trials
from automl_prune.storage.tables import results, rungs, slots, studies, workers
from automl_prune.tested import forget_tests

if TYPE_CHECKING:
    from collections.abc import Collection

    from sqlalchemy.engine import Connection

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Freed:
    """What :meth:`StudyKeeper.remove_artifacts` removed, or would."""

    num_bytes: int
    num_trials: int


class StudyKeeper(StudyReader):
    """A stored study, to read and to tidy up."""

    worker_id: str | None = None
    """Under which this process is entered as a worker, if it is."""

    def remove_artifacts(self, *, keep: Collection[int], dry_run: bool = False) -> Freed:
        """Remove the artifacts of all finished trials but ``keep``; their rows stay.

        Parents of trials that are not finished are kept too. Old files that no trial refers to,
        left by workers that died, go.
        """
        database, num_bytes = self.storage.database, 0
        query = sa.select(results.c.number, results.c.artifacts).where(
            results.c.study_id == self.study_id, results.c.artifacts != "{}"
        )
        held = {
            row.number: from_column(row.artifacts).values()
            for row in database.read(lambda c: c.execute(query).all())
        }
        needed = database.read(lambda c: parents_of_open_trials(c, self.study_id))
        numbers = [number for number in held if number not in {*keep, *needed}]
        ids = [artifact.id for number in numbers for artifact in held[number]]
        num_bytes = sum(artifact.num_bytes for number in numbers for artifact in held[number])
        orphans = self.artifacts.orphans(self._known_artifacts())
        num_bytes += sum((self.artifact_dir / name).stat().st_size for name in orphans)
        if not dry_run:
            # No row may promise what is not there: first the rows, then the files.
            database.write(
                lambda c: c.execute(
                    sa.update(results)
                    .where(results.c.study_id == self.study_id, results.c.number.in_(numbers))
                    .values(artifacts="{}")
                )
            )
            self.artifacts.remove(ids + orphans)
        return Freed(num_bytes=num_bytes, num_trials=len(numbers))

    def delete(self) -> None:
        """Delete the study: its trials, here and in Optuna's tables, and its artifacts.

        Raises:
            StorageError: workers are at work on it.
        """
        busy = [w for w in self.workers() if w.alive and w.id != self.worker_id]
        if busy:
            places = ", ".join(f"{w.host} (process {w.pid})" for w in busy)
            raise StorageError(
                f"study {self.name!r} is being worked on: {places}; stop these workers first"
            )
        from automl_prune.optuna_storage import open_optuna

        optuna_storage = open_optuna(self.storage.database)
        try:
            optuna_storage.delete_study(self.optuna_study_id)
        except KeyError:
            logger.info("Optuna's study was deleted before")
        finally:
            optuna_storage.engine.dispose()
        query = sa.select(results.c.artifacts).where(results.c.study_id == self.study_id)
        columns = self.storage.database.read(lambda c: c.execute(query).scalars().all())
        self.storage.database.write(self._delete_rows)
        self.artifacts.remove([a.id for text in columns for a in from_column(text).values()])
        forget_tests(self)
        if not self._folder_is_shared():
            shutil.rmtree(self.dense_dir, ignore_errors=True)
            shutil.rmtree(self.checkpoint_dir, ignore_errors=True)

    def _folder_is_shared(self) -> bool:
        """Whether another study of this storage keeps its artifacts in the same folder."""
        folders = self.storage.database.read(
            lambda c: c.execute(sa.select(studies.c.artifact_dir)).scalars().all()
        )
        return artifact_location(self.storage, self.artifact_dir) in folders

    def _known_artifacts(self) -> set[str]:
        """Ids of the artifacts of every study that may share the folder."""
        columns = self.storage.database.read(
            lambda c: c.execute(sa.select(results.c.artifacts)).scalars().all()
        )
        return {a.id for text in columns for a in from_column(text).values()}

    def _delete_rows(self, connection: Connection) -> None:
        for table in (rungs, results, slots, workers):
            connection.execute(sa.delete(table).where(table.c.study_id == self.study_id))
        connection.execute(sa.delete(studies).where(studies.c.id == self.study_id))
