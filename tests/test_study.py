import dataclasses
import math
import multiprocessing
import os
import signal

import pytest
import sqlalchemy as sa
from made_up_trials import CURVES, finish_one, made_up_config, made_up_facts, made_up_record
from made_up_trials import model_files as files_in

from automl_prune.config import StudyConfig
from automl_prune.early_stopping import RULES, Rung
from automl_prune.errors import ConfigError, EnvironmentProblemError, StudyMismatchError
from automl_prune.records import FailureRecord
from automl_prune.seeds import trial_seed
from automl_prune.storage import open_storage
from automl_prune.storage.tables import slots
from automl_prune.study import StudyHandle

FAILURE = FailureRecord(
    kind="search", seed=1, trade_off=0.5, start_ratios={}, error="boom", log="log"
)


@pytest.fixture
def storage(storage_url):
    storage = open_storage(storage_url)
    yield storage
    storage.close()


@pytest.fixture
def begin(storage, tmp_path):
    """Make (or take up) a study; every handle is closed in the end."""
    handles = []

    def make(name="made-up", **tables):
        handle = StudyHandle.create_or_check(
            storage, made_up_config(name, **tables), made_up_facts(), tmp_path / "artifacts"
        )
        handles.append(handle)
        return handle

    yield make
    for handle in handles:
        handle.close()


def expire(handle):
    change = sa.update(slots).where(slots.c.state == "running").values(lease_until=1.0)
    handle.storage.database.write(lambda c: c.execute(change))


def test_a_stored_study_is_read_as_it_was_written(begin, storage):
    handle = begin()
    found = StudyHandle.load(storage, "made-up")
    assert found.config == handle.config == made_up_config()
    assert found.facts == made_up_facts()
    assert found.artifact_dir == handle.artifact_dir


def test_asking_for_more_trials_is_no_other_study(begin):
    begin()
    assert begin(search={"trials": 99}).name == "made-up"


def test_another_config_under_the_same_name_is_refused_with_the_difference(begin):
    begin()
    with pytest.raises(StudyMismatchError, match=r"inner\.steps: 300 -> 7"):
        begin(inner={"steps": 7})


def test_latency_as_objective_has_to_be_measured(begin):
    with pytest.raises(ConfigError, match="measure_latency"):
        begin(search={"objective": "latency"}, compute={"measure_latency": False})


def test_seeds_are_those_of_the_trial_numbers(begin, tmp_path):
    handle = begin()
    found = [finish_one(handle, 5, tmp_path / "m") for _ in range(5)]
    assert [a.seed for a in found] == [trial_seed(5, number) for number in range(5)]
    assert [a.kind for a in found] == ["baseline"] * 3 + ["search"] * 2
    assert all(a.original_number == a.number for a in found)


def test_a_study_ends_after_the_asked_number_and_goes_on_when_asked_for_more(begin, tmp_path):
    handle = begin()
    while finish_one(handle, 4, tmp_path / "m"):
        pass
    assert handle.finished_count() == 4
    assert finish_one(handle, 4, tmp_path / "m") is None
    assert finish_one(handle, 5, tmp_path / "m").number == 4


def test_failed_and_stopped_trials_count_as_finished(begin, tmp_path):
    handle = begin()
    assert handle.fail(handle.ask(3), FAILURE)
    finish_one(handle, 3, tmp_path / "m", state="pruned")
    finish_one(handle, 3, tmp_path / "m")
    assert handle.ask(3) is None
    assert [row.state for row in handle.rows()] == ["failed", "pruned", "complete"]


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_an_accuracy_that_is_no_number_is_a_failure(begin, tmp_path, value):
    handle = begin()
    finish_one(handle, 1, tmp_path / "m", accuracy=value)
    (row,) = handle.rows()
    assert row.state == "failed"
    assert "objectives are no numbers" in row.error


def test_handing_in_twice_counts_once(begin, tmp_path):
    handle = begin()
    assignment = handle.ask(2)
    record = made_up_record(assignment)
    for _ in range(2):
        assert handle.complete(assignment, record, CURVES, files_in(tmp_path / "m"))
    assert handle.finished_count() == 1
    assert len(list(handle.artifact_dir.iterdir())) == 3
    assert handle.curves(0) == CURVES


def test_a_late_result_is_harmless_and_leaves_no_files(begin, tmp_path):
    slow, quick = begin(), begin()
    late = slow.ask(1)
    expire(slow)
    again = quick.ask(1)
    assert dataclasses.replace(again, token=late.token, attempt=1) == late
    assert again.attempt == 2
    record = made_up_record(again)
    assert quick.complete(again, record, CURVES, files_in(tmp_path / "m"))
    lost = made_up_record(late, accuracy=1.0)
    assert not slow.complete(late, lost, CURVES, files_in(tmp_path / "m"))
    assert not slow.fail(late, FAILURE)
    assert not slow.release(late)
    assert [row.accuracy for row in quick.rows()] == [record.accuracy]
    assert len(list(quick.artifact_dir.iterdir())) == 3


def test_a_trial_given_back_is_repeated_by_anybody(begin):
    one, other = begin(), begin()
    assignment = one.ask(3)
    assert one.release(assignment)
    again = other.ask(3)
    assert (again.number, again.ratios, again.trade_off, again.seed) == (
        assignment.number,
        assignment.ratios,
        assignment.trade_off,
        assignment.seed,
    )


def test_a_full_disk_stores_nothing_and_the_trial_can_be_handed_in_later(begin, tmp_path):
    handle = begin()
    assignment = handle.ask(1)
    (tmp_path / "artifacts").write_text("in the way")
    with pytest.raises(EnvironmentProblemError, match="could not be written"):
        handle.complete(assignment, made_up_record(assignment), CURVES, files_in(tmp_path / "m"))
    assert handle.finished_count() == 0
    (tmp_path / "artifacts").unlink()
    record = made_up_record(assignment)
    assert handle.complete(assignment, record, CURVES, files_in(tmp_path / "m"))


def test_limits_make_trials_infeasible(begin, tmp_path):
    handle = begin(search={"limits": {"min_accuracy": 90.0}})
    for accuracy in (89.9, 90.0, 90.1):
        finish_one(handle, 3, tmp_path / "m", accuracy=accuracy)
    assert [row.feasible for row in handle.rows()] == [False, True, True]


def asked(begin, name, count, folder, *, interruptions=()):
    """Assignments of a study run by one worker that is interrupted at some trials."""
    handle, found = begin(name), []
    while len(found) < count:
        if len(found) in interruptions:
            handle.ask(count)
            handle.close()
            expire(handle)
            handle = begin(name)
        assignment = finish_one(handle, count, folder)
        found.append((assignment.ratios, assignment.trade_off, assignment.seed))
    return found


def test_one_worker_repeats_a_study_bit_for_bit_interrupted_or_not(begin, tmp_path):
    whole = asked(begin, "one", 16, tmp_path / "m")
    assert asked(begin, "two", 16, tmp_path / "m") == whole
    cut = asked(begin, "three", 16, tmp_path / "m", interruptions=(1, 8, 13))
    assert cut == whole


def test_a_repetition_continues_from_the_config_stored_in_the_database(begin, storage):
    begin()
    text = StudyHandle.load(storage, "made-up").config.to_json()
    assert StudyConfig.from_json(text).digest() == made_up_config().digest()


def claim_and_die(url, ready):
    handle = StudyHandle.load(open_storage(url), "made-up")
    handle.ask(4)
    ready.set()
    signal.pause()


def test_the_trial_of_a_killed_process_is_repeated_at_once(begin, storage_url):
    """No need to wait for the lease: the host knows that its process is gone."""
    handle = begin()
    context = multiprocessing.get_context("spawn")
    ready = context.Event()
    process = context.Process(target=claim_and_die, args=(storage_url, ready))
    process.start()
    assert ready.wait(60)
    assert handle.ask(4).number == 1, "it is alive, so its trial is its own"
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    again = handle.ask(4)
    assert (again.number, again.attempt) == (0, 2)


def test_workers_learn_the_target_from_the_storage(begin, storage):
    handle = begin(search={"trials": 12})
    assert handle.target() == 12
    handle.set_target(30)
    assert StudyHandle.load(storage, "made-up").target() == 30


def test_reaping_frees_the_trials_of_the_dead(begin):
    handle = begin()
    handle.ask(4)
    assert handle.reap() == []
    expire(handle)
    assert handle.reap() == [0]


def work(url, target, folder, barrier):
    storage = open_storage(url)
    handle = StudyHandle.load(storage, "made-up")
    barrier.wait()
    for turn in range(10_000):
        assignment = handle.ask(target)
        if assignment is None:
            break
        if turn % 5 == 3:
            handle.release(assignment)
        else:
            handle.complete(assignment, made_up_record(assignment), CURVES, files_in(folder))
    handle.close()
    storage.close()


def test_eight_processes_finish_exactly_what_was_asked_for(begin, storage_url, tmp_path):
    target, count = 40, 8 if storage_url.startswith("postgres") else 3
    handle = begin(search={"sampler": "random"})
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(count)
    processes = [
        context.Process(target=work, args=(storage_url, target, tmp_path / f"m{i}", barrier))
        for i in range(count)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * count
    while finish_one(handle, target, tmp_path / "m"):  # what was given back by the last one
        pass
    rows = handle.rows()
    assert [row.number for row in rows] == list(range(target))
    assert sorted(row.finish_order for row in rows) == list(range(1, target + 1))
    assert handle.open_trials() == []
    assert handle.finished_count() == target
    starts = {tuple(sorted(r.start_ratios.items())) for r in handle.records().values()}
    assert len(starts) == target, "no two workers proposed the same"
    for number in range(target):
        assert handle.artifact(number, "manifest.json") == b"bytes of manifest.json"


def at_rung(handle, assignment, accuracy, macs=500):
    return handle.is_hopeless(assignment, Rung(number=1, step=5, accuracy=accuracy, macs=macs))


def test_a_trial_is_stopped_once_enough_finished_ones_are_clearly_ahead(begin, tmp_path):
    handle = begin(search={"trials": 12, "baselines": 1, "early_stopping": "cautious"})
    rule = RULES["cautious"]
    baseline = handle.ask(12)
    assert not at_rung(handle, baseline, 90.0)
    record = made_up_record(baseline)
    assert handle.complete(baseline, record, CURVES, files_in(tmp_path / "m"))
    for _ in range(rule.dominators - 1):
        assignment = handle.ask(12)
        assert not at_rung(handle, assignment, 0.0), "not enough are ahead"
        at_rung(handle, assignment, 90.0)
        files = files_in(tmp_path / "m")
        assert handle.complete(assignment, made_up_record(assignment), CURVES, files)
    last = handle.ask(12)
    assert not at_rung(handle, last, 90.0 - rule.margin + 0.1)
    assert not at_rung(handle, last, 90.0 - rule.margin, macs=499), "none has as few MACs"
    assert at_rung(handle, last, 90.0 - rule.margin)


def test_baselines_are_never_stopped(begin, tmp_path):
    handle = begin(search={"trials": 12, "baselines": 6, "early_stopping": "keen"})
    for _ in range(5):
        assignment = handle.ask(12)
        assert not at_rung(handle, assignment, 90.0)
        files = files_in(tmp_path / "m")
        assert handle.complete(assignment, made_up_record(assignment), CURVES, files)
    assert not at_rung(handle, handle.ask(12), 0.0)


def test_rungs_are_looked_at_where_macs_are_the_objective(begin):
    keen = {"early_stopping": "keen"}
    assert begin("a", search=keen).has_rungs
    assert not begin("b").has_rungs
    assert not begin("c", search={**keen, "objective": "latency"}).has_rungs


def test_the_sampler_learns_from_a_stopped_trial(begin, tmp_path):
    proposals = []
    for name, state in (("a", "complete"), ("b", "pruned")):
        handle = begin(name, search={"sampler": "tpe", "inherit": False})
        for _ in range(12):
            finish_one(handle, 13, tmp_path / "m", state=state)
        proposals.append(handle.ask(13).ratios)
    assert proposals[0] == proposals[1]
