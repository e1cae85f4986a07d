import threading

from automl_prune.carrying import Carrier
from automl_prune.errors import StorageError


def test_it_carries_until_nothing_is_left_whenever_it_is_woken():
    pending, empty = [8, 8, 3], threading.Event()

    def publish():
        if pending:
            return pending.pop(0)
        empty.set()
        return 0

    carrier = Carrier(publish)
    for _ in range(2):
        carrier.wake()
        assert empty.wait(10)
        assert pending == []
        empty.clear()
        pending.append(1)
    carrier.stop()
    assert not carrier._thread.is_alive()


def test_a_study_that_was_disturbed_does_not_end_the_thread(caplog):
    told = threading.Event()

    def publish():
        if not told.is_set():
            told.set()
            raise StorageError("it is gone")
        return 0

    carrier = Carrier(publish)
    carrier.wake()
    assert told.wait(10)
    carrier.wake()
    carrier.stop()
    assert "it is gone" in caplog.text
