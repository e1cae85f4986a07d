"""Our tables to Optuna's: every trial appears there in the order of its number, exactly once.

What is true is written to our tables first, in one transaction per event. From there it is carried
over by whoever passes by: a worker after it has claimed or finished a trial, so that Optuna's
dashboard is never far behind. One process at a time does it, on the one connection that holds the
lock, so a publisher that was frozen and wakes up again cannot write a trial twice, and Optuna's
trial numbers are ours.
"""

from __future__ import annotations

import datetime
import fcntl
import json
import logging
from contextlib import contextmanager
from typing import TYPE_CHECKING

import sqlalchemy as sa
from optuna.exceptions import OptunaError, UpdateFinishedTrialError
from optuna.trial import TrialState, create_trial
from sqlalchemy import event
from sqlalchemy.exc import SQLAlchemyError

from automl_prune.errors import StorageError
from automl_prune.optuna_storage import open_optuna
from automl_prune.sampling import (
    CONSTRAINT_PREFIX,
    STATES,
    distributions,
)
from automl_prune.space import objectives_of_row
from automl_prune.storage.artifacts import from_column
from automl_prune.storage.database import lock_key
from automl_prune.storage.tables import results, slots
from automl_prune.storage.urls import shown, sqlite_file

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from optuna.storages import RDBStorage
    from optuna.trial import FrozenTrial
    from sqlalchemy.engine import Connection

    from automl_prune.config import StudyConfig
    from automl_prune.space import Space
    from automl_prune.storage.database import Database
    from automl_prune.storage.tables import DataRow

logger = logging.getLogger(__name__)

RUNNING, DONE = 1, 2
"""Stages of a slot in Optuna's tables; 0: not there yet."""
IDLE_LIMIT_MS = 60_000
"""PostgreSQL drops a publisher that holds the lock and does nothing for so long."""
ERROR_CHARACTERS = 500


class LockLostError(Exception):
    """The connection that held the publishing lock is gone; everything is looked at again."""


class Publisher:
    """Carries one study from our tables to Optuna's."""

    def __init__(
        self,
        database: Database,
        *,
        study_id: int,
        optuna_study_id: int,
        space: Space,
        config: StudyConfig,
    ) -> None:
        """Connect to nothing yet.

        Args:
            database: of our tables.
            study_id: ours.
            optuna_study_id: Optuna's.
            space: of the study.
            config: of the study.
        """
        self._database = database
        self._study_id = study_id
        self._optuna_study_id = optuna_study_id
        self._space = space
        self._distributions = distributions(space)
        self._config = config

    def publish(self, *, limit: int | None = None, wait: bool = False) -> int:
        """Carry over what is pending.

        Args:
            limit: at most so many trials; None: all.
            wait: for a publisher that is at it now; else leave it to that one.

        Returns:
            How many trials were carried over.

        Raises:
            StorageError: somebody else wrote trials into the Optuna study, or deleted it. A
                database that is away is no error here: the next call does it.
        """
        try:
            with self._locked(wait=wait) as storage:
                return 0 if storage is None else self._carry(storage, limit)
        except (SQLAlchemyError, OptunaError, LockLostError, OSError) as error:
            logger.info("publishing to Optuna is put off: %s", type(error).__name__)
            return 0

    def pending(self) -> int:
        """How many trials differ from their copy in Optuna's tables."""
        condition = _pending(self._study_id)
        return self._database.read(
            lambda c: int(c.scalar(sa.select(sa.func.count()).where(condition)) or 0)
        )

    def _carry(self, storage: RDBStorage, limit: int | None) -> int:
        rows = self._database.read(lambda connection: self._pending_rows(connection, limit))
        if not rows:
            return 0
        try:
            for row in rows:
                self._carry_one(storage, row)
        except KeyError:
            raise self._disturbed("it is gone: somebody deleted it there") from None
        return len(rows)

    def _carry_one(self, storage: RDBStorage, row: DataRow) -> None:
        done = row.state in STATES
        if row.optuna_stage < RUNNING and not self._is_there(storage, row.number):
            if row.number > 0 and not self._is_there(storage, row.number - 1):
                raise self._disturbed(f"trial {row.number - 1} is missing there")
            number = self._create(storage, row)
            if number != row.number:
                raise self._disturbed(f"trial {row.number} became number {number} there")
        else:
            if row.optuna_stage < RUNNING:  # its creator died, or lost the acknowledgement
                self._recognise(storage, row)
            if done:
                self._finish(storage, row)
        self._note_stage(row.number, DONE if done else RUNNING)

    def _is_there(self, storage: RDBStorage, number: int) -> bool:
        """One row is looked up: the number of trials would have Optuna read them all."""
        try:
            storage.get_trial_id_from_study_id_trial_number(self._optuna_study_id, number)
        except KeyError:
            return False
        return True

    def _pending_rows(self, connection: Connection, limit: int | None) -> Sequence[DataRow]:
        query = (
            sa.select(
                slots.c.number,
                slots.c.kind,
                slots.c.state,
                slots.c.ratios,
                slots.c.trade_off,
                slots.c.seed,
                slots.c.parent,
                slots.c.claimed_at,
                slots.c.optuna_stage,
                results.c.finished_at,
                results.c.accuracy,
                results.c.macs,
                results.c.params,
                results.c.latency_ms,
                results.c.constraints,
                results.c.error,
                results.c.artifacts,
            )
            .select_from(slots)
            .join(
                results,
                (results.c.study_id == slots.c.study_id) & (results.c.number == slots.c.number),
                isouter=True,
            )
            .where(_pending(self._study_id))
            .order_by(slots.c.number)
        )
        return connection.execute(query if limit is None else query.limit(limit)).all()

    def _create(self, storage: RDBStorage, row: DataRow) -> int:
        trial_id = storage.create_new_trial(self._optuna_study_id, self._template(row))
        return storage.get_trial_number_from_id(trial_id)

    def _template(self, row: DataRow) -> FrozenTrial:
        """The trial as it is now, so that one transaction writes it whole."""
        state = STATES.get(row.state, TrialState.RUNNING)
        trial = create_trial(
            state=state,
            values=list(objectives_of_row(self._config, row))
            if state == TrialState.COMPLETE
            else None,
            params=self._space.to_params(json.loads(row.ratios), row.trade_off),
            distributions=self._distributions,
            user_attrs={"kind": row.kind, "seed": str(row.seed), **_user_attrs(row)},
            system_attrs=_system_attrs(row),
        )
        trial.datetime_start = _local_time(row.claimed_at)
        trial.datetime_complete = _local_time(row.finished_at)
        return trial

    def _finish(self, storage: RDBStorage, row: DataRow) -> None:
        """End a trial that stands there as running; the constraints are written only now."""
        state = STATES[row.state]
        trial_id = storage.get_trial_id_from_study_id_trial_number(
            self._optuna_study_id, row.number
        )
        try:
            for key, value in _user_attrs(row).items():
                storage.set_trial_user_attr(trial_id, key, value)
            for key, text in _system_attrs(row).items():
                storage.set_trial_system_attr(trial_id, key, text)
            values = objectives_of_row(self._config, row) if state == TrialState.COMPLETE else None
            storage.set_trial_state_values(trial_id, state, values)
        except UpdateFinishedTrialError:
            logger.info("trial %d was ended in Optuna's tables before", row.number)

    def _recognise(self, storage: RDBStorage, row: DataRow) -> None:
        trial_id = storage.get_trial_id_from_study_id_trial_number(
            self._optuna_study_id, row.number
        )
        if storage.get_trial_user_attrs(trial_id).get("seed") != str(row.seed):
            raise self._disturbed(f"trial {row.number} there was written by somebody else")

    def _note_stage(self, number: int, stage: int) -> None:
        self._database.write(
            lambda connection: connection.execute(
                sa.update(slots)
                .where(
                    slots.c.study_id == self._study_id,
                    slots.c.number == number,
                    slots.c.optuna_stage < stage,
                )
                .values(optuna_stage=stage)
            )
        )

    def _disturbed(self, what: str) -> StorageError:
        return StorageError(
            f"the Optuna study {self._optuna_study_id} in {shown(self._database.url)} is not as "
            f"automl-prune left it: {what}. The results are safe (see `automl-prune pareto`), "
            "but Optuna's dashboard cannot show them any more; go on under another study name"
        )

    @contextmanager
    def _locked(self, *, wait: bool) -> Iterator[RDBStorage | None]:
        if sqlite_file(self._database.url) is not None:
            with _locked_file(self._database, wait=wait) as storage:
                yield storage
        else:
            key = f"publish/{self._study_id}"
            with _locked_connection(self._database, lock_key(key), wait=wait) as storage:
                yield storage


@contextmanager
def _locked_file(database: Database, *, wait: bool) -> Iterator[RDBStorage | None]:
    file = sqlite_file(database.url)
    assert file is not None
    with file.with_name(f".{file.name}.publish").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield None
            return
        storage = open_optuna(database)
        try:
            yield storage
        finally:
            storage.engine.dispose()


@contextmanager
def _locked_connection(database: Database, key: int, *, wait: bool) -> Iterator[RDBStorage | None]:
    """A lock that belongs to the very connection that Optuna writes on: no lock, no write."""
    storage = open_optuna(database)
    holder: list[object] = []

    def check_out(connection: object, _record: object, _proxy: object) -> None:
        if holder and holder[0] is not connection:
            raise LockLostError
        if not holder:
            holder.append(connection)

    event.listen(storage.engine, "checkout", check_out)
    try:
        with storage.engine.connect().execution_options(
            isolation_level="AUTOCOMMIT"
        ) as connection:
            connection.execute(sa.text(f"SET idle_session_timeout = {IDLE_LIMIT_MS}"))
            if wait:
                connection.execute(sa.text("SET lock_timeout = '120s'"))
                connection.execute(sa.text("SELECT pg_advisory_lock(:key)"), {"key": key})
                got = True
            else:
                lock = sa.text("SELECT pg_try_advisory_lock(:key)")
                got = bool(connection.scalar(lock, {"key": key}))
        yield storage if got else None
    finally:
        storage.engine.dispose()  # closing the connection lets go of the lock


def _pending(study_id: int) -> sa.ColumnElement[bool]:
    finished = slots.c.state.in_(tuple(STATES))
    return (slots.c.study_id == study_id) & (
        ((slots.c.optuna_stage < DONE) & finished) | (slots.c.optuna_stage < RUNNING)
    )


def _user_attrs(row: DataRow) -> dict[str, object]:
    attrs: dict[str, object] = {}
    if row.parent is not None:
        attrs["parent"] = json.loads(row.parent)["number"]
    if row.error:
        attrs["error"] = row.error[:ERROR_CHARACTERS]
    if row.params is not None:
        attrs["params"] = row.params
    return attrs


def _system_attrs(row: DataRow) -> dict[str, float | str]:
    if row.constraints is None:
        return {}
    attrs: dict[str, float | str] = {
        CONSTRAINT_PREFIX + name: value for name, value in json.loads(row.constraints).items()
    }
    for artifact in from_column(row.artifacts).values():
        key, text = artifact.optuna_attribute()
        attrs[key] = text
    return attrs


def _local_time(seconds: float | None) -> datetime.datetime | None:
    """Optuna keeps local times without a zone."""
    return None if seconds is None else datetime.datetime.fromtimestamp(seconds)
