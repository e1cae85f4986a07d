"""Carries finished trials over to Optuna's tables in a thread, while the next trials compute."""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING

from automl_prune.errors import StorageError

if TYPE_CHECKING:
    from collections.abc import Callable

logger = logging.getLogger(__name__)

LAST_PASS_S = 30.0
"""A pass that is under way when the thread shall end may take so long."""


class Carrier:
    """A thread that publishes whenever it is woken.

    Optuna looks the trial up for every parameter of it, so this is slow; nobody waits for
    it, and what a process leaves behind the next one carries.
    """

    def __init__(self, publish: Callable[[], int]) -> None:
        """Start, and wait to be woken.

        Args:
            publish: carries some trials over; returns how many.
        """
        self._publish = publish
        self._woken = threading.Event()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="automl-prune carrier", daemon=True)
        self._thread.start()

    def wake(self) -> None:
        """There is something to carry."""
        self._woken.set()

    def stop(self) -> None:
        """End the thread after the pass that is under way."""
        self._stop.set()
        self._woken.set()
        self._thread.join(timeout=LAST_PASS_S)

    def _run(self) -> None:
        while True:
            self._woken.wait()
            self._woken.clear()
            try:
                while not self._stop.is_set() and self._publish():
                    pass
            except StorageError as error:
                # the results are safe; whoever publishes next and waits for it is told
                logger.warning("%s", error)
            if self._stop.is_set():
                return
