"""From a trial's stored model to a picked model folder: reload, measure on ``test``, write."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from automl_prune.card import model_card
from automl_prune.evaluate import evaluate, hardware_name
from automl_prune.manifest import Manifest, Measured, read_manifest
from automl_prune.modelfile import load_pruned, read_data, refuse_foreign, save_model_folder

if TYPE_CHECKING:
    from pathlib import Path


def take_model(
    source: Path,
    out: Path,
    *,
    trusted: tuple[str, ...] = (),
    data_root: str | None = None,
    device: str = "cpu",
) -> Manifest:
    """Copy a trial's model folder to ``out`` with its accuracy on ``test``, which is read here.

    Args:
        source: the trial's own folder; not changed.
        out: where to write.
        trusted: packages that the person at the keyboard allowed.
        data_root: where the data lie here, if not where the study says.
        device: where to evaluate.

    Returns:
        The manifest as written.

    Raises:
        ModelFolderError: the stored model is damaged, or ``out`` holds something else.
        DataError: the data are not there.
        EnvironmentProblemError: ``out`` cannot be written; what was there before still is.
    """
    refuse_foreign(out)
    manifest = read_manifest(source)
    model = load_pruned(source, trust=trusted)
    data = read_data(manifest, trust=trusted, data_root=data_root)
    place = torch.device(device)
    model = model.to(device=place, memory_format=torch.channels_last)  # type: ignore[call-overload]
    found = evaluate(model, data, "test", manifest.splits.config, device=place, trusted=trusted)
    manifest = manifest.model_copy(
        update={
            "test": Measured(
                accuracy=found.accuracy, loss=found.loss, num_images=found.num_images
            ),
            "hardware": manifest.hardware or hardware_name(place),
        }
    )
    return save_model_folder(out, model.cpu(), manifest, card=model_card(manifest), trust=trusted)
