"""What the dense model says of training images, computed once where the images stay as they are.

Fine-tuning asks the dense model about every batch, which costs its whole forward pass. Where
nothing is augmented an image's answer is the same in every epoch and trial. Shape suffixes:
N images, B images of a batch, K classes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from automl_prune.train import float_logits

if TYPE_CHECKING:
    from torch import Tensor, nn

    from automl_prune.config import StudyConfig
    from automl_prune.data import Data

_MOST_NUMBERS = 2**26
"""A quarter of a gibibyte."""
_FEWEST_PASSES = 0.25
"""Share of ``train`` that one fine-tuning sees; a worker does several."""


def teacher_can_be_remembered(data: Data, config: StudyConfig) -> bool:
    """Whether its outputs stay the same, fit into memory and are asked for often enough.

    A rule and not a measurement: a trial must give the same bits on every worker.
    """
    num_images, tuning = data.split_sizes["train"], config.finetune
    return (
        data.augment == "none"
        and tuning.distillation > 0.0
        and num_images * data.num_classes <= _MOST_NUMBERS
        and tuning.steps * config.data.batch_size >= _FEWEST_PASSES * num_images
    )


def teacher_outputs(
    teacher: nn.Module, data: Data, config: StudyConfig, *, device: torch.device | str
) -> Tensor | None:
    """The teacher's logits for every image of ``train``, in the order of ``Data.in_order``.

    Args:
        teacher: on ``device``; asked in evaluation mode.
        data: ``train`` is read, and nothing else.
        config: ``finetune`` and ``data`` say how it will be asked.
        device: where to compute.

    Returns:
        (N, K) float32 on ``device``; None where :func:`teacher_can_be_remembered` says no.
    """
    if not teacher_can_be_remembered(data, config):
        return None
    teacher.eval()
    batches = data.in_order("train", batch_size=config.data.batch_size, device=device)
    with torch.no_grad():
        return torch.cat([float_logits(teacher, images_BCHW) for images_BCHW, _ in batches])
