"""The process that computes trials, and what it says to the worker that holds the lease.

A worker never loads torch: it starts this module as a process of its own, hands it trials over a
pipe, one JSON object a line, and hears back where the trial is and what it left. The process dies
with its worker: the kernel kills it, and should that fail, it ends when the pipe closes.
"""

from __future__ import annotations

import ctypes
import dataclasses
import json
import logging
import os
import queue
import signal
import sys
import threading
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from automl_prune.config import StudyConfig
from automl_prune.errors import AutoMLPruneError, EnvironmentProblemError
from automl_prune.records import Parent, StudyFacts, from_json, to_json

if TYPE_CHECKING:
    from automl_prune.early_stopping import Rung
    from automl_prune.inheritance import Inheritance
    from automl_prune.records import TrialKind
    from automl_prune.trial_state import TrialProgress
    from automl_prune.workbench import Workbench

logger = logging.getLogger(__name__)

PR_SET_PDEATHSIG = 1


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class TrialRequest:
    """One trial, as a worker asks for it."""

    number: int
    kind: TrialKind
    ratios: dict[str, float]
    trade_off: float
    seed: int
    checkpoint_dir: str
    model_dir: str
    """Where the model folder is written; the worker's, and removed by it."""
    parent: dict[str, Any] | None
    """Fields of its ``Parent``; None: it starts from the dense model."""
    parent_weights: str
    """File with the parent's weights."""
    parent_kept: dict[str, list[int]]
    """Units that the parent kept, by group."""
    has_rungs: bool
    """Whether the worker is to be asked at every rung if the trial goes on."""


class Voice:
    """What the process says to its worker."""

    def __init__(self, descriptor: int) -> None:
        """Write to a pipe that nobody else writes to."""
        self._file = os.fdopen(descriptor, "w", encoding="utf-8")

    def say(self, event: str, **content: object) -> None:
        """One line; the worker reads it at once."""
        self._file.write(json.dumps({"event": event, **content}) + "\n")
        self._file.flush()


class Ear:
    """What the worker says: trials come in order, ``stop`` is known at once."""

    def __init__(self, descriptor: int) -> None:
        """Listen in a thread; when the worker is gone, so is this process."""
        self._lines: queue.Queue[dict[str, Any]] = queue.Queue()
        self._verdicts: queue.Queue[bool] = queue.Queue()
        self.stop = threading.Event()
        self._file = os.fdopen(descriptor, encoding="utf-8")
        threading.Thread(target=self._listen, name="ear", daemon=True).start()

    def next(self) -> dict[str, Any]:
        """Wait for the next order."""
        return self._lines.get()

    def verdict(self) -> bool:
        """Wait for the answer to what was asked at a rung; False where the trial is stopped."""
        while not self.stop.is_set():
            with suppress(queue.Empty):
                return self._verdicts.get(timeout=0.05)
        return False

    def _listen(self) -> None:
        for line in self._file:
            order = json.loads(line)
            if order["order"] == "stop":
                self.stop.set()
            elif order["order"] == "verdict":
                self._verdicts.put(order["hopeless"])
            else:
                self.stop.clear()  # here, not where the trial begins: a stop may follow at once
                self._verdicts = queue.Queue()  # one that came too late is for no other trial
                self._lines.put(order)
        os._exit(1)


def main(arguments: list[str]) -> int:
    """Serve the worker that started this process.

    Args:
        arguments: descriptors to speak on and to listen on, and the worker's process number.
    """
    spoken, heard, parent = (int(word) for word in arguments)
    die_with(parent)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # the worker decides what they mean
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    voice, ear = Voice(spoken), Ear(heard)
    try:
        bench = _prepare(ear.next(), voice)
    except AutoMLPruneError as error:
        voice.say("refused", kind=type(error).__name__, message=str(error))
        return error.exit_code
    voice.say("ready")
    while True:
        order = ear.next()
        del order["order"]
        _run(bench, TrialRequest(**order), voice, ear)


def signal_when_parent_dies(number: int) -> None:
    """Have the kernel send this process a signal when its parent is gone (Linux alone)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, number)


def die_with(parent: int) -> None:
    """See that this process is killed when its parent is gone, however that ended."""
    signal_when_parent_dies(signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)  # it was gone before we asked


def _prepare(order: dict[str, Any], voice: Voice) -> Workbench:
    from automl_prune.weights import weights_digest
    from automl_prune.workbench import Workbench

    config = StudyConfig.from_json(order["config"])
    facts = from_json(StudyFacts, order["facts"])
    bench = Workbench.prepare(
        config,
        cache_dir=Path(order["dense_dir"]),
        facts=facts,
        device=order["device"],
        trusted=tuple(order["trusted"]),
        on_dense_progress=lambda step, total, loss: voice.say(
            "dense", step=step, total_steps=total, loss=loss
        ),
    )
    found = weights_digest(bench.dense)
    if found != facts.dense_digest:
        raise EnvironmentProblemError(
            f"the dense model that was made here is not the study's: digest {found[:16]}, the "
            f"study has {facts.dense_digest[:16]}. Give this host the study's artifact folder "
            f"({order['dense_dir']}), so that it starts from the same weights"
        )
    return bench


def _run(bench: Workbench, request: TrialRequest, voice: Voice, ear: Ear) -> None:
    from automl_prune.modelfile import save_model_folder
    from automl_prune.search import NotedCheckpoints, describe_failure, manifest_of
    from automl_prune.trial import run_trial
    from automl_prune.trial_state import TrialInterruptedError

    checkpoints = NotedCheckpoints(
        Path(request.checkpoint_dir), every_s=bench.config.compute.checkpoint_every_s
    )

    def moved(progress: TrialProgress) -> None:
        checkpoints.fraction = progress.fraction
        voice.say(
            "moved",
            progress=dataclasses.asdict(progress),
            saved_fraction=checkpoints.saved_fraction,
        )

    def is_hopeless(rung: Rung) -> bool:
        voice.say("rung", rung=dataclasses.asdict(rung))
        return ear.verdict()

    try:
        outcome = run_trial(
            bench,
            request.ratios,
            request.trade_off,
            kind=request.kind,
            seed=request.seed,
            inherited=_inherited(bench, request),
            on_progress=moved,
            checkpoints=checkpoints,
            should_stop=ear.stop.is_set,
            is_hopeless=is_hopeless if request.has_rungs else None,
        )
        if outcome.record.state == "complete":
            save_model_folder(
                Path(request.model_dir),
                outcome.model,
                manifest_of(bench, request.number, outcome),
                trust=bench.trusted,
            )
    except TrialInterruptedError:
        voice.say("interrupted", saved_fraction=checkpoints.saved_fraction)
    except EnvironmentProblemError as error:
        voice.say("refused", kind=type(error).__name__, message=str(error))
    except Exception as error:  # whatever a model, a metric or data can raise is a failed trial
        voice.say("failed", failure=to_json(describe_failure(request, error)))
    else:
        voice.say("done", record=to_json(outcome.record), curves=to_json(outcome.curves))


def _inherited(bench: Workbench, request: TrialRequest) -> Inheritance | None:
    from automl_prune.inheritance import Inheritance

    if request.parent is None:
        return None
    try:
        weights = Path(request.parent_weights).read_bytes()
    except OSError as error:
        raise EnvironmentProblemError(
            f"trial {request.number} starts from the weights in {request.parent_weights}, which "
            f"cannot be read: {error.strerror}. The artifact folder has to be reachable from here"
        ) from error
    return Inheritance.of(Parent(**request.parent), weights, request.parent_kept, bench.graph)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
