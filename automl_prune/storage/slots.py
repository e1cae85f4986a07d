"""Slots: every trial of a study has one, claimed atomically, held under a lease.

A slot is *running* under a lease (a token and a time), *waiting* to be repeated, or finished for
good (*complete*, *pruned*, *failed*). Only the holder of the token can finish it, so a worker that
was given up and comes back loses harmlessly. All functions run inside a transaction of the caller;
those that write are safe to repeat when their acknowledgement was lost.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

import sqlalchemy as sa

from automl_prune.manifest import WEIGHTS_FILE
from automl_prune.records import FailureRecord, Parent, from_json, to_json
from automl_prune.storage.database import now
from automl_prune.storage.process import known_dead
from automl_prune.storage.tables import results, slots, studies, workers

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

    from sqlalchemy.engine import Connection

    from automl_prune.records import TrialKind
    from automl_prune.storage.tables import DataRow

MAX_FRUITLESS = 5
"""A slot given up so many times in a row without progress ends as failed."""
SILENT = (
    "its worker died or fell silent without a word. That is often for want of memory: see the "
    "kernel log of its host"
)
OPEN = ("running", "waiting")


@dataclass(frozen=True, slots=True, kw_only=True)
class Slot:
    """One trial of a study, as claimed."""

    number: int
    kind: TrialKind
    ratios: dict[str, float]
    trade_off: float
    seed: int
    token: str
    attempt: int
    """1 for the first."""
    parent: Parent | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Proposed:
    """A trial that nobody has begun."""

    kind: TrialKind
    ratios: dict[str, float]
    trade_off: float
    sampler_notes: dict[str, object]
    number: int | None
    """The only number under which it may begin; None: any."""
    parent: Parent | None = None
    """What it starts from; None: the dense model."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Lease:
    """Who claims, and for how long."""

    worker_id: str
    token: str
    """Fresh for every claim; names the claim if its acknowledgement is lost."""
    seconds: float


class BudgetReached:
    """As many trials are finished or running as were asked for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NextNumber:
    """Nothing to repeat; a new trial would have this number."""

    number: int


def claim(
    connection: Connection, study_id: int, *, target: int, lease: Lease
) -> Slot | BudgetReached | NextNumber:
    """Take the first trial that has to be repeated, if the budget asks for one more.

    Slots that were given up too often are closed as failed on the way.

    Args:
        connection: in a writing transaction.
        study_id: our number of the study.
        target: finished trials that the study shall have.
        lease: under which the trial is taken.
    """
    num_slots, num_finished = _lock(connection, study_id)
    mine = _held(connection, study_id, lease.token)
    if mine is not None:  # the acknowledgement of an earlier try was lost
        return mine
    time_now = now(connection)
    alive, to_repeat = 0, []
    for row in _open_slots(connection, study_id):
        if row.state == "running" and not _is_stale(row, time_now):
            alive += 1
        else:
            to_repeat.append(row)
    for row in to_repeat:
        fruitless = _fruitless(row)
        if fruitless >= MAX_FRUITLESS:
            _close_as_failed(connection, study_id, row, num_finished, time_now, SILENT)
            num_finished += 1
            continue
        if num_finished + alive >= target:
            return BudgetReached()
        _take(connection, study_id, row, fruitless, lease, time_now)
        return _slot(row, token=lease.token, attempt=row.attempts + 1)
    if num_finished + alive >= target:
        return BudgetReached()
    return NextNumber(number=num_slots)


def claim_new(
    connection: Connection,
    study_id: int,
    *,
    target: int,
    lease: Lease,
    proposed: Proposed,
    seed_of: Callable[[int], int],
) -> Slot | BudgetReached | NextNumber:
    """Begin a new trial; whatever else :func:`claim` finds has precedence.

    Returns:
        The trial; or ``NextNumber``, where the proposal was made for another number, or its parent
        has been removed.
    """
    found = claim(connection, study_id, target=target, lease=lease)
    if not isinstance(found, NextNumber) or proposed.number not in (None, found.number):
        return found
    if proposed.parent is not None and not _has_model(connection, study_id, proposed.parent):
        return found
    number, time_now = found.number, now(connection)
    seed = seed_of(number)
    connection.execute(
        sa.insert(slots).values(
            study_id=study_id,
            number=number,
            kind=proposed.kind,
            state="running",
            ratios=json.dumps(proposed.ratios),
            trade_off=proposed.trade_off,
            parent=None if proposed.parent is None else to_json(proposed.parent),
            seed=seed,
            sampler_notes=json.dumps(proposed.sampler_notes),
            token=lease.token,
            worker_id=lease.worker_id,
            claimed_at=time_now,
            lease_until=time_now + lease.seconds,
            attempts=1,
        )
    )
    connection.execute(
        sa.update(studies).where(studies.c.id == study_id).values(num_slots=number + 1)
    )
    return Slot(
        number=number,
        kind=proposed.kind,
        ratios=proposed.ratios,
        trade_off=proposed.trade_off,
        seed=seed,
        token=lease.token,
        attempt=1,
        parent=proposed.parent,
    )


def finish(
    connection: Connection, study_id: int, number: int, token: str, row: Mapping[str, object]
) -> bool:
    """Store a trial's result, if its lease is still held.

    Args:
        connection: in a writing transaction.
        study_id: our number of the study.
        number: the trial.
        token: of the lease.
        row: columns of the results table; state decides how the slot is closed.

    Returns:
        Whether the result counts; False: the lease was lost, nothing was stored.
    """
    _, num_finished = _lock(connection, study_id)
    slot = connection.execute(
        sa.select(slots).where(slots.c.study_id == study_id, slots.c.number == number)
    ).one_or_none()
    if slot is None:
        return False
    if slot.token != token or slot.state != "running":
        written = connection.scalar(
            sa.select(results.c.token).where(
                results.c.study_id == study_id, results.c.number == number
            )
        )
        return written == token  # stored before; only the acknowledgement was lost
    time_now = now(connection)
    _close(connection, study_id, number, num_finished, time_now, {**row, "token": token})
    return True


def release(connection: Connection, study_id: int, number: int, token: str) -> bool:
    """Give a trial back: the next claim repeats it. False: the lease was lost."""
    done = connection.execute(
        sa.update(slots)
        .where(
            slots.c.study_id == study_id,
            slots.c.number == number,
            slots.c.token == token,
            slots.c.state == "running",
        )
        .values(state="waiting", token=None, lease_until=None, progress=None)
    )
    return done.rowcount == 1


def give_up(connection: Connection, study_id: int, number: int, token: str, reason: str) -> bool:
    """Give a trial back whose process died; it ends as failed if that happens again and again.

    Args:
        connection: in a writing transaction.
        study_id: our number of the study.
        number: the trial.
        token: of its lease.
        reason: how the process died; stands in the record if this was the last time.

    Returns:
        Whether the lease was still held.
    """
    _, num_finished = _lock(connection, study_id)
    row = connection.execute(
        sa.select(slots).where(
            slots.c.study_id == study_id,
            slots.c.number == number,
            slots.c.token == token,
            slots.c.state == "running",
        )
    ).one_or_none()
    if row is None:
        return False
    _send_back(connection, study_id, row, num_finished, now(connection), reason)
    return True


def renew(
    connection: Connection,
    study_id: int,
    *,
    worker_id: str,
    lease_s: float,
    progress: Mapping[str, tuple[str | None, float]],
) -> set[str]:
    """Beat: the worker is alive and goes on with its trials.

    Args:
        connection: in a writing transaction.
        study_id: our number of the study.
        worker_id: of the worker.
        lease_s: seconds that the leases hold from now on.
        progress: token of every held lease -> (JSON of where the trial is, fraction in its
            newest checkpoint).

    Returns:
        Tokens that are still valid; the other trials were given to somebody else.
    """
    time_now = now(connection)
    connection.execute(
        sa.update(workers).where(workers.c.id == worker_id).values(beat_at=time_now)
    )
    valid = set()
    for token, (text, saved) in progress.items():
        done = connection.execute(
            sa.update(slots)
            .where(
                slots.c.study_id == study_id,
                slots.c.token == token,
                slots.c.state == "running",
            )
            .values(
                lease_until=time_now + lease_s,
                progress=text,
                saved_fraction=sa.case(
                    (slots.c.saved_fraction > saved, slots.c.saved_fraction), else_=saved
                ),
            )
        )
        if done.rowcount:
            valid.add(token)
    return valid


def reap(connection: Connection, study_id: int) -> list[int]:
    """Make trials of dead or silent workers wait for a repetition.

    Returns:
        Their numbers.
    """
    _, num_finished = _lock(connection, study_id)
    time_now = now(connection)
    numbers = []
    for row in _open_slots(connection, study_id):
        if row.state != "running" or not _is_stale(row, time_now):
            continue
        waits = _send_back(connection, study_id, row, num_finished, time_now, SILENT)
        if waits:
            numbers.append(row.number)
        else:
            num_finished += 1
    return numbers


def stale_numbers(connection: Connection, study_id: int) -> set[int]:
    """Numbers of running trials whose worker is dead or silent."""
    time_now = now(connection)
    return {
        row.number
        for row in _open_slots(connection, study_id)
        if row.state == "running" and _is_stale(row, time_now)
    }


def _lock(connection: Connection, study_id: int) -> tuple[int, int]:
    """Hold the study's row until the end of the transaction: claims and results go one by one."""
    row = connection.execute(
        sa.select(studies.c.num_slots, studies.c.num_finished)
        .where(studies.c.id == study_id)
        .with_for_update()
    ).one()
    return row.num_slots, row.num_finished


def parents_of_open_trials(connection: Connection, study_id: int) -> set[int]:
    """Numbers of finished trials from which trials that are not finished start."""
    texts = connection.scalars(
        sa.select(slots.c.parent).where(
            slots.c.study_id == study_id, slots.c.state.in_(OPEN), slots.c.parent.is_not(None)
        )
    )
    return {from_json(Parent, text).number for text in texts}


def _has_model(connection: Connection, study_id: int, parent: Parent) -> bool:
    text = connection.scalar(
        sa.select(results.c.artifacts).where(
            results.c.study_id == study_id, results.c.number == parent.number
        )
    )
    return text is not None and WEIGHTS_FILE in json.loads(text)


def _held(connection: Connection, study_id: int, token: str) -> Slot | None:
    row = connection.execute(
        sa.select(slots).where(slots.c.study_id == study_id, slots.c.token == token)
    ).one_or_none()
    return None if row is None else _slot(row, token=token, attempt=row.attempts)


def _open_slots(connection: Connection, study_id: int) -> Collection[DataRow]:
    return connection.execute(
        sa.select(slots, workers.c.process, workers.c.left_at)
        .join(workers, workers.c.id == slots.c.worker_id, isouter=True)
        .where(slots.c.study_id == study_id, slots.c.state.in_(OPEN))
        .order_by(slots.c.number)
    ).all()


def _is_stale(row: DataRow, time_now: float) -> bool:
    if row.lease_until is None or row.lease_until < time_now:
        return True
    return row.process is not None and known_dead(row.process)


def _fruitless(row: DataRow) -> int:
    """How often in a row the slot was given up without progress, this time included."""
    if row.state != "running":  # given back in good order, or counted when it was reaped
        return int(row.fruitless)
    return 0 if row.saved_fraction > row.saved_at_claim else int(row.fruitless) + 1


def _take(
    connection: Connection,
    study_id: int,
    row: DataRow,
    fruitless: int,
    lease: Lease,
    time_now: float,
) -> None:
    connection.execute(
        sa.update(slots)
        .where(slots.c.study_id == study_id, slots.c.number == row.number)
        .values(
            state="running",
            token=lease.token,
            worker_id=lease.worker_id,
            claimed_at=time_now,
            lease_until=time_now + lease.seconds,
            attempts=slots.c.attempts + 1,
            fruitless=fruitless,
            saved_at_claim=slots.c.saved_fraction,
            progress=None,
        )
    )


def _send_back(
    connection: Connection,
    study_id: int,
    row: DataRow,
    num_finished: int,
    time_now: float,
    reason: str,
) -> bool:
    """Make a running trial wait for a repetition, or close it; returns whether it waits."""
    fruitless = _fruitless(row)
    if fruitless >= MAX_FRUITLESS:
        _close_as_failed(connection, study_id, row, num_finished, time_now, reason)
        return False
    connection.execute(
        sa.update(slots)
        .where(slots.c.study_id == study_id, slots.c.number == row.number)
        .values(state="waiting", token=None, lease_until=None, progress=None, fruitless=fruitless)
    )
    return True


def _close_as_failed(
    connection: Connection,
    study_id: int,
    row: DataRow,
    num_finished: int,
    time_now: float,
    reason: str,
) -> None:
    """End a trial that kills its workers again and again."""
    record = FailureRecord(
        kind=row.kind,
        seed=row.seed,
        trade_off=row.trade_off,
        start_ratios=json.loads(row.ratios),
        error=f"given up {MAX_FRUITLESS} times in a row without progress; the last time: "
        f"{reason.partition(chr(10))[0]}"[:500],
        log=f"{row.attempts} attempts; the newest checkpoint holds {row.saved_fraction:.0%} of "
        f"the trial.\n{reason}",
    )
    content = failure_row(record) | {"token": row.token or ""}
    _close(connection, study_id, row.number, num_finished, time_now, content)


def failure_row(record: FailureRecord) -> dict[str, object]:
    """Columns of the results table for a trial that failed for good."""
    return {
        "kind": record.kind,
        "state": "failed",
        "trade_off": record.trade_off,
        "feasible": False,
        "constraints": "{}",
        "error": record.error,
        "record": to_json(record),
        "artifacts": "{}",
    }


def _close(
    connection: Connection,
    study_id: int,
    number: int,
    num_finished: int,
    time_now: float,
    row: Mapping[str, object],
) -> None:
    connection.execute(
        sa.insert(results).values(
            study_id=study_id,
            number=number,
            finish_order=num_finished + 1,
            finished_at=time_now,
            **row,
        )
    )
    connection.execute(
        sa.update(slots)
        .where(slots.c.study_id == study_id, slots.c.number == number)
        .values(state=row["state"], token=None, lease_until=None, progress=None)
    )
    connection.execute(
        sa.update(studies).where(studies.c.id == study_id).values(num_finished=num_finished + 1)
    )


def _slot(row: DataRow, *, token: str, attempt: int) -> Slot:
    return Slot(
        number=row.number,
        kind=row.kind,
        ratios=json.loads(row.ratios),
        trade_off=row.trade_off,
        seed=row.seed,
        token=token,
        attempt=attempt,
        parent=None if row.parent is None else from_json(Parent, row.parent),
    )
