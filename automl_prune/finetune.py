"""Longer training of a picked model, from its own weights or from scratch; can be resumed."""

from __future__ import annotations

import datetime
import hashlib
import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from automl_prune.card import model_card
from automl_prune.checkpoints import FolderCheckpoints
from automl_prune.config import FinetuneConfig, ModelConfig, StudyConfig
from automl_prune.errors import AutoMLPruneError
from automl_prune.evaluate import evaluate, hardware_name
from automl_prune.heap import keep_freed_memory
from automl_prune.manifest import Manifest, Measured, read_manifest
from automl_prune.modelfile import (
    load_dense,
    load_pruned,
    read_data,
    refuse_foreign,
    save_model_folder,
)
from automl_prune.seeds import derive_seed
from automl_prune.teacher import teacher_outputs
from automl_prune.train import FineTuner
from automl_prune.trial_state import TrialCheckpoint, TrialInterruptedError
from automl_prune.weights import weights_digest, weights_from_bytes
from automl_prune.workbench import versions

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import nn

    from automl_prune.data import Split

logger = logging.getLogger(__name__)

STEPS_BETWEEN_CHECKS = 5
CHECKPOINT_EVERY_S = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class FinetuneRequest:
    """How to train on."""

    steps: int
    lr: float
    seed: int
    from_scratch: bool = False
    """Forget the weights: what the architecture alone is worth."""
    distillation: float = 0.5
    """Weight of the distillation term, where the dense model is at hand."""

    def digest(self, manifest: Manifest) -> str:
        """Of everything that decides the result; names the checkpoints."""
        content = [manifest.weights_digest, self.steps, self.lr, self.seed, self.from_scratch]
        text = json.dumps([*content, self.distillation])
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def finetune_folder(
    folder: Path,
    out: Path,
    request: FinetuneRequest,
    *,
    dense_dir: Path,
    trusted: tuple[str, ...] = (),
    data_root: str | None = None,
    device: str = "cpu",
    on_step: Callable[[int, float], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> Manifest:
    """Train a picked model on ``train`` and write a new model folder.

    An interrupted call goes on where it stopped when it is repeated with the same request: its
    checkpoints lie beside ``out`` until it is finished.

    Args:
        folder: the picked model; not changed.
        out: the new model folder.
        request: how to train.
        dense_dir: where dense models are kept; the one that this model was pruned from teaches.
        trusted: packages that the person at the keyboard allowed.
        data_root: where the data lie here, if not where the manifest says.
        device: where to compute.
        on_step: called with (steps done, loss).
        should_stop: asked every few steps.

    Returns:
        The new manifest: accuracy on select and test measured, exports gone, latencies kept,
        since the widths are the same.

    Raises:
        TrialInterruptedError: ``should_stop`` said so; a checkpoint was written first.
        ModelFolderError: ``folder`` is damaged, or ``out`` holds something else.
        DataError: the data are not there.
    """
    refuse_foreign(out)
    keep_freed_memory()
    manifest = read_manifest(folder)
    model = load_pruned(folder, trust=trusted)
    data = read_data(manifest, trust=trusted, data_root=data_root)
    place = torch.device(device)
    if request.from_scratch:
        _forget(model, request.seed)
    teacher = find_dense(manifest, dense_dir, trusted=trusted)
    config = _config(manifest, request, distil=teacher is not None)
    teacher = (teacher if teacher is not None else model).to(place)
    tuner = FineTuner(
        model.to(place),
        teacher,
        data,
        config,
        seed=request.seed,
        device=place,
        teacher_NK=teacher_outputs(teacher, data, config, device=place),
    )
    checkpoints = FolderCheckpoints(
        out.with_name(f".{out.name}.{request.digest(manifest)}"), every_s=CHECKPOINT_EVERY_S
    )
    _run(tuner, checkpoints, on_step, should_stop)
    model.eval()

    def measured(split: Split) -> Measured:
        found = evaluate(model, data, split, manifest.splits.config, device=place)
        return Measured(accuracy=found.accuracy, loss=found.loss, num_images=found.num_images)

    manifest = manifest.model_copy(
        update={
            "select": measured("select"),
            "test": measured("test"),
            "exports": {},
            "weights_digest": weights_digest(model),
            "origin": "scratch" if request.from_scratch else "finetune",
            "finetune_steps": request.steps
            + (0 if request.from_scratch else manifest.finetune_steps),
            "seed": request.seed,
            "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "hardware": hardware_name(place),
            "versions": versions(),
        }
    )
    saved = save_model_folder(out, model.cpu(), manifest, card=model_card(manifest), trust=trusted)
    checkpoints.clear()
    return saved


def find_dense(
    manifest: Manifest, dense_dir: Path, *, trusted: tuple[str, ...] = ()
) -> nn.Module | None:
    """The dense model that a folder was pruned from, if it is kept here; told by its digest."""
    for path in sorted(Path(dense_dir).glob("*.safetensors")):
        dense = load_dense(manifest, trust=trusted)
        try:
            dense.load_state_dict(weights_from_bytes(path.read_bytes(), origin=str(path)))
        except (AutoMLPruneError, RuntimeError, OSError) as error:
            logger.info("%s is no dense model of this folder: %s", path, type(error).__name__)
            continue
        if weights_digest(dense) == manifest.dense.digest:
            return dense.eval().requires_grad_(False)
    return None


def _run(
    tuner: FineTuner,
    checkpoints: FolderCheckpoints,
    on_step: Callable[[int, float], None] | None,
    should_stop: Callable[[], bool] | None,
) -> None:
    saved = checkpoints.load()
    if saved is not None:
        tuner.load_state_dict({"tensors": saved.tensors, "values": saved.values})
    while tuner.step < tuner.total_steps:
        tuner.run(tuner.step + STEPS_BETWEEN_CHECKS, on_step)
        stop = should_stop is not None and should_stop()
        if (stop or checkpoints.due()) and tuner.step < tuner.total_steps:
            state = tuner.state_dict()
            checkpoints.save(
                TrialCheckpoint(phase="finetune", tensors=state["tensors"], values=state["values"])
            )
            if stop:
                raise TrialInterruptedError


def _forget(model: nn.Module, seed: int) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(seed, "initial-weights"))
        for module in model.modules():
            reset = getattr(module, "reset_parameters", None)
            if callable(reset):
                reset()


def _config(manifest: Manifest, request: FinetuneRequest, *, distil: bool) -> StudyConfig:
    return StudyConfig(
        name=manifest.study,
        seed=manifest.splits.seed,
        data=manifest.splits.config,
        model=ModelConfig(builder=manifest.builder.path, kwargs=manifest.builder.kwargs),
        finetune=FinetuneConfig(
            steps=request.steps,
            lr=request.lr,
            distillation=request.distillation if distil else 0.0,
        ),
    )
