"""Before any compute is spent: what can be pruned, how far, and what a search would cost."""

from __future__ import annotations

import resource
import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from automl_prune.data import load_data
from automl_prune.evaluate import hardware_name
from automl_prune.graph import CostModel, trace_coupling
from automl_prune.graph.cost import count_params
from automl_prune.graph.narrow import deep_copy
from automl_prune.inner import InnerLoop
from automl_prune.models import build_model
from automl_prune.records import FixedRow
from automl_prune.teacher import teacher_can_be_remembered
from automl_prune.train import FineTuner
from automl_prune.weights import weights_to_bytes
from automl_prune.workbench import check_limits, group_table, ratio_bounds, reachable_macs

if TYPE_CHECKING:
    from torch import Tensor, nn

    from automl_prune.config import StudyConfig
    from automl_prune.data import Data
    from automl_prune.graph import CouplingGraph
    from automl_prune.records import GroupRow

TIMED_STEPS = 4
"""Steps of each kind that are timed, after one that warms up."""
STARTING_RATIO = 0.7
"""Keep ratio at which a step is timed: about the middle of a search."""
CHECKPOINT_COPIES = 6
"""A checkpoint holds weights and momenta; two are kept, and a third while it is written."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """What a search would take here, from steps that were really run."""

    dense_s: float
    """Training of the dense model; 0 with a checkpoint and no epochs."""
    trial_s: float
    trials: int
    disk_bytes: int
    """Models, manifests and curves of all trials, dense model, checkpoints."""
    memory_bytes: int
    """Largest resident memory so far of this process; on CUDA of the device."""
    hardware: str

    @property
    def total_s(self) -> float:
        """Dense training and all trials, one after the other."""
        return self.dense_s + self.trials * self.trial_s


@dataclass(frozen=True, slots=True, kw_only=True)
class Inspection:
    """What a study file means for its model and data."""

    groups: tuple[GroupRow, ...]
    fixed: tuple[FixedRow, ...]
    dense_macs: int
    dense_params: int
    min_macs: int
    max_macs: int
    split_sizes: dict[str, int]
    input_shape: tuple[int, int, int]
    class_names: tuple[str, ...]
    estimate: Estimate


def inspect_study(
    config: StudyConfig, *, device: str = "cpu", trusted: tuple[str, ...] = ()
) -> Inspection:
    """Load data and model, trace, and time a few steps of each kind; writes nothing.

    Raises:
        DataError, ModelError, TraceError, TrustError, ConfigError: as a search would.
        LimitError: the study's limits cannot be reached; names the reachable range.
    """
    torch.set_num_threads(config.compute.threads)
    data = load_data(config.data, seed=config.seed, trusted=trusted)
    model = build_model(
        config.model,
        num_classes=data.num_classes,
        input_shape=data.input_shape,
        trusted=trusted,
    )
    graph = trace_coupling(model, data.input_shape)
    cost = CostModel(graph)
    low_G, high_G = ratio_bounds(graph, config.groups)
    check_limits(config, cost, low_G, high_G)
    multiple = config.groups.channel_multiple
    return Inspection(
        groups=group_table(graph, cost, low_G, high_G),
        fixed=tuple(
            FixedRow(layer=f.layer, channels=f.channels, reason=f.reason) for f in graph.fixed
        ),
        dense_macs=cost.dense_macs,
        dense_params=count_params(model),
        min_macs=reachable_macs(graph, cost, low_G, multiple),
        max_macs=reachable_macs(graph, cost, high_G, multiple),
        split_sizes=data.split_sizes,
        input_shape=data.input_shape,
        class_names=data.class_names,
        estimate=_estimate(model, graph, cost, data, config, low_G, high_G, torch.device(device)),
    )


def _estimate(
    model: nn.Module,
    graph: CouplingGraph,
    cost: CostModel,
    data: Data,
    config: StudyConfig,
    low_G: Tensor,
    high_G: Tensor,
    device: torch.device,
) -> Estimate:
    model = model.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    loop = InnerLoop(
        deep_copy(model).requires_grad_(True),
        graph,
        cost,
        data,
        config,
        start_G=torch.full_like(low_G, STARTING_RATIO).clamp(low_G, high_G),
        low_G=low_G,
        high_G=high_G,
        trade_off=1.0,
        cost_scale=1.0,
        seed=config.seed,
        device=device,
        fixed=not graph.groups,
    )
    inner_s = _seconds_per_step(loop, config.inner.weight_steps_per_ratio_step)
    tuner = FineTuner(
        deep_copy(model).requires_grad_(True),
        model,
        data,
        _without_teacher(config) if teacher_can_be_remembered(data, config) else config,
        seed=config.seed,
        device=device,
    )
    finetune_s = _seconds_per_step(tuner, 1)
    evaluation_s = _evaluation_seconds(model, data, config, device)
    dense_s = _dense_seconds(model, data, config, device)
    weights_bytes = len(weights_to_bytes(model))
    trials = config.search.trials
    curves_bytes = 20 * len(graph.groups) * config.inner.steps
    return Estimate(
        dense_s=dense_s,
        trial_s=config.inner.steps * inner_s
        + config.finetune.steps * finetune_s
        + config.finetune.recalibration_batches * finetune_s / 3
        + 2 * evaluation_s,
        trials=trials,
        disk_bytes=weights_bytes * (1 + CHECKPOINT_COPIES)
        + trials * (round(weights_bytes * STARTING_RATIO) + curves_bytes),
        memory_bytes=_peak_memory(device),
        hardware=hardware_name(device),
    )


def _seconds_per_step(loop: InnerLoop | FineTuner, stride: int) -> float:
    steps = min(TIMED_STEPS * stride, loop.total_steps - stride)
    if steps <= 0:
        return 0.0
    loop.run(stride, None)
    since = time.perf_counter()
    loop.run(stride + steps, None)
    return (time.perf_counter() - since) / steps


def _evaluation_seconds(
    model: nn.Module, data: Data, config: StudyConfig, device: torch.device
) -> float:
    batch_size = config.data.eval_batch_size
    images_BCHW, _ = next(iter(data.in_order("select", batch_size=batch_size, device=device)))
    model.eval()
    with torch.no_grad():
        model(images_BCHW)
        since = time.perf_counter()
        model(images_BCHW)
    return (time.perf_counter() - since) * data.split_sizes["select"] / len(images_BCHW)


def _dense_seconds(
    model: nn.Module, data: Data, config: StudyConfig, device: torch.device
) -> float:
    """From steps without a teacher, which is what a step of the dense training is."""
    if not config.dense.epochs:
        return 0.0
    tuner = FineTuner(
        deep_copy(model).requires_grad_(True),
        model,
        data,
        _without_teacher(config),
        seed=config.seed,
        device=device,
        steps=TIMED_STEPS + 1,
    )
    steps_per_epoch = max(1, data.split_sizes["train"] // config.data.batch_size)
    return config.dense.epochs * steps_per_epoch * _seconds_per_step(tuner, 1)


def _without_teacher(config: StudyConfig) -> StudyConfig:
    alone = config.finetune.model_copy(update={"distillation": 0.0})
    return config.model_copy(update={"finetune": alone})


def _peak_memory(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
