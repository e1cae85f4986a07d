"""A stored study, for reading: rows, records, artifacts, workers. Loads no torch, no Optuna."""

from __future__ import annotations

import json
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import sqlalchemy as sa

from automl_prune.config import StudyConfig
from automl_prune.errors import StudyNotFoundError
from automl_prune.records import FailureRecord, StudyFacts, TrialCurves, TrialRecord, from_json
from automl_prune.report import ResultRow, pareto_rows
from automl_prune.storage.artifacts import Artifact, ArtifactFolder, from_column
from automl_prune.storage.database import now
from automl_prune.storage.process import known_dead
from automl_prune.storage.slots import OPEN
from automl_prune.storage.tables import results, slots, studies, workers
from automl_prune.storage.urls import sqlite_file

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from sqlalchemy.engine import Connection

    from automl_prune.storage import StudyStorage
    from automl_prune.storage.tables import DataRow

T = TypeVar("T")

CURVES_FILE = "curves.json"
MODEL_FILES = ("model.safetensors", "manifest.json")
SILENT_S = 90.0
"""A worker that has not beaten for so long is called silent."""
ROW_COLUMNS = tuple(
    results.c[name]
    for name in (
        "number",
        "kind",
        "state",
        "finish_order",
        "finished_at",
        "seconds",
        "trade_off",
        "accuracy",
        "loss",
        "macs",
        "params",
        "latency_ms",
        "latency_hardware",
        "feasible",
        "error",
    )
)


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerRow:
    """A worker of a study that has not left."""

    id: str
    host: str
    pid: int
    device: str
    started_at: float
    silent_s: float
    """Seconds since its last beat, by the database's clock."""
    alive: bool
    """False: it has been silent for long, or is known to be dead."""
    trial: int | None
    progress: dict[str, object] | None
    """Where its trial is: phase, step, total_steps, fraction, loss, macs_ratio, mean_ratio."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenTrial:
    """A trial that has begun and not finished."""

    number: int
    kind: str
    state: str
    """running, stale (its worker is dead or silent), or waiting to be repeated."""
    attempts: int
    worker_id: str | None
    saved_fraction: float
    """Share of the trial that its newest checkpoint holds."""


class StudyReader:
    """A stored study, for reading."""

    def __init__(self, storage: StudyStorage, row: DataRow) -> None:
        """Use :meth:`load` instead."""
        self.storage = storage
        self.study_id: int = row.id
        self.optuna_study_id: int = row.optuna_study_id
        self.name: str = row.name
        self.config = StudyConfig.from_json(row.config)
        self.facts = from_json(StudyFacts, row.facts)
        self.artifact_dir = _artifact_path(storage, row.artifact_dir)
        self.artifacts = ArtifactFolder(self.artifact_dir)

    def rows(self) -> list[ResultRow]:
        """Every finished trial, by number; no Optuna trial is loaded."""
        dense_macs = self.facts.dense_macs
        found = self._read(
            lambda connection: connection.execute(
                sa.select(*ROW_COLUMNS)
                .where(results.c.study_id == self.study_id)
                .order_by(results.c.number)
            ).all()
        )
        return [
            ResultRow(
                **row._asdict(), macs_ratio=None if row.macs is None else row.macs / dense_macs
            )
            for row in found
        ]

    def front(self, rows: Sequence[ResultRow]) -> list[ResultRow]:
        """The found front of these rows, by the cost that is the study's objective."""
        return pareto_rows(rows, objective=self.config.search.objective)

    def finished_count(self) -> int:
        """Trials that are finished for good: complete, pruned or failed."""
        query = sa.select(studies.c.num_finished).where(studies.c.id == self.study_id)
        return int(self._read(lambda connection: connection.execute(query).scalar_one()))

    def target(self) -> int:
        """Finished trials that the study shall have: as last asked, else as its config says."""
        query = sa.select(studies.c.target).where(studies.c.id == self.study_id)
        asked = self._read(lambda connection: connection.execute(query).scalar_one())
        return self.config.search.trials if asked is None else int(asked)

    @property
    def checkpoint_dir(self) -> Path:
        """Where the checkpoints of running trials lie: where every worker of the study looks."""
        return self.artifact_dir / "checkpoints" / self.name

    @property
    def dense_dir(self) -> Path:
        """Where the dense model lies that every worker of the study starts from."""
        return self.artifact_dir / "dense"

    def record(self, number: int) -> TrialRecord | FailureRecord:
        """What one trial left.

        Raises:
            StudyNotFoundError: no such finished trial.
        """
        found = self.records([number])
        if number not in found:
            raise StudyNotFoundError(
                f"study {self.name!r} has no finished trial {number}; "
                f"{self.finished_count()} trials are finished (see `automl-prune pareto --all`)"
            )
        return found[number]

    def records(
        self, numbers: Iterable[int] | None = None
    ) -> dict[int, TrialRecord | FailureRecord]:
        """Records by trial number; those that are not finished are left out.

        Args:
            numbers: which; None: all.
        """
        query = sa.select(results.c.number, results.c.state, results.c.record).where(
            results.c.study_id == self.study_id
        )
        if numbers is not None:
            query = query.where(results.c.number.in_(list(numbers)))
        found = self._read(lambda connection: connection.execute(query).all())
        return {row.number: _record(row) for row in found}

    def artifacts_of(self, number: int) -> dict[str, Artifact]:
        """Artifacts of a finished trial, by name; empty if there are none (any more)."""
        text = self._read(
            lambda connection: connection.scalar(
                sa.select(results.c.artifacts).where(
                    results.c.study_id == self.study_id, results.c.number == number
                )
            )
        )
        return {} if text is None else from_column(text)

    def artifact(self, number: int, name: str) -> bytes:
        """One artifact of a trial, compared with its digest.

        Raises:
            StudyNotFoundError: the trial has none of this name.
            EnvironmentProblemError: the file is missing or damaged.
        """
        return self.artifacts.get(self._artifact(number, name))

    def artifact_path(self, number: int, name: str) -> Path:
        """The file of an artifact, which may be gone or damaged; read it with its digest.

        Raises:
            StudyNotFoundError: the trial has none of this name.
        """
        return self.artifact_dir / self._artifact(number, name).id

    def curves(self, number: int) -> TrialCurves:
        """Trajectories of a trial.

        Raises:
            StudyNotFoundError: the trial has none.
            EnvironmentProblemError: the file is missing or damaged.
        """
        return from_json(TrialCurves, self.artifact(number, CURVES_FILE).decode())

    @contextmanager
    def model_folder(self, number: int) -> Iterator[Path]:
        """The model folder of a trial, as a temporary copy whose digests were compared.

        Raises:
            StudyNotFoundError: the trial has no model.
            EnvironmentProblemError: a file is missing or damaged.
        """
        contents = {name: self.artifact(number, name) for name in MODEL_FILES}
        with tempfile.TemporaryDirectory(prefix="automl-prune-") as scratch:
            folder = Path(scratch) / "model"
            folder.mkdir()
            for name, content in contents.items():
                (folder / name).write_bytes(content)
            yield folder

    def workers(self) -> list[WorkerRow]:
        """Workers that have not left in good order, the longest at work first."""

        def look(connection: Connection) -> list[WorkerRow]:
            time_now = now(connection)
            found = connection.execute(
                sa.select(workers, slots.c.number, slots.c.progress)
                .join(
                    slots,
                    (slots.c.worker_id == workers.c.id) & (slots.c.state == "running"),
                    isouter=True,
                )
                .where(workers.c.study_id == self.study_id, workers.c.left_at.is_(None))
                .order_by(workers.c.started_at)
            ).all()
            return [_worker_row(row, time_now) for row in found]

        return self._read(look)

    def open_trials(self) -> list[OpenTrial]:
        """Trials that have begun and not finished, by number."""

        def look(connection: Connection) -> list[OpenTrial]:
            time_now = now(connection)
            found = connection.execute(
                sa.select(slots, workers.c.process)
                .join(workers, workers.c.id == slots.c.worker_id, isouter=True)
                .where(slots.c.study_id == self.study_id, slots.c.state.in_(OPEN))
                .order_by(slots.c.number)
            ).all()
            return [_open_trial(row, time_now) for row in found]

        return self._read(look)

    def _artifact(self, number: int, name: str) -> Artifact:
        found = self.artifacts_of(number)
        if name not in found:
            self.record(number)  # says so if there is no such trial
            kept = ", ".join(sorted(found)) or "nothing; `automl-prune gc` may have removed it"
            raise StudyNotFoundError(
                f"trial {number} of {self.name!r} has no {name}; kept: {kept}"
            )
        return found[name]

    def _read(self, work: Callable[[Connection], T]) -> T:
        return self.storage.database.read(work)


def find_study(storage: StudyStorage, name: str) -> DataRow:
    """The row of a study.

    Raises:
        StudyNotFoundError: there is none of this name; those that exist are named.
    """
    row = storage.database.read(
        lambda connection: connection.execute(
            sa.select(studies).where(studies.c.name == name)
        ).one_or_none()
    )
    if row is None:
        names = storage.study_names()
        there = f"studies there: {', '.join(names)}" if names else "it holds none yet"
        raise StudyNotFoundError(f"no study {name!r} in {storage.shown}; {there}")
    return row


def artifact_location(storage: StudyStorage, artifact_dir: Path) -> str:
    """How an artifact folder is stored: beside a SQLite file relative to it, so both can move."""
    absolute = artifact_dir.resolve()
    file = sqlite_file(storage.database.url)
    if file is not None and absolute.is_relative_to(file.resolve().parent):
        return str(absolute.relative_to(file.resolve().parent))
    return str(absolute)


def _artifact_path(storage: StudyStorage, stored: str) -> Path:
    file = sqlite_file(storage.database.url)
    return Path(stored) if file is None else file.resolve().parent / stored


def _record(row: DataRow) -> TrialRecord | FailureRecord:
    if row.state == "failed":
        return from_json(FailureRecord, row.record)
    return from_json(TrialRecord, row.record)


def _worker_row(row: DataRow, time_now: float) -> WorkerRow:
    silent_s = max(time_now - row.beat_at, 0.0)
    return WorkerRow(
        id=row.id,
        host=row.host,
        pid=row.pid,
        device=row.device,
        started_at=row.started_at,
        silent_s=silent_s,
        alive=silent_s < SILENT_S and not known_dead(row.process),
        trial=row.number,
        progress=None if row.progress is None else json.loads(row.progress),
    )


def _open_trial(row: DataRow, time_now: float) -> OpenTrial:
    state = row.state
    dead = row.process is not None and known_dead(row.process)
    if state == "running" and (dead or (row.lease_until or 0.0) < time_now):
        state = "stale"
    return OpenTrial(
        number=row.number,
        kind=row.kind,
        state=state,
        attempts=row.attempts,
        worker_id=row.worker_id,
        saved_fraction=row.saved_fraction,
    )
