"""The worker's side of the process that computes trials: start it, talk to it, end it."""

from __future__ import annotations

import collections
import dataclasses
import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from automl_prune import errors
from automl_prune.errors import AutoMLPruneError, EnvironmentProblemError
from automl_prune.manifest import WEIGHTS_FILE
from automl_prune.records import to_json

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from automl_prune.study import Assignment, StudyHandle

Event = dict[str, Any]

LOG_LINES = 200
KILLED_AFTER_S = 10.0


class ChildDiedError(Exception):
    """The process is gone without an answer; the message says how, then its last lines."""


class TrialChild:
    """One process that computes trials; it is started by :meth:`prepare` and may be again."""

    def __init__(self) -> None:
        """Start nothing yet."""
        self._process: subprocess.Popen[bytes] | None = None
        self._orders: int = -1
        self._events: queue.Queue[Event | None] = queue.Queue()
        self._log: collections.deque[str] = collections.deque(maxlen=LOG_LINES)

    @property
    def alive(self) -> bool:
        """Whether the process is there."""
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int | None:
        """Number of the process."""
        return None if self._process is None else self._process.pid

    def prepare(
        self,
        handle: StudyHandle,
        *,
        device: str,
        trusted: Sequence[str],
        on_event: Callable[[Event], None],
        should_stop: Callable[[], bool],
    ) -> bool:
        """Start the process and have it load data and dense model.

        Returns:
            Whether it is ready; False: somebody asked to stop.

        Raises:
            AutoMLPruneError: what it lacks: data, device, package, trust.
            ChildDiedError: it died.
        """
        self._start()
        self.order(
            "prepare",
            config=handle.config.to_json(),
            facts=to_json(handle.facts),
            dense_dir=str(handle.dense_dir),
            device=device,
            trusted=list(trusted),
        )
        while not should_stop():
            event = self.hear(0.2)
            if event is None:
                continue
            if event["event"] == "ready":
                return True
            if event["event"] == "refused":
                self.kill()
                raise refusal(event)
            on_event(event)
        return False

    def run(
        self,
        handle: StudyHandle,
        assignment: Assignment,
        *,
        checkpoint_dir: str,
        model_dir: str,
        has_rungs: bool,
    ) -> None:
        """Have it begin a trial, or go on with it from its newest checkpoint.

        Raises:
            StudyNotFoundError: the model of the trial's parent was removed.
            EnvironmentProblemError: its parent's files are missing or damaged.
        """
        parent = assignment.parent
        self.order(
            "run",
            number=assignment.number,
            kind=assignment.kind,
            ratios=assignment.ratios,
            trade_off=assignment.trade_off,
            seed=assignment.seed,
            checkpoint_dir=checkpoint_dir,
            model_dir=model_dir,
            parent=None if parent is None else dataclasses.asdict(parent),
            parent_weights=""
            if parent is None
            else str(handle.artifact_path(parent.number, WEIGHTS_FILE)),
            parent_kept={} if parent is None else handle.curves(parent.number).kept,
            has_rungs=has_rungs,
        )

    def order(self, order: str, **content: object) -> None:
        """Say something to the process; one that is dead is noticed by :meth:`hear`."""
        line = json.dumps({"order": order, **content}) + "\n"
        with suppress(BrokenPipeError):
            remaining = line.encode()
            while remaining:
                remaining = remaining[os.write(self._orders, remaining) :]

    def hear(self, timeout_s: float) -> Event | None:
        """The next thing that the process says; None: nothing within the time.

        Raises:
            ChildDiedError: it is dead and everything that it said has been heard.
        """
        try:
            event = self._events.get(timeout=timeout_s)
        except queue.Empty:
            return None
        if event is None:
            raise ChildDiedError(self._epitaph())
        return event

    def kill(self) -> None:
        """End the process at once, if it is there."""
        if self._process is None:
            return
        self._process.kill()
        self._process.wait(timeout=KILLED_AFTER_S)
        with suppress(OSError):
            os.close(self._orders)
        self._process = None

    def _start(self) -> None:
        self.kill()
        said, saying = os.pipe()
        hearing, orders = os.pipe()
        self._events = queue.Queue()
        self._log.clear()
        command = [sys.executable, "-m", "automl_prune.trial_process"]
        try:
            self._process = subprocess.Popen(
                [*command, str(saying), str(hearing), str(os.getpid())],
                pass_fds=(saying, hearing),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C in a terminal is for the worker alone
            )
        finally:
            os.close(saying)
            os.close(hearing)
        self._orders = orders
        log = self._process.stdout
        assert log is not None
        reader = threading.Thread(target=self._keep_log, args=(log,), daemon=True)
        reader.start()
        threading.Thread(
            target=self._listen, args=(said, self._events, reader), daemon=True
        ).start()

    def _listen(
        self, descriptor: int, events: queue.Queue[Event | None], log: threading.Thread
    ) -> None:
        with os.fdopen(descriptor, encoding="utf-8") as file:
            for line in file:
                try:
                    events.put(json.loads(line))
                except ValueError:  # cut off in the middle by its death
                    break
        log.join(timeout=1.0)
        events.put(None)

    def _keep_log(self, stream: Any) -> None:
        with stream:
            for line in stream:
                self._log.append(line.decode(errors="replace").rstrip())

    def _epitaph(self) -> str:
        assert self._process is not None
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=KILLED_AFTER_S)
        code = self._process.returncode
        if code is None:
            how = "closed its pipe and hangs"
        elif code < 0:
            how = f"was ended by {signal.Signals(-code).name}"
        else:
            how = f"ended with exit code {code}"
        text = "\n".join([f"the process of the trial {how}", *self._log])
        self.kill()
        return text


def refusal(event: Event) -> AutoMLPruneError:
    """The error that the process reported, as itself."""
    kind = getattr(errors, event["kind"], EnvironmentProblemError)
    assert issubclass(kind, AutoMLPruneError)
    return kind(event["message"])


def wait_until(moment: float, should_stop: Callable[[], bool]) -> None:
    """Sleep until a moment of the monotonic clock, or until somebody asks to stop."""
    while not should_stop() and (left := moment - time.monotonic()) > 0:
        time.sleep(min(left, 0.2))
