"""A study that is being searched: ask for a trial, hand in what it left, or give it back.

Which trials there are, who runs them and what they left stands in our own tables, one transaction
per event; Optuna's samplers propose on a mirror in memory, and Optuna's tables get every trial
once. Optuna is loaded by the first :meth:`StudyHandle.ask`, not before.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import math
import time
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING

import sqlalchemy as sa

from automl_prune.errors import ConfigError, StorageError, StudyMismatchError
from automl_prune.reading import (
    CURVES_FILE,
    OpenTrial,
    StudyReader,
    WorkerRow,
    artifact_location,
    find_study,
)
from automl_prune.records import FailureRecord, to_json
from automl_prune.seeds import trial_seed
from automl_prune.space import Space, constraint_values, objective_values
from automl_prune.storage.artifacts import from_column, to_column
from automl_prune.storage.pulse import Pulse
from automl_prune.storage.slots import (
    OPEN,
    BudgetReached,
    Lease,
    NextNumber,
    Proposed,
    Slot,
    claim,
    claim_new,
    failure_row,
    finish,
    reap,
    release,
)
from automl_prune.storage.tables import results, rungs, slots, studies, workers

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping
    from pathlib import Path

    from sqlalchemy.engine import Connection, Row

    from automl_prune.config import StudyConfig
    from automl_prune.publishing import Publisher
    from automl_prune.records import StudyFacts, TrialCurves, TrialKind, TrialRecord
    from automl_prune.sampling import Mirror, Seen
    from automl_prune.storage import StudyStorage

__all__ = ["Assignment", "Freed", "OpenTrial", "StudyHandle", "WorkerRow"]

logger = logging.getLogger(__name__)

LEASE_S = 90.0
"""A worker that is silent for so long loses its trial to another one."""
PUBLISH_AT_ONCE = 8
"""Trials that one call carries over to Optuna's tables at most, so that no worker does it all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Assignment:
    """A trial to run."""

    number: int
    kind: TrialKind
    ratios: dict[str, float]
    """Starting keep ratio per group; groups that stay dense are left out."""
    trade_off: float
    seed: int
    token: str
    """Of the lease: who holds it may hand the trial in."""
    attempt: int = 1
    """Larger than 1: the trial was begun before, and its checkpoint may be there."""

    @property
    def original_number(self) -> int:
        """Number of the trial that this one repeats: its own, for a repetition keeps it."""
        return self.number


@dataclass(frozen=True, slots=True, kw_only=True)
class Freed:
    """What :meth:`StudyHandle.remove_artifacts` removed, or would."""

    num_bytes: int
    num_trials: int


class StudyHandle(StudyReader):
    """A stored study, to read and to search.

    One handle per process. The first :meth:`ask` enters the process as a worker and starts a
    thread that renews the leases of its trials; :meth:`close` ends both.
    """

    def __init__(self, storage: StudyStorage, row: Row[tuple[object, ...]]) -> None:
        """Use :meth:`create_or_check` or :meth:`load` instead."""
        super().__init__(storage, row)
        self.lease_s = LEASE_S
        self.device = "cpu"
        """Shown in the list of workers; set before the first :meth:`ask`."""
        self.space = Space.of(self.config, self.facts)
        self._worker_id: str | None = None
        self._pulse: Pulse | None = None
        self._mirror: Mirror | None = None
        self._publisher: Publisher | None = None
        self._seen = 0
        """Results up to this place in the order of finishing are in the mirror."""
        self._others_ask = False

    @classmethod
    def load(cls, storage: StudyStorage, name: str) -> StudyHandle:
        """A study that exists.

        Raises:
            StudyNotFoundError: there is none of this name; those that exist are named.
        """
        return cls(storage, find_study(storage, name))

    @classmethod
    def create_or_check(
        cls, storage: StudyStorage, config: StudyConfig, facts: StudyFacts, artifact_dir: Path
    ) -> StudyHandle:
        """The study of a config: made if it is new, else compared with what is stored.

        Args:
            storage: where.
            config: ``config.name`` is the study's name, in Optuna too.
            facts: of a new study; a stored study keeps its own.
            artifact_dir: of a new study; a stored study keeps its own.

        Raises:
            StudyMismatchError: a study of this name has another config; the difference is shown.
            ConfigError: the objective is latency, which the config does not measure.
        """
        if config.search.objective == "latency" and not config.compute.measure_latency:
            raise ConfigError(
                "search.objective: found 'latency' with compute.measure_latency = false; "
                "measure it, or search for 'macs'"
            )
        if config.name not in storage.study_names():
            with storage.database.exclusive("studies"):
                if config.name not in storage.study_names():
                    _create(storage, config, facts, artifact_dir)
        handle = cls.load(storage, config.name)
        differences = handle.config.differences(config)
        if differences:
            raise StudyMismatchError(
                "\n".join(
                    [
                        f"study {config.name!r} in {storage.shown} has another config "
                        "(stored -> asked):",
                        *(f"  {line}" for line in differences),
                        "take the stored one back, or give the new one another name",
                    ]
                )
            )
        return handle

    def ask(self, target: int) -> Assignment | None:
        """Claim a trial: one that has to be repeated, else a new one.

        Args:
            target: finished trials that the study shall have, whoever runs them.

        Returns:
            The trial; None: as many are finished or being run as were asked for. Finished trials
            are in Optuna's tables then.

        Raises:
            StorageError: the storage stayed away.
        """
        worker_id = self._enter()
        lease = Lease(worker_id=worker_id, token=uuid.uuid4().hex, seconds=self.lease_s)
        database = self.storage.database
        found = database.write(lambda c: claim(c, self.study_id, target=target, lease=lease))
        while isinstance(found, NextNumber):
            proposed = self._propose(found.number, worker_id)
            wanted = found.number
            found = database.write(
                lambda c, p=proposed: claim_new(
                    c,
                    self.study_id,
                    target=target,
                    lease=lease,
                    proposed=p,
                    seed_of=lambda number: trial_seed(self.config.seed, number),
                )
            )
            # Somebody was faster: what was proposed for the same number would be the same trial.
            self._others_ask |= isinstance(found, NextNumber) and found.number != wanted
        if isinstance(found, BudgetReached):
            self.publish()
            return None
        assert self._pulse is not None
        self._pulse.hold(found.token)
        self.publish(limit=PUBLISH_AT_ONCE)
        return _assignment(found)

    def complete(
        self,
        assignment: Assignment,
        record: TrialRecord,
        curves: TrialCurves,
        artifacts: Mapping[str, Path],
    ) -> bool:
        """Hand in a finished trial; once more with the same assignment changes nothing.

        Args:
            assignment: as claimed.
            record: what it found; a record whose objectives are no numbers counts as failed.
            curves: kept as an artifact.
            artifacts: files to keep, by name; copied.

        Returns:
            Whether the trial counts; False: its lease was lost, another worker has it or has
            finished it, and nothing was stored.

        Raises:
            StorageError: the storage stayed away; call again.
            EnvironmentProblemError: the artifacts cannot be written; nothing was stored.
        """
        values = objective_values(self.config, record)
        if not all(math.isfinite(value) for value in values):
            return self.fail(assignment, _not_finite(assignment, values))
        contents = {name: path.read_bytes() for name, path in artifacts.items()}
        contents[CURVES_FILE] = to_json(curves).encode()
        kept = [self.artifacts.put(name, content) for name, content in contents.items()]
        constraints = constraint_values(self.config, self.facts, record)
        row = {
            "kind": record.kind,
            "state": record.state,
            "seconds": sum(record.phase_s.values()),
            "trade_off": record.trade_off,
            "accuracy": record.accuracy,
            "loss": record.loss if math.isfinite(record.loss) else None,
            "macs": record.macs,
            "params": record.params,
            "latency_ms": None if record.latency is None else record.latency.median_ms,
            "latency_hardware": None if record.latency is None else record.latency.hardware,
            "feasible": all(value <= 0 for value in constraints.values()),
            "constraints": json.dumps(constraints),
            "record": to_json(record),
            "artifacts": to_column(kept),
        }
        if self._finish(assignment, row):
            known = {artifact.id for artifact in self.artifacts_of(assignment.number).values()}
        else:
            known = set()
            logger.warning(
                "trial %d was given to another worker meanwhile; this result is dropped",
                assignment.number,
            )
        self.artifacts.remove([artifact.id for artifact in kept if artifact.id not in known])
        return bool(known)

    def fail(self, assignment: Assignment, failure: FailureRecord) -> bool:
        """Hand in a trial that failed for good; it counts as finished.

        Returns:
            Whether it counts; False: its lease was lost, and nothing was stored.
        """
        return self._finish(assignment, failure_row(failure))

    def release(self, assignment: Assignment) -> bool:
        """Give a trial back: the next :meth:`ask`, whoever's, gets it with number and seed.

        Returns:
            Whether it was still ours.
        """
        done = self.storage.database.write(
            lambda c: release(c, self.study_id, assignment.number, assignment.token)
        )
        self._let_go(assignment)
        return done

    def note_progress(
        self, assignment: Assignment, progress: Mapping[str, object], *, saved_fraction: float
    ) -> None:
        """Say where a trial is; the next beat carries it to the storage.

        Args:
            assignment: as claimed.
            progress: JSON-able; shown in the list of workers.
            saved_fraction: share of the trial that its newest checkpoint holds. Giving up a trial
                again and again ends it as failed only while this does not grow.
        """
        if self._pulse is not None:
            self._pulse.note(assignment.token, json.dumps(progress), saved_fraction)

    def is_lost(self, assignment: Assignment) -> bool:
        """Whether the trial was given to somebody else; known from the last beat."""
        return self._pulse is not None and self._pulse.lost(assignment.token)

    def reap(self) -> list[int]:
        """Make trials of dead or silent workers wait for a repetition; returns their numbers."""
        return self.storage.database.write(lambda c: reap(c, self.study_id))

    def publish(self, *, limit: int | None = None) -> int:
        """Carry over to Optuna's tables what is pending there; returns the number of trials.

        Args:
            limit: at most so many, and only if nobody else is at it; None: all, waiting.

        Raises:
            StorageError: somebody changed the Optuna study.
        """
        if self._publisher is None:
            from automl_prune.publishing import Publisher

            self._publisher = Publisher(
                self.storage.database,
                study_id=self.study_id,
                optuna_study_id=self.optuna_study_id,
                space=self.space,
                objective=self._objective_of_row,
            )
        return self._publisher.publish(limit=limit, wait=limit is None)

    def remove_artifacts(self, *, keep: Collection[int], dry_run: bool = False) -> Freed:
        """Remove the artifacts of all finished trials but ``keep``; their rows stay.

        Old files that no trial refers to, left by workers that died, go too.
        """
        database, num_bytes = self.storage.database, 0
        query = sa.select(results.c.number, results.c.artifacts).where(
            results.c.study_id == self.study_id, results.c.artifacts != "{}"
        )
        held = {
            row.number: from_column(row.artifacts).values()
            for row in database.read(lambda c: c.execute(query).all())
        }
        numbers = [number for number in held if number not in keep]
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
        own = self._worker_id
        busy = [w for w in self.workers() if w.alive and w.id != own]
        if busy:
            places = ", ".join(f"{w.host} (process {w.pid})" for w in busy)
            raise StorageError(
                f"study {self.name!r} is being worked on: {places}; stop these workers first"
            )
        self.close()
        from automl_prune.publishing import open_optuna

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

    def close(self) -> None:
        """Leave the list of workers and stop the pulse; the storage stays open."""
        if self._pulse is not None:
            self._pulse.stop()
            self._pulse = None
        if self._worker_id is not None:
            worker_id, self._worker_id = self._worker_id, None
            self.storage.leave(worker_id)

    def _enter(self) -> str:
        if self._worker_id is None:
            self._worker_id = self.storage.join(self.study_id, device=self.device)
        if self._pulse is None:
            self._pulse = Pulse(
                self.storage.database,
                study_id=self.study_id,
                worker_id=self._worker_id,
                lease_s=self.lease_s,
            )
        return self._worker_id

    def _let_go(self, assignment: Assignment) -> None:
        if self._pulse is not None:
            self._pulse.drop(assignment.token)

    def _finish(self, assignment: Assignment, row: Mapping[str, object]) -> bool:
        done = self.storage.database.write(
            lambda c: finish(c, self.study_id, assignment.number, assignment.token, row)
        )
        self._let_go(assignment)
        if done:
            self.publish(limit=PUBLISH_AT_ONCE)
        return done

    def _propose(self, number: int, worker_id: str) -> Proposed:
        if number < self.space.num_baselines:
            ratios, trade_off = self.space.baseline(number)
            return Proposed(
                kind="baseline",
                ratios=ratios,
                trade_off=trade_off,
                sampler_notes={},
                number=number,
            )
        if self._mirror is None:
            from automl_prune.sampling import Mirror

            self._mirror = Mirror(
                self.space, sampler=self.config.search.sampler, seed=self.config.seed
            )
        self._mirror.update(self.storage.database.read(self._history))
        salt = worker_id if self._others_ask else None
        params, notes = self._mirror.propose(number, salt=salt)
        ratios, trade_off = self.space.from_params(params)
        return Proposed(
            kind="search",
            ratios=ratios,
            trade_off=trade_off,
            sampler_notes=notes,
            number=None if self._others_ask else number,
        )

    def _history(self, connection: Connection) -> list[Seen]:
        """What finished since the last call, in that order, and what is open now."""
        from automl_prune.sampling import Seen

        together = (results.c.study_id == slots.c.study_id) & (results.c.number == slots.c.number)
        query = sa.select(
            slots.c.number,
            slots.c.ratios,
            slots.c.trade_off,
            slots.c.state,
            slots.c.sampler_notes,
            results.c.accuracy,
            results.c.macs,
            results.c.latency_ms,
            results.c.constraints,
            results.c.finish_order,
        ).where(slots.c.study_id == self.study_id)
        finished = connection.execute(
            query.join_from(slots, results, together)
            .where(results.c.finish_order > self._seen)
            .order_by(results.c.finish_order)
        ).all()
        still_open = connection.execute(
            query.join_from(slots, results, together, isouter=True)
            .where(slots.c.state.in_(OPEN))
            .order_by(slots.c.number)
        ).all()
        if finished:
            self._seen = finished[-1].finish_order
        return [
            Seen(
                number=row.number,
                state=row.state,
                params=self.space.to_params(json.loads(row.ratios), row.trade_off),
                values=self._objective_of_row(row) if row.state == "complete" else None,
                constraints=json.loads(row.constraints or "{}"),
                notes=json.loads(row.sampler_notes),
            )
            for row in [*finished, *still_open]
        ]

    def _objective_of_row(self, row: Row[tuple[object, ...]]) -> tuple[float, float]:
        second = row.macs if self.config.search.objective == "macs" else row.latency_ms
        return float(row.accuracy), float(second)

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


def _create(
    storage: StudyStorage, config: StudyConfig, facts: StudyFacts, artifact_dir: Path
) -> None:
    """Make the study in Optuna's tables and in ours; the caller holds the lock."""
    from automl_prune.publishing import create_optuna_study

    optuna_study_id = create_optuna_study(storage.database, config)
    storage.database.write(
        lambda connection: connection.execute(
            sa.insert(studies).values(
                name=config.name,
                optuna_study_id=optuna_study_id,
                config=config.to_json(),
                config_digest=config.digest(),
                facts=to_json(facts),
                artifact_dir=artifact_location(storage, artifact_dir),
                created_at=time.time(),
                num_slots=0,
                num_finished=0,
            )
        )
    )


def _assignment(slot: Slot) -> Assignment:
    fields = {field.name for field in dataclasses.fields(Assignment)}
    return Assignment(**{name: getattr(slot, name) for name in fields})


def _not_finite(assignment: Assignment, values: tuple[float, float]) -> FailureRecord:
    return FailureRecord(
        kind=assignment.kind,
        seed=assignment.seed,
        trade_off=assignment.trade_off,
        start_ratios=assignment.ratios,
        error=f"its objectives are no numbers: accuracy {values[0]:g}, cost {values[1]:g}",
        log="",
    )
