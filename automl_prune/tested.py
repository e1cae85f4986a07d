"""Accuracy on ``test`` of the trials that were picked: noted beside the artifacts of the study.

Rows of trials are final once they are finished, and ``test`` is read later, for picked models
alone. So what ``pick`` measures stands in a file of its own, with the digest of the weights: a
study that was deleted and made again does not inherit it.
"""

from __future__ import annotations

import contextlib
import json
import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from automl_prune.atomic import write_file
from automl_prune.records import TrialRecord

if TYPE_CHECKING:
    from collections.abc import Collection
    from pathlib import Path

    from automl_prune.reading import StudyReader


@dataclass(frozen=True, slots=True, kw_only=True)
class OnTest:
    """What a trial's model reached on images that nothing was chosen by."""

    accuracy: float
    """Percent."""
    num_images: int


def note_test(
    study: StudyReader, number: int, *, accuracy: float, num_images: int, weights_digest: str
) -> None:
    """Note what a trial's model reached on ``test``; replaces an earlier note.

    Raises:
        EnvironmentProblemError: the artifact folder cannot be written.
    """
    content = {
        "accuracy": accuracy,
        "num_images": num_images,
        "weights_digest": weights_digest,
    }
    write_file(_folder(study) / f"{number}.json", json.dumps(content).encode())


def measured_on_test(
    study: StudyReader, numbers: Collection[int] | None = None
) -> dict[int, OnTest]:
    """Trials whose accuracy on ``test`` was read, by number; a note that is not theirs is none.

    Args:
        study: that they belong to.
        numbers: which to look at; None: all.
    """
    notes = {
        int(path.stem): content
        for path in sorted(_folder(study).glob("*.json"))
        if path.stem.isdecimal()
        and (numbers is None or int(path.stem) in numbers)
        and (content := _read(path)) is not None
    }
    records = study.records(notes) if notes else {}
    return {
        number: OnTest(accuracy=content["accuracy"], num_images=int(content["num_images"]))
        for number, content in notes.items()
        if isinstance(record := records.get(number), TrialRecord)
        and record.weights_digest == content["weights_digest"]
    }


def forget_tests(study: StudyReader) -> None:
    """Remove the notes of a study that is being deleted."""
    shutil.rmtree(_folder(study), ignore_errors=True)
    with contextlib.suppress(OSError):  # not empty, or not there
        _folder(study).parent.rmdir()


def _folder(study: StudyReader) -> Path:
    return study.artifact_dir / "tested" / study.name


def _read(path: Path) -> dict[str, Any] | None:
    """A note; None where it is not one that :func:`note_test` wrote."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    ours = isinstance(content, dict) and {"accuracy", "num_images", "weights_digest"} <= set(
        content
    )
    return content if ours else None
