import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
import sqlalchemy as sa
from made_up_trials import (
    CURVES,
    finish_one,
    made_up_config,
    made_up_facts,
    made_up_latency,
    made_up_record,
)

from automl_prune.errors import EnvironmentProblemError, StudyNotFoundError
from automl_prune.reading import artifact_location, find_study
from automl_prune.records import FailureRecord, GroupRow, to_json
from automl_prune.storage import open_storage
from automl_prune.storage.tables import results, workers
from automl_prune.study import Assignment, StudyHandle

FAILURE = FailureRecord(
    kind="search", seed=1, trade_off=0.5, start_ratios={"l0": 0.5}, error="boom", log="a\nb"
)


@pytest.fixture
def handle(storage_url, tmp_path):
    storage = open_storage(storage_url)
    handle = StudyHandle.create_or_check(
        storage, made_up_config(), made_up_facts(), tmp_path / "artifacts"
    )
    yield handle
    handle.close()
    storage.close()


@pytest.mark.parametrize(("objective", "front"), [("macs", [0, 1]), ("latency", [1])])
def test_the_front_is_that_of_the_objective(tmp_path, objective, front):
    storage = open_storage(f"sqlite:///{tmp_path / 'study.db'}")
    config = made_up_config(search={"objective": objective, "baselines": 0})
    handle = StudyHandle.create_or_check(storage, config, made_up_facts(), tmp_path / "artifacts")
    for accuracy, macs, milliseconds in ((80.0, 100_000, 3.0), (90.0, 200_000, 2.0)):
        latency = made_up_latency(milliseconds)
        finish_one(handle, 2, tmp_path / "m", accuracy=accuracy, macs=macs, latency=latency)
    assert [row.number for row in handle.front(handle.rows())] == front
    handle.close()
    storage.close()


def test_a_row_says_what_its_record_says(handle, tmp_path):
    assignment = finish_one(handle, 1, tmp_path / "m", latency=made_up_latency(2.5, "GPU"))
    record = made_up_record(assignment, latency=made_up_latency(2.5, "GPU"))
    (row,) = handle.rows()
    assert (row.number, row.kind, row.state, row.finish_order) == (0, "baseline", "complete", 1)
    assert (row.accuracy, row.macs, row.params) == (record.accuracy, record.macs, record.params)
    assert (row.latency_ms, row.latency_hardware) == (2.5, "GPU")
    assert row.macs_ratio == record.macs / 1_000_000
    assert row.seconds == 0.75
    assert row.feasible
    assert row.error is None
    assert abs(row.finished_at - time.time()) < 100
    assert handle.record(0) == record


def test_a_failed_trial_has_its_reason_and_no_numbers(handle):
    assert handle.fail(handle.ask(1), FAILURE)
    (row,) = handle.rows()
    assert (row.state, row.error, row.accuracy, row.macs_ratio) == ("failed", "boom", None, None)
    assert not row.usable
    assert handle.record(0) == FAILURE
    assert handle.finished_count() == 1


def test_records_come_by_number(handle, tmp_path):
    for _ in range(3):
        finish_one(handle, 3, tmp_path / "m")
    assert sorted(handle.records()) == [0, 1, 2]
    assert sorted(handle.records([2, 0, 9])) == [0, 2]


def test_a_trial_that_is_not_there_is_named(handle, tmp_path):
    finish_one(handle, 1, tmp_path / "m")
    for read in (handle.record, handle.curves, lambda n: handle.artifact(n, "manifest.json")):
        with pytest.raises(
            StudyNotFoundError, match=r"no finished trial 7; 1 trials are finished"
        ):
            read(7)


def test_artifacts_come_back(handle, tmp_path):
    finish_one(handle, 1, tmp_path / "m")
    assert handle.curves(0) == CURVES
    with handle.model_folder(0) as folder:
        assert sorted(path.name for path in folder.iterdir()) == [
            "manifest.json",
            "model.safetensors",
        ]
        assert (folder / "model.safetensors").read_bytes() == b"bytes of model.safetensors"
    assert not folder.exists()
    with pytest.raises(StudyNotFoundError, match=r"trial 0 of 'made-up' has no x; kept: curves"):
        handle.artifact(0, "x")


def test_a_tampered_model_is_not_handed_out(handle, tmp_path):
    finish_one(handle, 1, tmp_path / "m")
    artifact = handle.artifacts_of(0)["model.safetensors"]
    (handle.artifact_dir / artifact.id).write_bytes(b"other bytes")
    with pytest.raises(EnvironmentProblemError, match="damaged"), handle.model_folder(0):
        pass


def test_an_unknown_study_is_named_with_those_that_exist(handle):
    with pytest.raises(StudyNotFoundError, match=r"no study 'other' in .*; .*: made-up"):
        find_study(handle.storage, "other")


def test_an_empty_storage_says_so(storage_url):
    storage = open_storage(storage_url)
    with pytest.raises(StudyNotFoundError, match="it holds none yet"):
        StudyHandle.load(storage, "digits")
    storage.close()


def test_workers_and_their_trials_are_listed(handle):
    assert handle.workers() == []
    assignment = handle.ask(5)
    (worker,) = handle.workers()
    assert worker.alive
    assert (worker.trial, worker.device) == (assignment.number, "cpu")
    (trial,) = handle.open_trials()
    assert (trial.number, trial.state, trial.attempts) == (0, "running", 1)
    handle.release(assignment)
    assert [t.state for t in handle.open_trials()] == ["waiting"]
    assert handle.workers()[0].trial is None
    handle.close()
    assert handle.workers() == []


def test_a_silent_worker_and_its_trial_are_told(handle):
    handle.ask(5)
    change = sa.update(workers).values(beat_at=workers.c.beat_at - 1000)
    handle.storage.database.write(lambda c: c.execute(change))
    (worker,) = handle.workers()
    assert not worker.alive
    assert worker.silent_s > 900


def test_the_trial_of_a_dead_process_is_stale_at_once(handle):
    handle.ask(5)
    process = json.dumps(
        json.loads(handle.storage.database.read(lambda c: c.scalar(sa.select(workers.c.process))))
        | {"start": 1}
    )
    handle.storage.database.write(lambda c: c.execute(sa.update(workers).values(process=process)))
    assert [t.state for t in handle.open_trials()] == ["stale"]
    assert not handle.workers()[0].alive


def test_a_folder_that_moves_with_its_sqlite_file_is_found(tmp_path):
    old = tmp_path / "old"
    old.mkdir()
    storage = open_storage(f"sqlite:///{old}/study.db")
    handle = StudyHandle.create_or_check(
        storage, made_up_config(), made_up_facts(), old / "artifacts"
    )
    finish_one(handle, 1, tmp_path / "m")
    assert artifact_location(storage, tmp_path / "elsewhere") == str(tmp_path / "elsewhere")
    handle.close()
    storage.close()
    old.rename(tmp_path / "new")
    storage = open_storage(f"sqlite:///{tmp_path}/new/study.db", must_exist=True)
    moved = StudyHandle.load(storage, "made-up")
    assert moved.artifact_dir == tmp_path / "new" / "artifacts"
    assert moved.curves(0) == CURVES
    storage.close()


def test_reading_a_thousand_trials_with_forty_groups_is_fast_and_loads_no_optuna(tmp_path):
    groups = tuple(
        GroupRow(
            name=f"layer{i}",
            layers=(f"layer{i}",),
            units=16,
            channels_per_unit=1,
            macs_share=0.02,
            low=0.1,
            high=1.0,
        )
        for i in range(40)
    )
    url = f"sqlite:///{tmp_path}/study.db"
    storage = open_storage(url)
    handle = StudyHandle.create_or_check(
        storage, made_up_config(), made_up_facts(groups=groups), tmp_path / "artifacts"
    )
    assignment = Assignment(
        number=0,
        kind="search",
        ratios={g.name: 0.5 for g in groups},
        trade_off=0.5,
        seed=1,
        token="t",
    )
    record = to_json(made_up_record(assignment))
    rows = [
        {
            "study_id": handle.study_id,
            "number": number,
            "token": str(number),
            "finish_order": number + 1,
            "finished_at": 0.0,
            "kind": "search",
            "state": "complete",
            "trade_off": 0.5,
            "accuracy": 90.0,
            "macs": 5,
            "feasible": True,
            "constraints": "{}",
            "record": record,
            "artifacts": "{}",
        }
        for number in range(1000)
    ]
    storage.database.write(lambda c: c.execute(sa.insert(results), rows))
    storage.close()
    code = (
        "import sys, time\n"
        "from automl_prune.storage import open_storage\n"
        "from automl_prune.study import StudyHandle\n"
        f"handle = StudyHandle.load(open_storage({url!r}, must_exist=True), 'made-up')\n"
        "start = time.perf_counter()\n"
        "rows = handle.rows()\n"
        "took = time.perf_counter() - start\n"
        "loaded = [m for m in ('torch', 'optuna', 'alembic') if m in sys.modules]\n"
        "print(len(rows), took, loaded)\n"
        "handle.storage.close()\n"
    )
    root = Path(__file__).parent.parent
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=root
    )
    count, took, *loaded = done.stdout.split(maxsplit=2)
    assert int(count) == 1000
    assert float(took) < 1.0
    assert loaded == ["[]\n"]
