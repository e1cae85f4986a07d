"""What ends a search early: a signal, or trials that fail one after the other."""

from __future__ import annotations

import signal
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

from automl_prune.errors import ModelError

if TYPE_CHECKING:
    from collections.abc import Iterator

FAILURES_IN_A_ROW = 3
"""So many failed trials one after the other end a search: the fault is not the trials'."""


class StopRequest:
    """Set by Ctrl-C or SIGTERM; the running trial sees it between two steps."""

    def __init__(self) -> None:
        self._event = threading.Event()

    def __call__(self) -> bool:
        """Whether somebody asked to stop."""
        return self._event.is_set()

    def set(self) -> None:
        """Ask to stop."""
        self._event.set()

    @contextmanager
    def on_signals(self) -> Iterator[StopRequest]:
        """Stop gently on the first SIGINT or SIGTERM, at once on the second."""

        def ask(*_: object) -> None:
            if self():
                raise KeyboardInterrupt
            self.set()

        numbers = (signal.SIGINT, signal.SIGTERM)
        previous = {number: signal.signal(number, ask) for number in numbers}
        try:
            yield self
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)


class FailureCount:
    """Counts trials that failed for good, one after the other."""

    def __init__(self, study: str) -> None:
        self._study = study
        self._in_a_row = 0

    def note(self, number: int, error: str | None) -> None:
        """A trial ended.

        Args:
            number: of the trial.
            error: why it failed; None: it did not.

        Raises:
            ModelError: it was one failure too many.
        """
        self._in_a_row = 0 if error is None else self._in_a_row + 1
        if self._in_a_row == FAILURES_IN_A_ROW:
            raise ModelError(
                f"{FAILURES_IN_A_ROW} trials failed one after the other, the last with: "
                f"{(error or '').rstrip('.')}. See `automl-prune show {self._study} {number}` for "
                "its log"
            )
