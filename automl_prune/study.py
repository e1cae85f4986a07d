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
import threading
import time
import uuid
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import sqlalchemy as sa

from automl_prune.early_stopping import RULES, is_hopeless
from automl_prune.errors import ConfigError, StudyMismatchError
from automl_prune.keeping import Freed, StudyKeeper
from automl_prune.reading import CURVES_FILE, OpenTrial, WorkerRow, artifact_location, find_study
from automl_prune.records import failure_of, to_json
from automl_prune.seeds import trial_seed
from automl_prune.space import Space, constraint_values, objective_values
from automl_prune.storage.artifacts import to_column
from automl_prune.storage.pulse import Pulse
from automl_prune.storage.rungs import finished_at_rung, note_rung
from automl_prune.storage.slots import (
    BudgetReached,
    Lease,
    NextNumber,
    Proposed,
    Slot,
    claim,
    claim_new,
    failure_row,
    finish,
    give_up,
    reap,
    release,
)
from automl_prune.storage.tables import studies

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from sqlalchemy.engine import Connection

    from automl_prune.carrying import Carrier
    from automl_prune.config import StudyConfig
    from automl_prune.early_stopping import Rung
    from automl_prune.proposals import Proposer
    from automl_prune.publishing import Publisher
    from automl_prune.records import (
        FailureRecord,
        Parent,
        StudyFacts,
        TrialCurves,
        TrialKind,
        TrialRecord,
    )
    from automl_prune.storage import StudyStorage
    from automl_prune.storage.tables import DataRow

__all__ = ["Assignment", "Freed", "OpenTrial", "StudyHandle", "WorkerRow"]

logger = logging.getLogger(__name__)

LEASE_S = 90.0
"""A worker that is silent for so long loses its trial to another one."""
PUBLISH_AT_ONCE = 8
"""Trials carried over to Optuna's tables under one lock, so that no worker does it all."""


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
    parent: Parent | None = None
    """The finished trial it starts from; None: the dense model."""
    attempt: int = 1
    """Larger than 1: the trial was begun before, and its checkpoint may be there."""

    @property
    def original_number(self) -> int:
        """Number of the trial that this one repeats: its own, for a repetition keeps it."""
        return self.number


class StudyHandle(StudyKeeper):
    """A stored study, to read and to search.

    One handle per process. The first :meth:`ask` enters the process as a worker and starts a
    thread that renews the leases of its trials; :meth:`close` ends both.
    """

    def __init__(self, storage: StudyStorage, row: DataRow) -> None:
        """Use :meth:`create_or_check` or :meth:`load` instead."""
        super().__init__(storage, row)
        self.lease_s = LEASE_S
        self.device = "cpu"
        """Shown in the list of workers; set before the first :meth:`ask`."""
        self.space = Space.of(self.config, self.facts)
        self._pulse: Pulse | None = None
        self._proposer: Proposer | None = None
        self._publisher: Publisher | None = None
        self._publishing = threading.Lock()
        self._carrier: Carrier | None = None
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
            salt = worker_id if self._others_ask else None
            proposed = self._get_proposer().propose(found.number, salt=salt)
            wanted = found.number
            found = database.write(partial(self._claim_new, target, lease, proposed))
            # Somebody was faster: what was proposed for the same number would be the same trial.
            self._others_ask |= isinstance(found, NextNumber) and found.number != wanted
        if isinstance(found, BudgetReached):
            self.publish()
            return None
        assert self._pulse is not None
        self._pulse.hold(found.token)
        self._carry_soon()
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
            error = f"its objectives are no numbers: accuracy {values[0]:g}, cost {values[1]:g}"
            return self.fail(assignment, failure_of(assignment, error))
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

    def give_up(self, assignment: Assignment, reason: str) -> bool:
        """Give back a trial whose process died; dying again and again ends it as failed.

        Args:
            assignment: as claimed.
            reason: how it died; its first line stands in the record if this was the last time.

        Returns:
            Whether it was still ours.
        """
        done = self.storage.database.write(
            lambda c: give_up(c, self.study_id, assignment.number, assignment.token, reason)
        )
        self._let_go(assignment)
        return done

    def set_target(self, target: int) -> None:
        """Say how many finished trials the study shall have, for workers that know its name."""
        self.storage.database.write(
            lambda c: c.execute(
                sa.update(studies).where(studies.c.id == self.study_id).values(target=target)
            )
        )

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

    @property
    def has_rungs(self) -> bool:
        """Whether trials are looked at on the way, to be stopped early."""
        search = self.config.search
        return search.early_stopping != "off" and search.objective == "macs"

    def is_hopeless(self, assignment: Assignment, rung: Rung) -> bool:
        """Note that a trial is at a rung; say whether to stop it there.

        Baselines are noted, and never stopped: they are the control.

        Raises:
            StorageError: the storage stayed away.
        """
        database = self.storage.database
        database.write(lambda c: note_rung(c, self.study_id, assignment.number, rung))
        if assignment.kind == "baseline":
            return False
        finished = database.read(lambda c: finished_at_rung(c, self.study_id, rung.number))
        return is_hopeless(rung, finished, RULES[self.config.search.early_stopping])

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
        with self._publishing:
            if self._publisher is None:
                from automl_prune.publishing import Publisher

                self._publisher = Publisher(
                    self.storage.database,
                    study_id=self.study_id,
                    optuna_study_id=self.optuna_study_id,
                    space=self.space,
                    config=self.config,
                )
            return self._publisher.publish(limit=limit, wait=limit is None)

    def delete(self) -> None:
        """Delete the study: its trials, here and in Optuna's tables, and its artifacts.

        Raises:
            StorageError: other workers are at work on it.
        """
        self._stop_carrying()  # a trial that is just being carried over would keep Optuna's study
        super().delete()
        self.close()

    def close(self) -> None:
        """Leave the list of workers and stop the pulse; the storage stays open."""
        self._stop_carrying()
        if self._pulse is not None:
            self._pulse.stop()
            self._pulse = None
        if self.worker_id is not None:
            worker_id, self.worker_id = self.worker_id, None
            self.storage.leave(worker_id)

    def _enter(self) -> str:
        if self.worker_id is None:
            self.worker_id = self.storage.join(self.study_id, device=self.device)
        if self._pulse is None:
            self._pulse = Pulse(
                self.storage.database,
                study_id=self.study_id,
                worker_id=self.worker_id,
                lease_s=self.lease_s,
            )
        return self.worker_id

    def _claim_new(
        self, target: int, lease: Lease, proposed: Proposed, connection: Connection
    ) -> Slot | BudgetReached | NextNumber:
        return claim_new(
            connection,
            self.study_id,
            target=target,
            lease=lease,
            proposed=proposed,
            seed_of=lambda number: trial_seed(self.config.seed, number),
        )

    def _get_proposer(self) -> Proposer:
        if self._proposer is None:
            from automl_prune.proposals import Proposer

            self._proposer = Proposer(
                self.storage.database,
                study_id=self.study_id,
                config=self.config,
                facts=self.facts,
                space=self.space,
            )
        return self._proposer

    def _let_go(self, assignment: Assignment) -> None:
        if self._pulse is not None:
            self._pulse.drop(assignment.token)

    def _finish(self, assignment: Assignment, row: Mapping[str, object]) -> bool:
        done = self.storage.database.write(
            lambda c: finish(c, self.study_id, assignment.number, assignment.token, row)
        )
        self._let_go(assignment)
        if done:
            self._carry_soon()
        return done

    def _stop_carrying(self) -> None:
        if self._carrier is not None:
            self._carrier.stop()
            self._carrier = None

    def _carry_soon(self) -> None:
        """Have what is pending carried over to Optuna's tables while the next trial computes."""
        if self._carrier is None:
            from automl_prune.carrying import Carrier

            self._carrier = Carrier(lambda: self.publish(limit=PUBLISH_AT_ONCE))
        self._carrier.wake()


def _create(
    storage: StudyStorage, config: StudyConfig, facts: StudyFacts, artifact_dir: Path
) -> None:
    """Make the study in Optuna's tables and in ours; the caller holds the lock."""
    from automl_prune.optuna_storage import create_optuna_study

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
