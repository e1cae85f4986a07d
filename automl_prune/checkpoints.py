"""A trial's checkpoints as files: one safetensors file each, the rest as metadata."""

from __future__ import annotations

import json
import logging
import shutil
import time
from typing import TYPE_CHECKING

from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from automl_prune.atomic import write_file
from automl_prune.trial_state import TrialCheckpoint

if TYPE_CHECKING:
    from pathlib import Path

logger = logging.getLogger(__name__)

KEPT = 2
"""Newest checkpoints that stay, so that a damaged last one costs little."""


class FolderCheckpoints:
    """Checkpoints of one trial in a folder of their own, oldest removed.

    Every file is written beside its place and renamed, so a reader, on this host or another one
    that mounts the folder, sees whole files only.
    """

    def __init__(self, folder: Path, *, every_s: float) -> None:
        """Use ``folder`` (made on first save) and be due every ``every_s`` seconds."""
        self._folder = folder
        self._every_s = every_s
        self._last = time.monotonic()

    def due(self) -> bool:
        """Whether ``every_s`` seconds have passed since the last save, or since construction."""
        return time.monotonic() - self._last >= self._every_s

    def load(self) -> TrialCheckpoint | None:
        """The newest readable checkpoint; a damaged one is named in the log and passed over."""
        for path in reversed(self._files()):
            try:
                with safe_open(path, framework="pt") as file:
                    metadata = file.metadata()
                    tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
                return TrialCheckpoint(
                    phase=metadata["phase"],
                    tensors=tensors,
                    values=json.loads(metadata["values"]),
                )
            except (SafetensorError, OSError, KeyError, ValueError) as error:
                logger.warning(
                    "checkpoint %s cannot be read (%s); trying an older one", path, error
                )
        return None

    def save(self, checkpoint: TrialCheckpoint) -> None:
        """Write a checkpoint atomically and remove all but the newest two.

        Raises:
            EnvironmentProblemError: it could not be written; earlier checkpoints survive.
        """
        files = self._files()
        number = int(files[-1].stem) + 1 if files else 0
        path = self._folder / f"{number:08d}.safetensors"
        tensors = {
            name: tensor.detach().clone().contiguous()
            for name, tensor in checkpoint.tensors.items()
        }
        metadata = {"phase": checkpoint.phase, "values": json.dumps(checkpoint.values)}
        write_file(path, save(tensors, metadata=metadata))
        for old in self._files()[:-KEPT]:
            old.unlink(missing_ok=True)
        self._last = time.monotonic()

    def clear(self) -> None:
        """Remove them all: the trial is finished."""
        shutil.rmtree(self._folder, ignore_errors=True)

    def _files(self) -> list[Path]:
        return sorted(self._folder.glob("*.safetensors"))
