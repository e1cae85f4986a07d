"""A worker: claims trials, has them computed by a process of its own, hands in what they left.

The worker itself never loads torch. It holds the lease and beats, enforces the deadline, passes
on a stop, and notices when the process dies; the process dies with it.
"""

from __future__ import annotations

import logging
import random
import shutil
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from automl_prune.early_stopping import Rung
from automl_prune.errors import EnvironmentProblemError
from automl_prune.manifest import MANIFEST_FILE, WEIGHTS_FILE
from automl_prune.records import (
    FailureRecord,
    TrialCurves,
    TrialRecord,
    failure_of,
    from_json,
)
from automl_prune.stopping import FailureCount
from automl_prune.trial_child import ChildDiedError, Event, TrialChild, refusal, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable

    from automl_prune.study import Assignment, StudyHandle

logger = logging.getLogger(__name__)

STOP_GRACE_S = 120.0
"""A trial that was asked to stop has so long to finish its step and write its checkpoint."""
DEATHS_BEFORE_FIRST_TRIAL = 3
"""So often in a row may the process die before it is ready."""
LONGEST_PAUSE_S = 30.0
POLL_S = (1.0, 3.0)
"""Shortest and longest time between two looks for a trial while others run the last ones."""

Ending = Literal["counted", "lost", "failed", "given back", "died"]


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerEvent:
    """Something happened in a worker."""

    what: Literal["preparing", "started", "moved", "ended", "waiting"]
    assignment: Assignment | None = None
    ending: Ending | None = None
    detail: Event | None = None


class Worker:
    """One worker on one device."""

    def __init__(
        self,
        handle: StudyHandle,
        *,
        device: str = "cpu",
        trusted: tuple[str, ...] = (),
        target: int | None = None,
        on_event: Callable[[WorkerEvent], None] = lambda _: None,
        should_stop: Callable[[], bool] = lambda: False,
    ) -> None:
        """Start nothing yet.

        Args:
            handle: the stored study; closed by whoever opened it.
            device: cpu, cuda, cuda:1.
            trusted: packages whose import paths the person at the keyboard allowed.
            target: finished trials that the study shall have; None: what the storage says, asked
                again before every trial.
            on_event: told what happens.
            should_stop: asked all the time; the running trial is checkpointed and given back.
        """
        self._handle = handle
        handle.device = device
        self._device = device
        self._trusted = trusted
        self._target = target
        self._on_event = on_event
        self._should_stop = should_stop
        self._child = TrialChild()

    def work(self) -> bool:
        """Run trials until the study has as many finished ones as it shall have.

        Returns:
            Whether it has; False: somebody asked to stop.

        Raises:
            AutoMLPruneError: this host lacks something; or trials fail one after the other; or
                the storage stayed away.
        """
        failures, deaths = FailureCount(self._handle.name), 0
        try:
            while not self._should_stop():
                if not self._child.alive and not self._prepare():
                    return False
                assignment = self._next()
                if assignment is None:
                    return not self._should_stop()
                ending, failure = self._run(assignment)
                self._tell("ended", assignment, ending)
                if ending in ("counted", "failed"):
                    failures.note(assignment.number, None if failure is None else failure.error)
                deaths = deaths + 1 if ending == "died" else 0
                if deaths:
                    pause_s = min(2.0 ** (deaths - 1), LONGEST_PAUSE_S)
                    wait_until(time.monotonic() + pause_s, self._should_stop)
            return False
        finally:
            self._child.kill()

    def _prepare(self) -> bool:
        for attempt in range(1, DEATHS_BEFORE_FIRST_TRIAL + 1):
            try:
                return self._child.prepare(
                    self._handle,
                    device=self._device,
                    trusted=self._trusted,
                    on_event=lambda event: self._tell("preparing", detail=event),
                    should_stop=self._should_stop,
                )
            except ChildDiedError as death:
                logger.warning("%s", death)
                if attempt == DEATHS_BEFORE_FIRST_TRIAL:
                    raise EnvironmentProblemError(
                        f"the process that computes trials died {attempt} times before it was "
                        f"ready: {death}"
                    ) from death
                wait_until(time.monotonic() + 2.0**attempt, self._should_stop)
        raise AssertionError("unreachable")

    def _next(self) -> Assignment | None:
        """A trial; None: the study has its trials, or somebody asked to stop."""
        while not self._should_stop():
            target = self._handle.target() if self._target is None else self._target
            assignment = self._handle.ask(target)
            if assignment is not None:
                return assignment
            if self._handle.finished_count() >= target:
                return None
            # The last trials run elsewhere; should their workers die, they are taken over here.
            self._tell("waiting")
            wait_until(time.monotonic() + random.uniform(*POLL_S), self._should_stop)
        return None

    def _run(self, assignment: Assignment) -> tuple[Ending, FailureRecord | None]:
        self._tell("started", assignment)
        checkpoint_dir = self._handle.checkpoint_dir / f"trial-{assignment.original_number}"
        with tempfile.TemporaryDirectory(prefix="automl-prune-") as scratch:
            model_dir = Path(scratch) / "model"
            try:
                self._child.run(
                    self._handle,
                    assignment,
                    checkpoint_dir=str(checkpoint_dir),
                    model_dir=str(model_dir),
                    has_rungs=self._handle.has_rungs,
                )
                event = self._watch(assignment)
                return self._settle(assignment, event, model_dir, checkpoint_dir)
            except ChildDiedError as death:
                logger.warning("trial %d: %s", assignment.number, death)
                self._handle.give_up(assignment, str(death))
                return "died", None
            except BaseException:
                self._child.kill()
                self._handle.release(assignment)
                raise

    def _watch(self, assignment: Assignment) -> Event:
        """Wait for the end of a trial.

        Raises:
            ChildDiedError: the process died.
        """
        deadline_s = self._handle.config.compute.trial_deadline_s
        began, asked_to_stop = time.monotonic(), None
        while True:
            event = self._child.hear(0.2)
            time_now = time.monotonic()
            if event is not None and event["event"] == "moved":
                self._handle.note_progress(
                    assignment, event["progress"], saved_fraction=event["saved_fraction"]
                )
                self._tell("moved", assignment, detail=event["progress"])
            elif event is not None and event["event"] == "rung":
                hopeless = self._handle.is_hopeless(assignment, Rung(**event["rung"]))
                self._child.order("verdict", hopeless=hopeless)
            elif event is not None:
                return event
            if deadline_s is not None and time_now - began > deadline_s:
                self._child.kill()
                return {"event": "late", "seconds": deadline_s}
            if asked_to_stop is None and (self._should_stop() or self._handle.is_lost(assignment)):
                self._child.order("stop")
                asked_to_stop = time_now
            if asked_to_stop is not None and time_now - asked_to_stop > STOP_GRACE_S:
                self._child.kill()
                return {"event": "interrupted", "saved_fraction": 0.0}

    def _settle(
        self, assignment: Assignment, event: Event, model_dir: Path, checkpoint_dir: Path
    ) -> tuple[Ending, FailureRecord | None]:
        failure: FailureRecord | None = None
        if event["event"] == "interrupted":
            self._handle.note_progress(assignment, {}, saved_fraction=event["saved_fraction"])
            self._handle.release(assignment)
            return "given back", None
        if event["event"] == "refused":
            self._handle.release(assignment)
            raise refusal(event)
        if event["event"] == "done":
            record = from_json(TrialRecord, event["record"])
            # one that was stopped early has no model
            files = (WEIGHTS_FILE, MANIFEST_FILE) if record.state == "complete" else ()
            counted = self._handle.complete(
                assignment,
                record,
                from_json(TrialCurves, event["curves"]),
                {name: model_dir / name for name in files},
            )
        else:
            failure = (
                from_json(FailureRecord, event["failure"])
                if event["event"] == "failed"
                else failure_of(
                    assignment,
                    f"not done within its deadline of {event['seconds']:g} s "
                    "(compute.trial_deadline_s)",
                    log=f"attempt {assignment.attempt} on trial {assignment.number} was ended",
                )
            )
            counted = self._handle.fail(assignment, failure)
        if not counted:
            return "lost", None
        shutil.rmtree(checkpoint_dir, ignore_errors=True)
        return ("counted", None) if failure is None else ("failed", failure)

    def _tell(
        self,
        what: Literal["preparing", "started", "moved", "ended", "waiting"],
        assignment: Assignment | None = None,
        ending: Ending | None = None,
        detail: Event | None = None,
    ) -> None:
        self._on_event(WorkerEvent(what=what, assignment=assignment, ending=ending, detail=detail))
