"""Several workers on this host: started, watched, restarted with back-off, stopped together."""

from __future__ import annotations

import collections
import logging
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

from automl_prune.errors import EnvironmentProblemError, StorageError
from automl_prune.trial_process import signal_when_parent_dies

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from automl_prune.study import StudyHandle

logger = logging.getLogger(__name__)

STORAGE_VARIABLE = "AUTOML_PRUNE_STORAGE"
"""How a worker learns the URL: a command line, and a password in it, can be read by everybody."""
FIRST_PAUSE_S, LONGEST_PAUSE_S = 1.0, 60.0
SOON_S = 20.0
"""A worker that crashes so soon after its start, and without a trial, crashed at once."""
CRASHES_AT_ONCE = 4
"""So many in a row, and the launch gives up. (How often a trial may kill its worker is the
storage's to count.)"""
REAP_EVERY_S = 10.0
USERS_MISTAKE = 2
COMMAND = "import sys; from automl_prune.cli import main; sys.exit(main())"


@dataclass(slots=True, kw_only=True)
class _Local:
    """One local worker."""

    index: int
    device: str
    log: Path
    process: subprocess.Popen[bytes] | None = None
    started: float = 0.0
    starts: int = 0
    restart_at: float = 0.0
    crashes: int = 0
    """At once after the start, in a row."""
    done: bool = False
    command: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalWorker:
    """A local worker as the live view shows it."""

    index: int
    device: str
    pid: int | None
    state: str
    """running, restarting, done."""


class Launch:
    """Supervises local workers until the study has its trials."""

    def __init__(
        self,
        handle: StudyHandle,
        *,
        devices: Sequence[str],
        log_dir: Path,
        trusted: Sequence[str] = (),
        on_look: Callable[[list[LocalWorker]], None] = lambda _: None,
        should_stop: Callable[[], bool] = lambda: False,
    ) -> None:
        """Start nothing yet.

        Args:
            handle: the stored study, its target set.
            devices: one worker each, as in ``("cuda:0", "cuda:1")``.
            log_dir: every worker writes ``worker-N.log`` there.
            trusted: packages that the person at the keyboard allowed.
            on_look: called every second.
            should_stop: asked every second; all workers stop cleanly then.

        Raises:
            StorageError: several workers on a SQLite file.
        """
        if len(devices) > 1 and handle.storage.is_sqlite:
            raise several_on_a_file(handle.storage.shown, len(devices))
        self._handle = handle
        self._on_look = on_look
        self._should_stop = should_stop
        log_dir.mkdir(parents=True, exist_ok=True)
        self._workers = [
            _Local(
                index=index,
                device=device,
                log=log_dir / f"worker-{index}.log",
                command=_command(handle.name, device, trusted),
            )
            for index, device in enumerate(devices)
        ]

    def run(self) -> bool:
        """Start the workers and watch them.

        Returns:
            Whether the study has its trials; False: somebody asked to stop.

        Raises:
            EnvironmentProblemError: workers crash at once again and again, or lack something.
        """
        reaped = time.monotonic()
        try:
            while not self._should_stop():
                for worker in self._workers:
                    self._look_after(worker)
                self._on_look([_shown(worker) for worker in self._workers])
                if all(worker.done for worker in self._workers):
                    return self._handle.finished_count() >= self._handle.target()
                if time.monotonic() - reaped > REAP_EVERY_S:
                    reaped = time.monotonic()
                    for number in self._handle.reap():
                        logger.info("trial %d waits to be repeated", number)
                time.sleep(0.5)
            self._stop()
            return False
        finally:
            self._kill()
            self._handle.publish()

    def _look_after(self, worker: _Local) -> None:
        time_now = time.monotonic()
        if worker.done:
            return
        if worker.process is None:
            if time_now >= worker.restart_at:
                self._start(worker)
            return
        code = worker.process.poll()
        if code is None:
            return
        pid, worker.process = worker.process.pid, None
        if code == 0:
            worker.done = True
            return
        if code == USERS_MISTAKE and worker.starts == 1:
            # Later it is a storage that was away, or the like: that passes, or comes again.
            raise EnvironmentProblemError(_last_words(worker, "ended with"))
        holds_trial = any(w.pid == pid and w.trial is not None for w in self._handle.workers())
        soon = time_now - worker.started < SOON_S and not holds_trial
        worker.crashes = worker.crashes + 1 if soon else 1
        if soon and worker.crashes >= CRASHES_AT_ONCE:
            raise EnvironmentProblemError(
                _last_words(worker, f"crashed {worker.crashes} times in a row, the last time with")
            )
        pause_s = min(FIRST_PAUSE_S * 2.0 ** (worker.crashes - 1), LONGEST_PAUSE_S)
        worker.restart_at = time_now + pause_s
        logger.warning(
            "worker %d ended with %s; again in %.0f s", worker.index, _how(code), pause_s
        )

    def _start(self, worker: _Local) -> None:
        environment = os.environ | {STORAGE_VARIABLE: self._handle.storage.url}
        with worker.log.open("ab") as log:
            worker.process = subprocess.Popen(
                worker.command,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C reaches the workers through us, once
                preexec_fn=partial(signal_when_parent_dies, signal.SIGTERM),
            )
        worker.started = time.monotonic()
        worker.starts += 1

    def _stop(self) -> None:
        """Have every worker hand its trial back; a second signal interrupts the wait."""
        for worker in self._workers:
            if worker.process is not None:
                worker.process.send_signal(signal.SIGTERM)
        for worker in self._workers:
            if worker.process is not None:
                worker.process.wait()
                worker.process = None

    def _kill(self) -> None:
        """End what is still there: SIGTERM twice stops a worker at once, SIGKILL does anyway."""
        for number in (signal.SIGTERM, signal.SIGTERM, signal.SIGKILL):
            for worker in self._workers:
                if worker.process is not None:
                    worker.process.send_signal(number)
                    with suppress(subprocess.TimeoutExpired):
                        worker.process.wait(timeout=2.0)


def several_on_a_file(shown: str, workers: int) -> StorageError:
    """The error for several workers on a SQLite file, with both ways out."""
    return StorageError(
        f"{shown} is a SQLite file, which serves one worker; for {workers} workers give a server "
        "with --storage postgresql://..., or have one of the study's own with --storage embedded"
    )


def _command(name: str, device: str, trusted: Sequence[str]) -> list[str]:
    words = [sys.executable, "-c", COMMAND, "worker", "--study", name, "--device", device]
    for package in trusted:
        words += ["--trust", package]
    return words


def _shown(worker: _Local) -> LocalWorker:
    running = worker.process is not None
    state = "done" if worker.done else "running" if running else "restarting"
    pid = None if worker.process is None else worker.process.pid
    return LocalWorker(index=worker.index, device=worker.device, pid=pid, state=state)


def _how(code: int) -> str:
    return signal.Signals(-code).name if code < 0 else f"exit code {code}"


def _last_words(worker: _Local, how: str) -> str:
    with worker.log.open(encoding="utf-8", errors="replace") as log:
        lines = collections.deque((line.rstrip() for line in log), maxlen=12)
    text = "\n".join(f"  {line}" for line in lines if line)
    return f"worker {worker.index} on {worker.device} {how}:\n{text}\nwhole log: {worker.log}"
