import time

from automl_prune.storage.pulse import BEATS_PER_LEASE, Pulse


def until(condition, timeout=20.0):
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_trial_that_takes_longer_than_its_lease_is_kept(handle):
    handle.lease_s = 1.0
    assignment = handle.ask(1)
    time.sleep(2.0)
    assert [t.state for t in handle.open_trials()] == ["running"]
    assert not handle.is_lost(assignment)


def test_where_a_trial_is_reaches_the_list_of_workers(handle):
    handle.lease_s = 0.5
    assignment = handle.ask(1)
    handle.note_progress(assignment, {"phase": "inner", "step": 7}, saved_fraction=0.125)
    until(lambda: handle.workers()[0].progress is not None)
    assert handle.workers()[0].progress == {"phase": "inner", "step": 7}
    assert handle.workers()[0].trial == 0
    until(lambda: handle.open_trials()[0].saved_fraction == 0.125)


def test_a_lost_lease_is_known_after_the_next_beat(handle):
    assignment = handle.ask(1)
    handle._pulse.stop()
    other = Pulse(handle.storage.database, study_id=handle.study_id, worker_id="x", lease_s=100.0)
    other.hold("a token that nobody gave out")
    assert not other.lost("a token that nobody gave out")
    other.hold(assignment.token)
    other.beat()
    assert other.lost("a token that nobody gave out")
    assert not other.lost(assignment.token)
    other.drop("a token that nobody gave out")
    assert not other.lost("a token that nobody gave out")
    other.stop()


def test_stopping_ends_the_thread(handle):
    handle.ask(1)
    thread = handle._pulse._thread
    assert thread.is_alive()
    handle.close()
    assert not thread.is_alive()
    assert BEATS_PER_LEASE >= 3, "a lost beat or two must not cost the lease"
