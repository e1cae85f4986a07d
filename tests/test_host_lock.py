import fcntl
import itertools
import multiprocessing
import os
import tempfile
import threading
import time

import pytest
from torch import nn

from automl_prune.errors import EnvironmentProblemError
from automl_prune.evaluate import measure_latency
from automl_prune.host_lock import LOCK_FILE, host_lock


def hold(folder, seconds, times):
    with host_lock(folder):
        since = time.monotonic()
        time.sleep(seconds)
        times.put((since, time.monotonic()))


def test_two_processes_never_measure_at_once(tmp_path):
    context = multiprocessing.get_context("fork")
    times = context.Queue()
    workers = [context.Process(target=hold, args=(tmp_path, 0.2, times)) for _ in range(3)]
    for worker in workers:
        worker.start()
    spans = sorted(times.get(timeout=20) for _ in workers)
    for worker in workers:
        worker.join()
    assert all(end <= start for (_, end), (start, _) in itertools.pairwise(spans))


def test_the_lock_is_free_again_after_a_crash(tmp_path):
    with pytest.raises(ZeroDivisionError), host_lock(tmp_path):
        raise ZeroDivisionError
    descriptor = os.open(tmp_path / LOCK_FILE, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.close(descriptor)


def test_a_lock_that_cannot_be_opened_is_said(tmp_path):
    (tmp_path / LOCK_FILE).symlink_to(tmp_path / "nowhere" / "file")
    with pytest.raises(EnvironmentProblemError, match="cannot be opened"), host_lock(tmp_path):
        pass


def test_latency_of_a_trial_waits_for_the_lock(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    found = []

    def measure():
        found.append(
            measure_latency(nn.Conv2d(1, 1, 1), (1, 8, 8), batch_size=1, threads=1, device="cpu")
        )

    thread = threading.Thread(target=measure)
    with host_lock():
        thread.start()
        thread.join(timeout=2.5)  # without the lock it takes half of that
        assert not found
    thread.join(timeout=30)
    assert found[0].median_ms > 0
