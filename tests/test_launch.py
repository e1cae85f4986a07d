import os
import signal
import sys

import pytest

from automl_prune import launch
from automl_prune.errors import EnvironmentProblemError, StorageError
from automl_prune.launch import Launch
from automl_prune.storage import open_storage
from automl_prune.study import StudyHandle


@pytest.fixture
def handle(tiny_bench, storage_url, tmp_path):
    storage = open_storage(storage_url)
    handle = StudyHandle.create_or_check(
        storage, tiny_bench.config, tiny_bench.facts, tmp_path / "artifacts"
    )
    tiny_bench.keep_dense(handle.dense_dir)
    yield handle
    handle.close()
    storage.close()


@pytest.mark.postgres
@pytest.mark.parametrize("storage_url", ["postgres"], indirect=True)
def test_a_killed_worker_is_started_again_and_the_study_ends_as_asked(handle, tmp_path):
    killed = []

    def kill_one(local):
        busy = [w for w in handle.workers() if w.trial is not None]
        if not killed and busy:
            killed.append(busy[0].pid)
            os.kill(busy[0].pid, signal.SIGKILL)

    assert Launch(handle, devices=["cpu", "cpu"], log_dir=tmp_path, on_look=kill_one).run()
    assert killed
    assert handle.finished_count() == handle.target() == 4
    assert {row.state for row in handle.rows()} == {"complete"}
    assert handle.open_trials() == []


@pytest.mark.parametrize("storage_url", ["sqlite"], indirect=True)
def test_several_workers_on_a_file_are_refused_with_both_ways_out(handle, tmp_path):
    with pytest.raises(StorageError, match=r"postgresql://.*--storage embedded"):
        Launch(handle, devices=["cpu", "cpu"], log_dir=tmp_path)


@pytest.mark.parametrize("storage_url", ["sqlite"], indirect=True)
def test_what_a_worker_lacks_ends_the_launch_with_its_words(handle, tmp_path):
    with pytest.raises(
        EnvironmentProblemError, match=r"(?s)worker 0 on cuda:7 ended with.*cuda:7"
    ):
        Launch(handle, devices=["cuda:7"], log_dir=tmp_path).run()


@pytest.mark.parametrize("storage_url", ["sqlite"], indirect=True)
def test_crashing_at_once_again_and_again_ends_it_with_the_log(handle, tmp_path, monkeypatch):
    monkeypatch.setattr(launch, "COMMAND", "raise RuntimeError('no such luck')")
    monkeypatch.setattr(launch, "FIRST_PAUSE_S", 0.01)
    with pytest.raises(EnvironmentProblemError, match=r"(?s)crashed 4 times.*no such luck"):
        Launch(handle, devices=["cpu"], log_dir=tmp_path).run()


@pytest.mark.parametrize("storage_url", ["sqlite"], indirect=True)
def test_a_stop_has_the_workers_hand_back_their_trials(handle, tmp_path):
    handle.set_target(50)

    def stop():
        return any(worker.trial is not None for worker in handle.workers())

    assert not Launch(handle, devices=["cpu"], log_dir=tmp_path, should_stop=stop).run()
    assert {trial.state for trial in handle.open_trials()} <= {"waiting"}
    assert handle.workers() == []


@pytest.mark.postgres
@pytest.mark.parametrize("storage_url", ["postgres"], indirect=True)
def test_a_worker_that_finds_the_storage_away_when_started_again_is_tried_again(handle, tmp_path):
    """A killed worker's successor ends with 2 like a mistake; the next one finds everything."""
    seen = []

    def on_look(local):
        pid = local[0].pid
        busy = any(w.pid == pid and w.trial is not None for w in handle.workers())
        if not seen and busy:
            seen.append(pid)
            launch_._workers[0].command = [sys.executable, "-c", "exit(2)"]
            os.kill(pid, signal.SIGKILL)
        elif seen and local[0].state == "restarting" and launch_._workers[0].starts > 1:
            launch_._workers[0].command = worker_command

    launch_ = Launch(handle, devices=["cpu"], log_dir=tmp_path, on_look=on_look)
    worker_command = launch_._workers[0].command
    assert launch_.run()
    assert launch_._workers[0].starts >= 3
    assert handle.finished_count() == 4
