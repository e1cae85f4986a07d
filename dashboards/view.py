"""Studies as the explorer sees them: read once, read again only when something finished."""

from __future__ import annotations

import logging
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from automl_prune.errors import AutoMLPruneError
from automl_prune.reading import StudyReader, find_study
from automl_prune.records import TrialRecord
from automl_prune.report import compare_with_uniform, pareto_rows
from automl_prune.storage import open_storage
from dashboards.layer_figures import evenly

if TYPE_CHECKING:
    from automl_prune.report import ResultRow, UniformComparison
    from automl_prune.storage import StudyStorage
    from dashboards.layer_figures import Kept

logger = logging.getLogger(__name__)

PATIENCE_S = 5.0
"""How long a page waits for a database that is away."""


@dataclass(slots=True, kw_only=True)
class Snapshot:
    """A study when so many trials were finished; not changed, only filled in when asked."""

    finished: int
    rows: list[ResultRow]
    front: list[ResultRow]
    by_number: dict[int, ResultRow]
    _comparison: UniformComparison | None = None
    _kept: dict[int, Kept] | None = None
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def comparison(self, study: StudyReader) -> UniformComparison:
        """The search against uniform pruning; found once."""
        with self._lock:
            if self._comparison is None:
                self._comparison = compare_with_uniform(self.rows, study.facts)
            return self._comparison

    def kept_on_front(self, study: StudyReader) -> dict[int, Kept]:
        """Kept units of the models on the front that a figure shows; read once."""
        with self._lock:
            if self._kept is None:
                records = study.records([row.number for row in evenly(self.front)])
                self._kept = {
                    number: record.kept_units
                    for number, record in records.items()
                    if isinstance(record, TrialRecord)
                }
            return self._kept


class StudyView:
    """One study; safe to use from several threads."""

    def __init__(self, reader: StudyReader) -> None:
        """Read nothing yet."""
        self.reader = reader
        self._snapshot: Snapshot | None = None
        self._lock = threading.Lock()

    def finished(self) -> int:
        """Finished trials now: one cheap query."""
        return self.reader.finished_count()

    def snapshot(self) -> Snapshot:
        """The study as it is now; reads its rows only if a trial finished since the last time."""
        finished = self.finished()
        with self._lock:
            if self._snapshot is None or self._snapshot.finished != finished:
                rows = self.reader.rows()
                self._snapshot = Snapshot(
                    finished=finished,
                    rows=rows,
                    front=pareto_rows(rows),
                    by_number={row.number: row for row in rows},
                )
            return self._snapshot


class Studies:
    """All studies of a storage; safe to use from several threads."""

    def __init__(self, storage: StudyStorage) -> None:
        """Use :meth:`open` instead."""
        self.storage = storage
        self._views: dict[str, StudyView] = {}
        self._lock = threading.Lock()

    @classmethod
    def open(cls, url: str) -> Studies:
        """The studies of a storage that exists.

        Raises:
            StorageError: it cannot be reached.
            StudyNotFoundError: there is nothing of ours.
        """
        return cls(open_storage(url, must_exist=True, patience_s=PATIENCE_S))

    def warm(self) -> threading.Thread:
        """Read the rows of all studies in the background, so that the first page need not wait."""

        def read() -> None:
            try:
                for name in self.names():
                    self.view(name).snapshot()
            except AutoMLPruneError as error:  # the page that needs it will say so
                logger.info("not read ahead: %s", error)

        thread = threading.Thread(target=read, name="read-ahead", daemon=True)
        thread.start()
        return thread

    def names(self) -> list[str]:
        """Names of the studies, sorted."""
        return self.storage.study_names()

    def view(self, name: str) -> StudyView:
        """A study by its name; one that was deleted and made again is read anew.

        Raises:
            StudyNotFoundError: there is none of this name.
        """
        row = find_study(self.storage, name)
        with self._lock:
            known = self._views.get(name)
            if known is None or known.reader.study_id != row.id:
                known = self._views[name] = StudyView(StudyReader(self.storage, row))
            return known
