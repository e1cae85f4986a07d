"""The search in one process: ask for a trial, run it, hand in what it left; until enough are done.

Where both branches meet: the study comes from the control side, the trial from the compute side.
"""

from __future__ import annotations

import dataclasses
import datetime
import logging
import tempfile
import traceback
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from automl_prune.checkpoints import FolderCheckpoints
from automl_prune.errors import EnvironmentProblemError, StorageError
from automl_prune.inheritance import Inheritance
from automl_prune.manifest import (
    MANIFEST_FILE,
    WEIGHTS_FILE,
    Builder,
    Manifest,
    Splits,
    describe_trial,
)
from automl_prune.modelfile import save_model_folder
from automl_prune.records import failure_of
from automl_prune.stopping import FailureCount
from automl_prune.trial import run_trial
from automl_prune.trial_state import TrialInterruptedError

if TYPE_CHECKING:
    from collections.abc import Callable

    from automl_prune.reading import StudyReader
    from automl_prune.records import BegunTrial, FailureRecord, Parent, TrialRecord
    from automl_prune.study import Assignment, StudyHandle
    from automl_prune.trial import TrialOutcome
    from automl_prune.trial_state import TrialCheckpoint, TrialProgress
    from automl_prune.workbench import Workbench

logger = logging.getLogger(__name__)

LOG_CHARACTERS = 20_000


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialStarted:
    """A trial begins."""

    assignment: Assignment
    finished: int
    """Finished trials of the study so far."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialFinished:
    """A trial's results are stored."""

    assignment: Assignment
    record: TrialRecord
    finished: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialFailed:
    """A trial failed for good; the search goes on with the next."""

    assignment: Assignment
    failure: FailureRecord


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialMoved:
    """A running trial made some steps."""

    progress: TrialProgress


SearchEvent = TrialStarted | TrialFinished | TrialFailed | TrialMoved


def run_search(
    handle: StudyHandle,
    bench: Workbench,
    *,
    target: int,
    checkpoint_dir: Path,
    on_event: Callable[[SearchEvent], None],
    should_stop: Callable[[], bool],
) -> bool:
    """Run trials in this process until the study has ``target`` finished ones.

    Args:
        handle: the stored study.
        bench: prepared for this study.
        target: finished trials that the study shall have, those of earlier calls included.
        checkpoint_dir: folder for the checkpoints of running trials.
        on_event: told what happens.
        should_stop: asked every few steps; the running trial is checkpointed and given back.

    Returns:
        Whether the study has its trials; False: it was stopped before.

    Raises:
        ModelError: several trials failed in a row.
        StorageError: the storage is lost; the running trial was not handed in.
        EnvironmentProblemError: this machine lacks something; the running trial was given back.
    """
    failures = FailureCount(bench.config.name)
    while not should_stop():
        assignment = handle.ask(target)
        if assignment is None:
            return handle.finished_count() >= target
        on_event(TrialStarted(assignment=assignment, finished=handle.finished_count()))
        failed = _run_one(handle, bench, assignment, checkpoint_dir, on_event, should_stop)
        failures.note(assignment.number, None if failed is None else failed.error)
    return False


def _run_one(
    handle: StudyHandle,
    bench: Workbench,
    assignment: Assignment,
    checkpoint_dir: Path,
    on_event: Callable[[SearchEvent], None],
    should_stop: Callable[[], bool],
) -> FailureRecord | None:
    checkpoints = NotedCheckpoints(
        checkpoint_dir / f"trial-{assignment.original_number}",
        every_s=bench.config.compute.checkpoint_every_s,
    )

    def moved(progress: TrialProgress) -> None:
        checkpoints.fraction = progress.fraction
        handle.note_progress(
            assignment,
            dataclasses.asdict(progress),
            saved_fraction=checkpoints.saved_fraction,
        )
        on_event(TrialMoved(progress=progress))

    try:
        outcome = run_trial(
            bench,
            assignment.ratios,
            assignment.trade_off,
            kind=assignment.kind,
            seed=assignment.seed,
            inherited=inheritance_of(handle, bench, assignment.parent),
            on_progress=moved,
            checkpoints=checkpoints,
            should_stop=lambda: should_stop() or handle.is_lost(assignment),
            is_hopeless=partial(handle.is_hopeless, assignment) if handle.has_rungs else None,
        )
        hand_in(handle, bench, assignment, outcome)
    except TrialInterruptedError:
        handle.release(assignment)
        return None
    except (KeyboardInterrupt, EnvironmentProblemError):
        handle.release(assignment)
        raise
    except StorageError:
        raise
    except Exception as error:  # whatever a model, a metric or data can raise is a failed trial
        failure = describe_failure(assignment, error)
        logger.info("trial %d failed", assignment.number, exc_info=error)
        handle.fail(assignment, failure)
        checkpoints.clear()
        on_event(TrialFailed(assignment=assignment, failure=failure))
        return failure
    checkpoints.clear()
    on_event(
        TrialFinished(
            assignment=assignment, record=outcome.record, finished=handle.finished_count()
        )
    )
    return None


def inheritance_of(
    handle: StudyReader, bench: Workbench, parent: Parent | None
) -> Inheritance | None:
    """What a trial starts from, read from the study; None: the dense model.

    Raises:
        StudyNotFoundError: the parent's model was removed.
        EnvironmentProblemError: its file is missing or damaged.
    """
    if parent is None:
        return None
    return Inheritance.of(
        parent,
        handle.artifact(parent.number, WEIGHTS_FILE),
        handle.curves(parent.number).kept,
        bench.graph,
    )


class NotedCheckpoints(FolderCheckpoints):
    """Checkpoints that know how much of the trial the newest one holds."""

    fraction = 0.0
    """Of the trial that is done now; set by whoever watches it."""
    saved_fraction = 0.0
    """Of the trial that the newest checkpoint holds."""

    def save(self, checkpoint: TrialCheckpoint) -> None:
        """Write a checkpoint and note how far it reaches.

        Raises:
            EnvironmentProblemError: it could not be written; earlier checkpoints survive.
        """
        super().save(checkpoint)
        self.saved_fraction = self.fraction


def hand_in(
    handle: StudyHandle, bench: Workbench, assignment: Assignment, outcome: TrialOutcome
) -> None:
    """Store a trial's record, curves and model folder; one that was stopped early has no model.

    Raises:
        EnvironmentProblemError: the disk is full; nothing was stored.
    """
    if outcome.record.state == "pruned":
        handle.complete(assignment, outcome.record, outcome.curves, {})
        return
    with tempfile.TemporaryDirectory(prefix="automl-prune-") as scratch:
        folder = Path(scratch) / "model"
        save_model_folder(
            folder,
            outcome.model,
            manifest_of(bench, assignment.number, outcome),
            trust=bench.trusted,
        )
        handle.complete(
            assignment,
            outcome.record,
            outcome.curves,
            {name: folder / name for name in (WEIGHTS_FILE, MANIFEST_FILE)},
        )


def manifest_of(bench: Workbench, number: int, outcome: TrialOutcome) -> Manifest:
    """What the model folder of a trial says."""
    config, data = bench.config, bench.data
    return describe_trial(
        study=config.name,
        trial=number,
        builder=Builder(
            path=config.model.builder, kwargs=config.model.kwargs, num_classes=data.num_classes
        ),
        splits=Splits(
            config=config.data, seed=config.seed, sizes=data.split_sizes, digest=data.digest
        ),
        mean=data.mean,
        std=data.std,
        facts=bench.facts,
        record=outcome.record,
        widths={name: dataclasses.asdict(widths) for name, widths in outcome.widths.items()},
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    )


def describe_failure(assignment: BegunTrial, error: Exception) -> FailureRecord:
    """What a failed trial leaves."""
    first_line = str(error).partition("\n")[0]
    return failure_of(
        assignment,
        f"{type(error).__name__}: {first_line}"[:500],
        log="".join(traceback.format_exception(error))[-LOG_CHARACTERS:],
    )
