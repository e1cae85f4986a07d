"""Measuring a model: accuracy and loss on a split, latency, and on what hardware."""

from __future__ import annotations

import platform
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from automl_prune.arithmetic import exact_arithmetic
from automl_prune.errors import ModelError
from automl_prune.graph.narrow import deep_copy
from automl_prune.host_lock import host_lock
from automl_prune.records import Latency

if TYPE_CHECKING:
    from torch import Tensor, nn

    from automl_prune.config import DataConfig
    from automl_prune.data import Data, Split

LATENCY_BUDGET_S = 0.3
"""Repetitions stop after this time, once there are enough for a median."""
_WARM_UP_S = 0.05
_MIN_REPEATS, _MAX_REPEATS = 7, 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """What a model does on one split."""

    accuracy: float
    """Percent: top-1, or the user's metric."""
    loss: float
    """Mean over the images."""
    num_images: int


def evaluate(
    model: nn.Module,
    data: Data,
    split: Split,
    config: DataConfig,
    *,
    device: torch.device | str,
    trusted: tuple[str, ...] = (),
) -> Evaluation:
    """Accuracy and loss on every image of a split, in float32, without augmentation.

    Args:
        model: on ``device``; its mode is restored.
        data: gives images, loss and metric.
        split: which images.
        config: the size of evaluation batches.
        device: where to compute.
        trusted: not used; import paths are resolved when the data are loaded.

    Raises:
        ModelError: the user's metric does not give a finite number.
    """
    correct = torch.zeros((), dtype=torch.int64, device=device)
    loss_sum = torch.zeros((), dtype=torch.float64, device=device)
    logits: list[Tensor] = []
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.inference_mode(), exact_arithmetic():
            for images_BCHW, labels_B in data.in_order(
                split, batch_size=config.eval_batch_size, device=device
            ):
                logits_BK = model(images_BCHW)
                loss_sum += data.loss(logits_BK, labels_B).double() * len(labels_B)
                if data.metric is None:
                    correct += (logits_BK.argmax(1) == labels_B).sum()
                else:
                    logits.append(logits_BK.cpu())
    finally:
        for module, was_training in modes:
            module.training = was_training
    num_images = data.split_sizes[split]
    accuracy = 100.0 * int(correct) / num_images
    if data.metric is not None:
        accuracy = _user_metric(data, torch.cat(logits), data.labels(split))
    return Evaluation(accuracy=accuracy, loss=float(loss_sum) / num_images, num_images=num_images)


def measure_latency(
    model: nn.Module,
    input_shape: tuple[int, int, int],
    *,
    batch_size: int,
    threads: int,
    device: torch.device | str,
    reference: tuple[nn.Module, Latency] | None = None,
) -> Latency:
    """Wall time of one forward pass: float32, channels-last, evaluation mode, after a warm-up.

    Under the host's lock: workers do not measure each other measuring. They still share the
    machine with each other's training, and its speed may change from minute to minute: where
    latencies that were measured at different times are to be compared, give a reference.

    Args:
        model: not changed; a copy is measured.
        input_shape: (channels, height, width) of an image.
        batch_size: images of a forward pass.
        threads: CPU threads; the process's own number is restored.
        device: where to compute.
        reference: a model and its latency, measured before on this hardware with this batch size
            and so many threads. It is measured again, in turns with ``model``; the result is the
            ratio of the two, in the median, times that latency.

    Raises:
        EnvironmentProblemError: the lock's file cannot be opened.
    """
    place = torch.device(device)
    models = [
        deep_copy(each).to(device=place).eval().to(memory_format=torch.channels_last)
        for each in (model, *([] if reference is None else [reference[0]]))
    ]
    generator = torch.Generator().manual_seed(0)
    images_BCHW = torch.randn(batch_size, *input_shape, generator=generator)
    images_BCHW = images_BCHW.to(device=place, memory_format=torch.channels_last)
    threads_before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with host_lock(), torch.inference_mode():
            _forwards_s(models, images_BCHW)
            warm_until = time.perf_counter() + _WARM_UP_S
            while time.perf_counter() < warm_until:
                _forwards_s(models, images_BCHW)
            until = time.perf_counter() + LATENCY_BUDGET_S * len(models)
            turns: list[list[float]] = []
            while len(turns) < _MIN_REPEATS or (
                time.perf_counter() < until and len(turns) < _MAX_REPEATS
            ):
                turns.append(_forwards_s(models, images_BCHW))
    finally:
        torch.set_num_threads(threads_before)
    times_ms = 1e3 * np.array(turns).T
    own_ms = times_ms[0]
    if reference is not None:
        own_ms = own_ms / times_ms[1] * reference[1].median_ms
    lower, median, upper = np.percentile(own_ms, [25, 50, 75])
    return Latency(
        median_ms=float(median),
        spread_ms=float(upper - lower),
        batch_size=batch_size,
        threads=threads,
        hardware=hardware_name(place),
    )


def hardware_name(device: torch.device | str = "cpu") -> str:
    """The CPU's or GPU's model, as the machine names it."""
    place = torch.device(device)
    if place.type == "cuda":
        return torch.cuda.get_device_name(place)
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines():
            key, _, value = line.partition(":")
            if key.strip() in ("model name", "Model", "Processor") and value.strip():
                return value.strip()
    return platform.processor() or platform.machine() or "unknown CPU"


def _forwards_s(models: list[nn.Module], images_BCHW: Tensor) -> list[float]:
    return [_forward_s(model, images_BCHW) for model in models]


def _forward_s(model: nn.Module, images_BCHW: Tensor) -> float:
    started = time.perf_counter()
    model(images_BCHW)
    if images_BCHW.device.type == "cuda":
        torch.cuda.synchronize(images_BCHW.device)
    return time.perf_counter() - started


def _user_metric(data: Data, logits_NK: Tensor, labels_N: Tensor) -> float:
    assert data.metric is not None
    value = float(data.metric(logits_NK, labels_N))
    if not np.isfinite(value):
        raise ModelError(
            f"data.metric gave {value} on {len(labels_N)} images; it must give a finite number "
            "in percent, larger is better"
        )
    return value
