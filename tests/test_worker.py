import copy
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from automl_prune.errors import DataError, EnvironmentProblemError, ModelError
from automl_prune.records import TrialRecord
from automl_prune.search import inheritance_of
from automl_prune.storage import open_storage
from automl_prune.study import StudyHandle
from automl_prune.trial import run_trial
from automl_prune.weights import weights_to_bytes
from automl_prune.worker import Worker

ROOT = Path(__file__).parent.parent


@pytest.fixture
def storage_url(tmp_path):
    """Where the storage is does not matter here; tests/storage has every kind."""
    return f"sqlite:///{tmp_path / 'study.db'}"


@pytest.fixture
def begin(tiny_bench, storage_url, tmp_path):
    """Make the tiny study, its dense model beside its artifacts; every handle is closed."""
    opened = []

    def make(**tables):
        content = tiny_bench.config.model_dump(mode="json")
        for table, values in tables.items():
            content[table] = content[table] | values
        config = type(tiny_bench.config).model_validate(content)
        storage = open_storage(storage_url)
        handle = StudyHandle.create_or_check(
            storage, config, tiny_bench.facts, tmp_path / "artifacts"
        )
        from automl_prune.workbench import dense_digest

        handle.dense_dir.mkdir(parents=True, exist_ok=True)
        name = f"{dense_digest(config, tiny_bench.data)}.safetensors"
        (handle.dense_dir / name).write_bytes(weights_to_bytes(tiny_bench.dense))
        opened.append((handle, storage))
        return handle

    yield make
    for handle, storage in opened:
        handle.close()
        storage.close()


def undisturbed(handle, tiny_bench, record, **kwargs):
    return run_trial(
        tiny_bench,
        record.start_ratios,
        record.trade_off,
        kind=record.kind,
        seed=record.seed,
        inherited=inheritance_of(handle, tiny_bench, record.parent),
        **kwargs,
    ).record


def test_a_worker_finishes_the_study_with_the_records_of_undisturbed_trials(begin, tiny_bench):
    handle = begin()
    said = []
    assert Worker(handle, on_event=said.append).work()
    assert handle.finished_count() == 4
    for record in handle.records().values():
        assert isinstance(record, TrialRecord)
        assert record.deterministic() == undisturbed(handle, tiny_bench, record).deterministic()
    assert [e.ending for e in said if e.what == "ended"] == ["counted"] * 4
    assert any(e.what == "moved" for e in said)
    assert not list(handle.checkpoint_dir.glob("*")), "checkpoints of finished trials are gone"


def test_a_stopped_trial_is_given_back_and_goes_on_where_it_was(begin, tiny_bench):
    handle = begin()
    stop = threading.Event()

    def on_event(event):
        if event.what == "moved" and event.detail["phase"] == "inner":
            stop.set()

    assert not Worker(handle, on_event=on_event, should_stop=stop.is_set).work()
    assert [t.state for t in handle.open_trials()] == ["waiting"]
    assert len(list(handle.checkpoint_dir.glob("trial-0/*.safetensors"))) == 1
    assert Worker(handle, target=1).work()
    record = handle.record(0)
    assert record.deterministic() == undisturbed(handle, tiny_bench, record).deterministic()


def test_a_process_that_is_killed_is_replaced_and_the_trial_repeated(begin, tiny_bench):
    handle = begin()
    killed, endings = [], []
    worker = Worker(handle, target=1, on_event=lambda event: on_event(event))

    def on_event(event):
        endings.append(event.ending)
        if event.what == "moved" and not killed:
            killed.append(worker._child.pid)
            os.kill(worker._child.pid, signal.SIGKILL)

    assert worker.work()
    assert [e for e in endings if e] == ["died", "counted"]
    record = handle.record(0)
    assert record.deterministic() == undisturbed(handle, tiny_bench, record).deterministic()


def test_a_trial_past_its_deadline_fails_with_the_reason(begin):
    handle = begin(compute={"trial_deadline_s": 0.001})
    assert Worker(handle, target=1).work()
    assert {row.state for row in handle.rows()} == {"failed"}
    assert "deadline of 0.001 s" in handle.record(0).error


def test_trials_that_fail_one_after_the_other_end_the_worker(begin, tmp_path, monkeypatch):
    (tmp_path / "own_metric.py").write_text(
        "def broken(logits_NK, labels_N):\n    raise RuntimeError('no such luck')\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    handle = begin(data={"metric": "own_metric:broken"})
    with pytest.raises(ModelError, match=r"3 trials failed .* RuntimeError: no such luck"):
        Worker(handle, target=4, trusted=("own_metric",)).work()
    assert [row.state for row in handle.rows()] == ["failed"] * 3
    assert "own_metric.py" in handle.record(0).log


def test_what_this_host_lacks_is_named(begin):
    handle = begin()
    with pytest.raises(EnvironmentProblemError, match=r"--device cuda:7"):
        Worker(handle, device="cuda:7").work()
    assert handle.finished_count() == 0
    assert handle.open_trials() == []


def test_data_that_are_not_on_this_host_are_named(begin, tmp_path):
    handle = begin(data={"source": "image-folder", "root": str(tmp_path / "nowhere")})
    with pytest.raises(DataError, match="nowhere"):
        Worker(handle).work()


def test_other_dense_weights_are_refused(begin, tiny_bench):
    handle = begin()
    (file,) = handle.dense_dir.glob("*.safetensors")
    file.write_bytes(weights_to_bytes(_changed(tiny_bench.dense)))
    with pytest.raises(EnvironmentProblemError, match=r"dense model .* is not the study's"):
        Worker(handle).work()


def _changed(model):
    other = copy.deepcopy(model)
    next(other.parameters()).data.add_(1.0)
    return other


def test_a_worker_loads_no_torch():
    code = "import sys, automl_prune.worker; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_the_process_dies_with_its_worker(begin, storage_url):
    begin()
    code = (
        "import sys\n"
        "from automl_prune.storage import open_storage\n"
        "from automl_prune.study import StudyHandle\n"
        "from automl_prune.worker import Worker\n"
        "handle = StudyHandle.load(open_storage(sys.argv[1]), 'tiny')\n"
        "worker = Worker(handle, on_event=lambda e: print(worker._child.pid, flush=True))\n"
        "worker.work()\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, storage_url], stdout=subprocess.PIPE, text=True, cwd=ROOT
    )
    child = int(process.stdout.readline())
    process.kill()
    process.communicate()
    deadline = time.monotonic() + 10
    while Path(f"/proc/{child}").exists() and time.monotonic() < deadline:
        if Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
            break
        time.sleep(0.05)
    else:
        assert not Path(f"/proc/{child}").exists()


def test_a_worker_is_asked_at_every_rung_and_stops_the_trial(begin, tiny_bench, monkeypatch):
    handle = begin()
    monkeypatch.setattr(type(handle), "has_rungs", True)
    seen = []

    def is_hopeless(assignment, rung):
        seen.append((assignment.number, rung.number))
        return assignment.number == 2 and rung.number > 0

    monkeypatch.setattr(handle, "is_hopeless", is_hopeless)
    assert Worker(handle).work()
    assert [row.state for row in handle.rows()] == ["complete", "complete", "pruned", "complete"]
    assert {number for number, _ in seen} == {0, 1, 2, 3}
    record = handle.record(2)
    again = undisturbed(
        handle, tiny_bench, record, is_hopeless=lambda rung: rung.step == record.finetune_steps
    )
    assert again.deterministic() == record.deterministic()
    assert list(handle.artifacts_of(2)) == ["curves.json"]
