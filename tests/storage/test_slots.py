import json
import uuid

import pytest
import sqlalchemy as sa

from automl_prune.records import FailureRecord, from_json
from automl_prune.storage import slots as rooms
from automl_prune.storage.database import now
from automl_prune.storage.slots import (
    MAX_FRUITLESS,
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
    renew,
    stale_numbers,
)
from automl_prune.storage.tables import results, slots, studies

STUDY = 1
RESULT = failure_row(
    FailureRecord(kind="search", seed=1, trade_off=0.5, start_ratios={}, error="e", log="")
) | {"state": "complete", "accuracy": 90.0, "macs": 5}


@pytest.fixture
def study(database):
    database.write(
        lambda c: c.execute(
            sa.insert(studies).values(
                id=STUDY,
                name="s",
                optuna_study_id=1,
                config="{}",
                config_digest="d",
                facts="{}",
                artifact_dir="a",
                created_at=0.0,
                num_slots=0,
                num_finished=0,
            )
        )
    )
    return database


def lease(seconds=60.0):
    return Lease(worker_id="w", token=uuid.uuid4().hex, seconds=seconds)


def take(database, target, held=None):
    """Claim, with a proposal where one is needed."""
    held = held or lease()
    found = database.write(lambda c: claim(c, STUDY, target=target, lease=held))
    if not isinstance(found, NextNumber):
        return found
    proposed = Proposed(
        kind="search", ratios={"a": 0.5}, trade_off=0.5, sampler_notes={}, number=found.number
    )
    return database.write(
        lambda c: claim_new(
            c, STUDY, target=target, lease=held, proposed=proposed, seed_of=lambda n: 100 + n
        )
    )


def end(database, slot, row=RESULT):
    return database.write(lambda c: finish(c, STUDY, slot.number, slot.token, row))


def expire(database, number):
    database.write(
        lambda c: c.execute(
            sa.update(slots).where(slots.c.number == number).values(lease_until=1.0)
        )
    )


def test_numbers_and_seeds_follow_each_other(study):
    found = [take(study, 3) for _ in range(3)]
    assert [(s.number, s.seed, s.attempt) for s in found] == [
        (0, 100, 1),
        (1, 101, 1),
        (2, 102, 1),
    ]
    assert len({s.token for s in found}) == 3


def test_the_budget_counts_finished_and_running(study):
    first, second = take(study, 2), take(study, 2)
    assert isinstance(take(study, 2), BudgetReached)
    assert end(study, first)
    assert isinstance(take(study, 2), BudgetReached)
    assert end(study, second)
    assert isinstance(take(study, 2), BudgetReached)
    assert take(study, 3).number == 2


def test_a_claim_whose_acknowledgement_was_lost_is_found_again(study):
    held = lease()
    first = take(study, 5, held)
    assert take(study, 5, held) == first
    assert study.read(lambda c: c.scalar(sa.select(studies.c.num_slots))) == 1


def test_a_result_whose_acknowledgement_was_lost_counts_once(study):
    slot = take(study, 1)
    assert end(study, slot)
    assert end(study, slot)
    assert study.read(lambda c: c.scalar(sa.select(studies.c.num_finished))) == 1
    assert study.read(lambda c: c.scalar(sa.select(sa.func.count()).select_from(results))) == 1


def test_a_trial_given_back_comes_first_with_number_and_seed(study):
    first, _ = take(study, 5), take(study, 5)
    assert study.write(lambda c: release(c, STUDY, first.number, first.token))
    again = take(study, 5)
    assert (again.number, again.seed, again.ratios) == (0, 100, {"a": 0.5})
    assert again.attempt == 2
    assert again.token != first.token
    assert not study.write(lambda c: release(c, STUDY, first.number, first.token))


def test_a_silent_workers_trial_is_repeated_and_its_late_result_is_harmless(study):
    first = take(study, 2)
    expire(study, 0)
    assert study.read(lambda c: stale_numbers(c, STUDY)) == {0}
    again = take(study, 2)
    assert (again.number, again.attempt) == (0, 2)
    assert not end(study, first), "the lease is somebody else's"
    assert study.read(lambda c: c.scalar(sa.select(studies.c.num_finished))) == 0
    assert end(study, again)
    assert not end(study, first)
    assert take(study, 2).number == 1


def test_a_lease_that_ran_out_but_was_not_taken_still_counts(study):
    slot = take(study, 1)
    expire(study, 0)
    assert end(study, slot)


def test_a_stale_trial_never_makes_room_for_another_number(study):
    for _ in range(3):
        take(study, 3)
    expire(study, 1)
    assert take(study, 3).number == 1
    assert isinstance(take(study, 3), BudgetReached)


def test_a_smaller_target_leaves_trials_waiting(study):
    first, second = take(study, 2), take(study, 2)
    assert end(study, first)
    assert study.write(lambda c: release(c, STUDY, second.number, second.token))
    assert isinstance(take(study, 1), BudgetReached)
    assert take(study, 2).number == 1


def test_a_proposal_for_another_number_is_refused_and_one_for_any_is_taken(study):
    take(study, 9)
    for number, kind in ((0, NextNumber), (None, Slot)):
        proposed = Proposed(
            kind="search", ratios={}, trade_off=0.5, sampler_notes={}, number=number
        )
        found = study.write(
            lambda c, p=proposed: claim_new(
                c, STUDY, target=9, lease=lease(), proposed=p, seed_of=lambda n: n
            )
        )
        assert isinstance(found, kind)
        assert found.number == 1


def test_renewing_tells_which_leases_are_lost(study):
    mine, lost = take(study, 5), take(study, 5)
    expire(study, lost.number)
    take(study, 5)
    valid = study.write(
        lambda c: renew(
            c,
            STUDY,
            worker_id="w",
            lease_s=500.0,
            progress={mine.token: (json.dumps({"step": 3}), 0.25), lost.token: (None, 0.0)},
        )
    )
    assert valid == {mine.token}
    row = study.read(
        lambda c: c.execute(sa.select(slots, slots.c.number).where(slots.c.number == 0)).one()
    )
    assert json.loads(row.progress) == {"step": 3}
    assert row.saved_fraction == 0.25
    assert row.lease_until > study.read(now) + 400


def test_progress_that_was_saved_never_shrinks(study):
    mine = take(study, 5)
    for saved in (0.5, 0.25):
        study.write(
            lambda c, s=saved: renew(
                c, STUDY, worker_id="w", lease_s=9.0, progress={mine.token: (None, s)}
            )
        )
    assert study.read(lambda c: c.scalar(sa.select(slots.c.saved_fraction))) == 0.5


def test_a_trial_that_kills_its_workers_ends_as_failed_with_the_reason(study):
    for attempt in range(1, MAX_FRUITLESS + 1):
        assert take(study, 2).attempt == attempt
        expire(study, 0)
    nxt = take(study, 2)
    assert nxt.number == 1
    row = study.read(lambda c: c.execute(sa.select(results)).one())
    assert (row.number, row.state, row.finish_order) == (0, "failed", 1)
    record = from_json(FailureRecord, row.record)
    assert f"{MAX_FRUITLESS} times in a row without progress" in record.error
    assert record.seed == 100
    assert isinstance(take(study, 2), BudgetReached)


def test_progress_between_deaths_starts_the_count_again(study):
    for attempt in range(1, 3 * MAX_FRUITLESS):
        slot = take(study, 1)
        assert slot.attempt == attempt
        study.write(
            lambda c, s=slot, a=attempt: renew(
                c, STUDY, worker_id="w", lease_s=9.0, progress={s.token: (None, a / 100)}
            )
        )
        expire(study, 0)
    assert isinstance(take(study, 1), Slot)


def test_being_given_back_in_good_order_never_counts(study):
    for _ in range(2 * MAX_FRUITLESS):
        slot = take(study, 1)
        assert study.write(lambda c, s=slot: release(c, STUDY, s.number, s.token))
    assert isinstance(take(study, 1), Slot)


def test_reaping_makes_stale_trials_wait_and_counts_them_once(study):
    slot = take(study, 5)
    take(study, 5)
    expire(study, 0)
    assert study.write(lambda c: reap(c, STUDY)) == [0]
    assert study.write(lambda c: reap(c, STUDY)) == []
    assert study.read(lambda c: c.scalar(sa.select(sa.func.max(slots.c.fruitless)))) == 1
    assert not end(study, slot)
    assert take(study, 5).number == 0
    assert study.read(lambda c: c.scalar(sa.select(sa.func.max(slots.c.fruitless)))) == 1


def test_reaping_closes_what_kills_its_workers(study):
    for _ in range(MAX_FRUITLESS):
        take(study, 1)
        expire(study, 0)
        study.write(lambda c: reap(c, STUDY))
    assert study.read(lambda c: c.scalar(sa.select(results.c.state))) == "failed"
    assert study.read(lambda c: c.scalar(sa.select(studies.c.num_finished))) == 1


def test_the_order_of_finishing_has_no_gaps(study):
    found = [take(study, 4) for _ in range(4)]
    for slot in (found[2], found[0], found[3], found[1]):
        assert end(study, slot)
    rows = study.read(
        lambda c: (
            c.execute(sa.select(results.c.number).order_by(results.c.finish_order)).scalars().all()
        )
    )
    assert rows == [2, 0, 3, 1]


def test_finishing_what_is_not_there_is_refused(study):
    assert not study.write(lambda c: finish(c, STUDY, 7, "t", RESULT))
    assert rooms.OPEN == ("running", "waiting")
