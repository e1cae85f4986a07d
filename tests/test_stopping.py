import os
import signal

import pytest

from automl_prune.errors import ModelError
from automl_prune.stopping import FailureCount, StopRequest


def test_signals_ask_first_and_interrupt_then():
    before = signal.getsignal(signal.SIGINT)
    stop = StopRequest()
    assert not stop()
    with stop.on_signals():
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop()
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before


def test_only_failures_in_a_row_end_a_search():
    failures = FailureCount("digits")
    for number, error in enumerate(["no.", "no.", None, "no.", "no."]):
        failures.note(number, error)
    with pytest.raises(
        ModelError, match=r"3 trials failed .* no\. See `automl-prune show digits 5`"
    ):
        failures.note(5, "no.")
