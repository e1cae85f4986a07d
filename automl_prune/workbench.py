"""What every trial of a study shares on one worker: data, dense model, coupling graph, cost."""

from __future__ import annotations

import fnmatch
import hashlib
import json
import logging
import os
import platform
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import torch

from automl_prune import __version__
from automl_prune.arithmetic import set_precision
from automl_prune.atomic import write_file
from automl_prune.data import load_data
from automl_prune.errors import ConfigError, EnvironmentProblemError, LimitError, TraceError
from automl_prune.evaluate import evaluate, measure_latency
from automl_prune.graph import CostModel, trace_coupling
from automl_prune.graph.cost import count_params
from automl_prune.heap import keep_freed_memory
from automl_prune.inner import measure_cost_scale
from automl_prune.inner.rounding import round_to_units
from automl_prune.models import build_model
from automl_prune.records import FixedRow, GroupRow, StudyFacts
from automl_prune.teacher import teacher_outputs
from automl_prune.train import train_dense
from automl_prune.weights import weights_digest, weights_from_bytes, weights_to_bytes

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from torch import Tensor, nn

    from automl_prune.config import GroupsConfig, StudyConfig
    from automl_prune.data import Data
    from automl_prune.graph import CouplingGraph

logger = logging.getLogger(__name__)


@dataclass(kw_only=True, eq=False)
class Workbench:
    """Loaded once per worker, read by every trial; trials work on copies of the model."""

    config: StudyConfig
    data: Data
    dense: nn.Module
    """Trained dense model in evaluation mode on ``device``; the teacher. Never changed."""
    graph: CouplingGraph
    cost: CostModel
    facts: StudyFacts
    low_G: Tensor
    """Lowest keep ratio per group, float64."""
    high_G: Tensor
    device: torch.device
    trusted: tuple[str, ...]

    @classmethod
    def prepare(
        cls,
        config: StudyConfig,
        *,
        cache_dir: Path,
        facts: StudyFacts | None = None,
        device: str = "cpu",
        trusted: tuple[str, ...] = (),
        on_dense_progress: Callable[[int, int, float], None] | None = None,
    ) -> Workbench:
        """Load data and model, train the dense model if nobody has, trace, calibrate.

        Sets the number of CPU threads and the precision of this process, since they decide a
        trial's bits, and lets it keep the memory that it frees.

        Args:
            config: the study.
            cache_dir: folder of dense models, named by the digest of what made them.
            facts: of the stored study, when it exists already; else they are measured.
            device: ``cpu``, ``cuda``, ``cuda:1``.
            trusted: packages whose import paths the person at the keyboard allowed.
            on_dense_progress: called with (step, total steps, loss) while the dense model trains.

        Raises:
            ConfigError: a pattern of ``groups`` matches no layer.
            EnvironmentProblemError: the device is not there.
            LimitError: the limits cannot be reached with this model.
            TraceError: no channel of the model can be removed, or it cannot be traced.
            DataError, ModelError, TrustError: from the parts.
        """
        place = _usable_device(device)
        keep_freed_memory()
        torch.set_num_threads(config.compute.threads)
        set_precision(config.compute.precision)
        if config.compute.deterministic:
            torch.backends.cudnn.deterministic = True
            torch.backends.cudnn.benchmark = False
        data = load_data(config.data, seed=config.seed, trusted=trusted)
        model = build_model(
            config.model,
            num_classes=data.num_classes,
            input_shape=data.input_shape,
            trusted=trusted,
            seed=config.seed,
        )
        graph = trace_coupling(model, data.input_shape)
        if not graph.groups:
            raise TraceError(
                f"{config.model.builder} has no channels that could be removed: "
                + "; ".join(f"{row.layer}: {row.reason}" for row in graph.fixed[:8])
            )
        cost = CostModel(graph)
        low_G, high_G = ratio_bounds(graph, config.groups)
        check_limits(config, cost, low_G, high_G)
        dense = _trained(model, data, config, cache_dir, place, on_dense_progress)
        if facts is None:
            facts = _measure_facts(dense, graph, cost, data, config, low_G, high_G, place, trusted)
        return cls(
            config=config,
            data=data,
            dense=dense,
            graph=graph,
            cost=cost,
            facts=facts,
            low_G=low_G,
            high_G=high_G,
            device=place,
            trusted=trusted,
        )

    @cached_property
    def teacher_logits(self) -> Tensor | None:
        """What the dense model says of ``train``, where fine-tuning can remember it."""
        return teacher_outputs(self.dense, self.data, self.config, device=self.device)

    def keep_dense(self, folder: Path) -> None:
        """Leave the dense weights in a folder, where :meth:`prepare` finds them."""
        path = folder / f"{dense_digest(self.config, self.data)}.safetensors"
        if not path.is_file():
            write_file(path, weights_to_bytes(self.dense))


def ratio_bounds(graph: CouplingGraph, config: GroupsConfig) -> tuple[Tensor, Tensor]:
    """Lowest and highest keep ratio of every group, from the study's ``groups`` table.

    Returns:
        Two float64 tensors of shape (G,); both 1.0 where a group is kept whole.

    Raises:
        ConfigError: a pattern matches no layer that can lose channels.
    """
    low = torch.full((len(graph.groups),), config.min_ratio, dtype=torch.float64)
    high = torch.ones(len(graph.groups), dtype=torch.float64)
    limits = {**config.bounds, **{pattern: (1.0, 1.0) for pattern in config.keep}}
    for pattern, (lowest, highest) in limits.items():
        matched = False
        for index, group in enumerate(graph.groups):
            if any(fnmatch.fnmatchcase(layer, pattern) for layer in group.layers):
                low[index], high[index], matched = lowest, highest, True
        if not matched:
            names = ", ".join(group.name for group in graph.groups[:8])
            raise ConfigError(
                f"groups: pattern {pattern!r} matches no layer that can lose channels; "
                f"groups of this model start at {names}{', ...' if len(graph.groups) > 8 else ''}"
                " (see 'automl-prune inspect')"
            )
    return low, high


def reachable_macs(
    graph: CouplingGraph, cost: CostModel, ratios_G: Tensor, channel_multiple: int
) -> int:
    """MACs of the pruned model with every group at the given keep ratio, rounded to units."""
    return round(float(cost.macs(round_to_units(ratios_G, graph, channel_multiple).double())))


def check_limits(config: StudyConfig, cost: CostModel, low_G: Tensor, high_G: Tensor) -> None:
    """Refuse limits that no pruned model of this network can satisfy.

    Raises:
        LimitError: names the reachable range.
    """
    graph = cost.graph
    multiple = config.groups.channel_multiple
    lowest = reachable_macs(graph, cost, low_G, multiple)
    limits = config.search.limits
    asked = limits.max_macs
    if limits.max_macs_ratio is not None:
        from_ratio = round(limits.max_macs_ratio * cost.dense_macs)
        asked = from_ratio if asked is None else min(asked, from_ratio)
    if asked is not None and asked < lowest:
        raise LimitError(
            f"search.limits ask for at most {asked:,} MACs; this model can be brought to between "
            f"{lowest:,} and {cost.dense_macs:,} MACs ({lowest / cost.dense_macs:.1%} of the "
            "dense model). Raise the limit, or lower groups.min_ratio"
        )


def _usable_device(name: str) -> torch.device:
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise EnvironmentProblemError(
            f"--device {name!r} is no device; write cpu, cuda or cuda:1"
        ) from error
    if device.type == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if (device.index or 0) >= count:
            raise EnvironmentProblemError(
                f"--device {name} was asked for; this machine has {count} CUDA devices. "
                "Use --device cpu"
            )
    return device


def dense_digest(config: StudyConfig, data: Data) -> str:
    """First 16 hex digits of the SHA-256 of everything that makes the dense model."""
    content = {
        "model": config.model.model_dump(mode="json"),
        "dense": config.dense.model_dump(mode="json"),
        "data": data.digest,
        "batch_size": config.data.batch_size,
        "augment": config.data.augment,
        "loss": config.data.loss,
        "seed": config.seed,
        "threads": config.compute.threads,
        "precision": config.compute.precision,
    }
    checkpoint = config.model.checkpoint
    if checkpoint not in (None, "builder"):
        with open(os.path.expanduser(str(checkpoint)), "rb") as file:
            content["checkpoint"] = hashlib.file_digest(file, "sha256").hexdigest()
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def _trained(
    model: nn.Module,
    data: Data,
    config: StudyConfig,
    cache_dir: Path,
    device: torch.device,
    on_progress: Callable[[int, int, float], None] | None,
) -> nn.Module:
    model = model.to(device).to(memory_format=torch.channels_last)
    path = cache_dir / f"{dense_digest(config, data)}.safetensors"
    if path.is_file():
        model.load_state_dict(weights_from_bytes(path.read_bytes(), origin=str(path)))
        logger.info("dense model read from %s", path)
    elif config.dense.epochs:
        train_dense(model, data, config, device=device, on_progress=on_progress)
        write_file(path, weights_to_bytes(model))
    model = model.to(device).to(memory_format=torch.channels_last).eval()
    return model.requires_grad_(False)


def _measure_facts(
    dense: nn.Module,
    graph: CouplingGraph,
    cost: CostModel,
    data: Data,
    config: StudyConfig,
    low_G: Tensor,
    high_G: Tensor,
    device: torch.device,
    trusted: tuple[str, ...],
) -> StudyFacts:
    compute = config.compute
    multiple = config.groups.channel_multiple
    return StudyFacts(
        groups=group_table(graph, cost, low_G, high_G),
        fixed=tuple(
            FixedRow(layer=f.layer, channels=f.channels, reason=f.reason) for f in graph.fixed
        ),
        dense_macs=cost.dense_macs,
        dense_params=count_params(dense),
        dense_accuracy=evaluate(
            dense, data, "select", config.data, device=device, trusted=trusted
        ).accuracy,
        dense_digest=weights_digest(dense),
        dense_latency=measure_latency(
            dense,
            data.input_shape,
            batch_size=compute.latency_batch_size,
            threads=compute.threads,
            device=device,
        )
        if compute.measure_latency
        else None,
        min_macs=reachable_macs(graph, cost, low_G, multiple),
        max_macs=reachable_macs(graph, cost, high_G, multiple),
        cost_scale=measure_cost_scale(
            dense, graph, cost, data, config, low_G=low_G, high_G=high_G, device=device
        ),
        input_shape=data.input_shape,
        class_names=data.class_names,
        split_sizes=data.split_sizes,
        select_contaminated=config.model.checkpoint is not None,
    )


def group_table(
    graph: CouplingGraph, cost: CostModel, low_G: Tensor, high_G: Tensor
) -> tuple[GroupRow, ...]:
    """The study's stored table of groups."""
    rows = []
    for index, group in enumerate(graph.groups):
        counts_G = cost.dense_counts_G.clone()
        counts_G[index] = 1
        rows.append(
            GroupRow(
                name=group.name,
                layers=group.layers,
                units=group.num_units,
                channels_per_unit=group.channels_per_unit,
                macs_share=1.0 - float(cost.macs(counts_G)) / cost.dense_macs,
                low=float(low_G[index]),
                high=float(high_G[index]),
            )
        )
    return tuple(rows)


def versions() -> dict[str, str]:
    """Versions that can change a trial's bits."""
    return {
        "automl-prune": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
    }
