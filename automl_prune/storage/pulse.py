"""The pulse of a worker: a thread that renews the leases of its trials while they compute."""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING

from automl_prune.errors import StorageError
from automl_prune.storage.slots import renew

if TYPE_CHECKING:
    from automl_prune.storage.database import Database

logger = logging.getLogger(__name__)

BEATS_PER_LEASE = 6


class Pulse:
    """Beats until :meth:`stop`; a database that is away for a while does not end it."""

    def __init__(
        self, database: Database, *, study_id: int, worker_id: str, lease_s: float
    ) -> None:
        """Start beating, every sixth of ``lease_s`` seconds."""
        self._database = database
        self._study_id = study_id
        self._worker_id = worker_id
        self._lease_s = lease_s
        self._lock = threading.Lock()
        self._held: dict[str, tuple[str | None, float]] = {}
        self._lost: set[str] = set()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="automl-prune pulse", daemon=True)
        self._thread.start()

    def hold(self, token: str) -> None:
        """Keep this lease alive from now on."""
        with self._lock:
            self._held[token] = (None, 0.0)

    def note(self, token: str, progress: str | None, saved_fraction: float) -> None:
        """What the next beat says about the trial."""
        with self._lock:
            if token in self._held:
                self._held[token] = (progress, max(saved_fraction, self._held[token][1]))

    def drop(self, token: str) -> None:
        """Let go of a lease: its trial was handed in or back."""
        with self._lock:
            self._held.pop(token, None)
            self._lost.discard(token)

    def lost(self, token: str) -> bool:
        """Whether the trial was given to somebody else: going on with it is in vain."""
        with self._lock:
            return token in self._lost

    def beat(self) -> None:
        """Beat once, now.

        Raises:
            StorageError: the database stayed away for longer than the storage's patience.
        """
        with self._lock:
            held = dict(self._held)
        valid = self._database.write(
            lambda connection: renew(
                connection,
                self._study_id,
                worker_id=self._worker_id,
                lease_s=self._lease_s,
                progress=held,
            )
        )
        with self._lock:
            self._lost |= (held.keys() - valid) & self._held.keys()

    def stop(self) -> None:
        """End the thread."""
        self._stop.set()
        if self._thread is not threading.current_thread():
            self._thread.join(timeout=5.0)

    def _beat(self) -> None:
        while not self._stop.wait(self._lease_s / BEATS_PER_LEASE):
            try:
                self.beat()
            except StorageError as error:
                logger.warning("no pulse: %s", error)
