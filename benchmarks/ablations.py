"""What each part of the inner loop buys: the study as shipped, and with one thing changed.

    python benchmarks/ablations.py --study digits --seeds 21 22 23 24 25 26 --json FILE
    python benchmarks/ablations.py --variants default "stride 4" --json FILE

Per seed and variant: λ's scale is measured, then trials are run over a sweep of λ, each from the
same starting point; where something is changed that moves compute between phases, the number of
weight, ratio and fine-tuning steps together stays what it is by default. The score is the
hypervolume of the sweep's front on ``select`` (reference point: chance accuracy, dense MACs),
paired over seeds. A second call with the same file goes on where the first one stopped.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import datetime
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING
from unittest import mock

import numpy as np
import scipy.stats
import torch

from automl_prune import trial as trial_module
from automl_prune.atomic import write_file
from automl_prune.config import StudyConfig, load_study
from automl_prune.evaluate import hardware_name
from automl_prune.inner import alternate, loss, scale
from automl_prune.inner.loss import ratio_gradient
from automl_prune.inner.optimizer import RatioOptimizer, weight_step
from automl_prune.inner.rank import ranks_of, unit_importance
from automl_prune.inner.window import ramp
from automl_prune.mask import masked_forward
from automl_prune.pareto import front, hypervolume
from automl_prune.seeds import derive_seed, trial_seed
from automl_prune.workbench import Workbench, versions

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

    from torch import Tensor

LONGEST_SWEEP = (0.15, 8.0)


class TaylorRanking(alternate.InnerLoop):
    """Ranks by a moving average of (m dL/dm)^2, read off the ratio steps; L2 at first."""

    def __init__(self, *args: object, **kwargs: object) -> None:
        super().__init__(*args, **kwargs)  # type: ignore[arg-type]
        importance_U = unit_importance(self.model, self._graph)
        self._importance_U = importance_U / importance_U.mean()
        mask_gradient = self._execution.mask_gradient

        def noting(images: Tensor, labels: Tensor, mask_U: Tensor) -> tuple[Tensor, Tensor]:
            loss_value, gradient_U = mask_gradient(images, labels, mask_U)
            newest_U = (mask_U * gradient_U).square()
            newest_U = newest_U / newest_U.mean().clamp(min=1e-30)
            mixed_U = 0.9 * self._importance_U + 0.1 * newest_U
            self._importance_U = torch.where(mask_U > 0, mixed_U, self._importance_U)
            return loss_value, gradient_U

        self._execution.mask_gradient = noting  # type: ignore[method-assign]

    def _refresh_ranks(self, step: int) -> None:
        before_U = self._rank_U
        super()._refresh_ranks(step)
        if self._rank_U is not before_U:
            self._rank_U = ranks_of(self._importance_U, self._graph)


class SoftMasks(alternate.InnerLoop):
    """Weight steps under the soft ramp instead of hard draws."""

    def _weight_step(self) -> Tensor:
        if self._fixed:
            return super()._weight_step()
        self._refresh_ranks(self.step)
        batch = next(self._train_batches)
        torch.manual_seed(derive_seed(self._seed, "step", self.step))
        return self._soft_step(batch, self._soft_mask())

    def _soft_mask(self) -> Tensor:
        k_G, tau_G = self._window(self.step)
        return ramp(k_G, tau_G, self._rank_U, self._group_U)

    def _soft_step(self, batch: tuple[Tensor, Tensor], mask_U: Tensor) -> Tensor:
        self.model.train()
        value = self._data.loss(
            masked_forward(self.model, self._graph, mask_U, batch[0]), batch[1]
        )
        value.backward()  # type: ignore[no-untyped-call]
        parameters = dict(self.model.named_parameters())
        weight_step(
            [parameters[name] for name in self._momenta],
            list(self._momenta.values()),
            lr=self._inner.weight_lr,
            momentum=self._inner.weight_momentum,
            weight_decay=self._inner.weight_decay,
        )
        return value.detach()


class JointSteps(SoftMasks):
    """Weights and ratios move together, on every batch of ``train``, under the soft ramp.

    As many ratio steps as weight steps: they come free with the same backward pass.
    """

    def _soft_mask(self) -> Tensor:
        return super()._soft_mask().requires_grad_(True)

    def _soft_step(self, batch: tuple[Tensor, Tensor], mask_U: Tensor) -> Tensor:
        value = super()._soft_step(batch, mask_U)
        assert mask_U.grad is not None
        k_G, tau_G = self._window(self.step)
        self._joint = (
            value,
            ratio_gradient(mask_U.grad, k_G, tau_G, self._rank_U, self._group_U),
        )
        return value

    def _search_gradient(self, number: int, batch: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        return self._joint


class Adam(RatioOptimizer):
    """Steps of the ratios by Adam, group by group."""

    def step(self, gradient_G: Tensor, lr: float) -> None:
        """See :class:`RatioOptimizer`; ``lr`` is the length of every group's step."""
        if not hasattr(self, "_moments"):
            self._moments, self._count = [torch.zeros_like(gradient_G) for _ in range(2)], 0
        first_G, second_G = self._moments
        self._count += 1
        first_G.lerp_(gradient_G, 0.1)
        second_G.lerp_(gradient_G.square(), 0.01)
        norm_G = (second_G / (1 - 0.99**self._count)).sqrt().clamp(min=1e-12)
        step_G = first_G / (1 - 0.9**self._count) / norm_G
        newest = torch.stack([gradient_G.square().sum(), torch.ones((), dtype=torch.float64)])
        self.square = self._norm_decay * self.square + (1.0 - self._norm_decay) * newest
        wanted_G = self.ratios_G - lr * step_G
        self.ratios_G = torch.minimum(torch.maximum(wanted_G, self._low_G), self._high_G)


def scale_ranking(model: torch.nn.Module, graph: object, _first_U: object) -> Tensor:
    """By the size of the normalisation's scale alone; groups without one by L2."""
    group_U = alternate.unit_groups(graph)  # type: ignore[arg-type]
    scales_U = torch.zeros(graph.num_units + 1, dtype=torch.float64)  # type: ignore[attr-defined]
    for name, layer in graph.layers.items():  # type: ignore[attr-defined]
        if layer.kind not in ("conv", "linear", "depthwise", "pad"):
            weight = model.get_submodule(name).weight.detach().abs().double()
            scales_U.index_add_(0, layer.out_units % len(scales_U), weight)
    scales_U = scales_U[:-1]
    known_G = torch.zeros(int(group_U.max()) + 1, dtype=torch.float64)
    known_G.index_add_(0, group_U, scales_U)
    by_norm_U = unit_importance(model, graph)  # type: ignore[arg-type]
    return ranks_of(torch.where(known_G[group_U] > 0, scales_U, by_norm_U), graph)  # type: ignore[arg-type]


def centred(shape: Callable[..., Tensor], k_G: Tensor, tau_G: Tensor, *rest: Tensor) -> Tensor:
    """The window around the k-th unit, so that the mask's sum is k; narrower near the ends."""
    sizes_G = torch.bincount(rest[-1], minlength=len(k_G)).double()
    room_G = 1.0 + 2.0 * torch.minimum(k_G.detach() - 1.0, sizes_G - k_G.detach())
    tau_G = torch.minimum(tau_G, room_G.clamp(min=1.0))
    return shape(k_G - (tau_G - 1.0) / 2.0, tau_G, *rest)


@contextlib.contextmanager
def centred_window() -> Iterator[None]:
    def soft(k_G: Tensor, tau_G: Tensor, *rest: Tensor) -> Tensor:
        return centred(window_ramp, k_G, tau_G, *rest)

    def hard(k_G: Tensor, tau_G: Tensor, *rest: Tensor) -> Tensor:
        return centred(window_draw, k_G, tau_G, *rest)

    window_ramp, window_draw = alternate.ramp, alternate.hard_draw
    with (
        mock.patch.object(alternate, "ramp", soft),
        mock.patch.object(loss, "ramp", soft),
        mock.patch.object(alternate, "hard_draw", hard),
    ):
        yield


@contextlib.contextmanager
def loop_class(kind: type[alternate.InnerLoop]) -> Iterator[None]:
    with (
        mock.patch.object(trial_module, "InnerLoop", kind),
        mock.patch.object(scale, "InnerLoop", kind),
    ):
        yield


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """One change."""

    part: str
    overrides: dict[str, float] = dataclasses.field(default_factory=dict)
    """Of the study's keys; a value ``a * b`` scales the study's own."""
    scaled: dict[str, float] = dataclasses.field(default_factory=dict)
    """Keys whose own value is multiplied."""
    patch: Callable[[], AbstractContextManager[object]] = contextlib.nullcontext
    equal_compute: bool = True
    """Fine-tuning is as much longer or shorter as the loop is shorter or longer."""


VARIANTS: dict[str, Variant] = {
    "default": Variant(part=""),
    "stride 1": Variant(part="schedule", overrides={"inner.weight_steps_per_ratio_step": 1}),
    "stride 2": Variant(part="schedule", overrides={"inner.weight_steps_per_ratio_step": 2}),
    "stride 8": Variant(part="schedule", overrides={"inner.weight_steps_per_ratio_step": 8}),
    "stride 8, ratio lr x 2": Variant(
        part="schedule",
        overrides={"inner.weight_steps_per_ratio_step": 8},
        scaled={"inner.ratio_lr": 2.0},
    ),
    "ratio steps on half batches": Variant(
        part="schedule", overrides={"inner.ratio_batch_fraction": 0.5}, equal_compute=False
    ),
    "ratio steps on quarter batches": Variant(
        part="schedule", overrides={"inner.ratio_batch_fraction": 0.25}, equal_compute=False
    ),
    "draw held 1 step": Variant(part="schedule", overrides={"inner.hold_draw": 1}),
    "draw held 2 steps": Variant(part="schedule", overrides={"inner.hold_draw": 2}),
    "draw held 8 steps": Variant(part="schedule", overrides={"inner.hold_draw": 8}),
    "no budget": Variant(part="cost", overrides={"inner.budget_ratio": "none"}),
    "loop half as long": Variant(part="schedule", scaled={"inner.steps": 0.5}),
    "loop 1.5 times as long": Variant(part="schedule", scaled={"inner.steps": 1.5}),
    "window centred": Variant(part="window", patch=centred_window),
    "window starts at 0.1": Variant(part="window", overrides={"inner.window_start": 0.1}),
    "window starts at 0.5": Variant(part="window", overrides={"inner.window_start": 0.5}),
    "window narrows to the end": Variant(part="window", overrides={"inner.anneal_fraction": 1.0}),
    "window of one channel": Variant(part="window", overrides={"inner.window_start": 0.001}),
    "normalisation scale": Variant(
        part="ranking", patch=lambda: mock.patch.object(alternate, "rank_units", scale_ranking)
    ),
    "Taylor, moving average": Variant(part="ranking", patch=lambda: loop_class(TaylorRanking)),
    "ranked every 5 steps": Variant(part="ranking", overrides={"inner.refresh_every": 5}),
    "ranked once": Variant(part="ranking", overrides={"inner.refresh_every": 100000}),
    "ranking never frozen": Variant(part="ranking", overrides={"inner.freeze_fraction": 0.001}),
    "soft masks in weight steps": Variant(part="masks", patch=lambda: loop_class(SoftMasks)),
    "joint steps on train": Variant(
        part="masks",
        overrides={"inner.weight_steps_per_ratio_step": 1},
        patch=lambda: loop_class(JointSteps),
    ),
    "Adam": Variant(
        part="ratio optimiser",
        overrides={"inner.ratio_lr": 0.02},
        patch=lambda: mock.patch.object(alternate, "RatioOptimizer", Adam),
    ),
    "no momentum": Variant(
        part="ratio optimiser",
        overrides={"inner.ratio_momentum": 0.0},
        scaled={"inner.ratio_lr": 5},
    ),
    "ratio lr halved": Variant(part="ratio optimiser", scaled={"inner.ratio_lr": 0.5}),
    "no recalibration": Variant(
        part="after", overrides={"finetune.recalibration_batches": 0}, equal_compute=False
    ),
    "no distillation": Variant(part="after", overrides={"finetune.distillation": 0.0}),
    "distillation 0.9": Variant(part="after", overrides={"finetune.distillation": 0.9}),
    "channels in twos": Variant(part="after", overrides={"groups.channel_multiple": 2}),
}


def config_of(study: str, base: tuple[str, ...], variant: Variant, seed: int) -> StudyConfig:
    """The study with the change, and with the fine-tuning that evens out compute."""
    shipped = load_study(study, base)
    changes = dict(variant.overrides)
    for key, factor in variant.scaled.items():
        section, name = key.split(".")
        value = factor * getattr(getattr(shipped, section), name)
        changes[key] = round(value) if name == "steps" else value
    sets = (*base, *(f"{key}={value}" for key, value in changes.items()))
    config = load_study(study, sets)
    if variant.equal_compute:
        longer = total_steps(config) - total_steps(shipped)
        sets = (*sets, f"finetune.steps={config.finetune.steps - longer}")
    return load_study(study, (*sets, f"seed={seed}", "compute.measure_latency=false"))


def total_steps(config: StudyConfig) -> int:
    """Weight, ratio and fine-tuning steps; a joint step is a weight step."""
    inner = config.inner
    ratio_steps = inner.steps // inner.weight_steps_per_ratio_step
    return inner.steps + ratio_steps + config.finetune.steps


def sweep(config: StudyConfig, cache: Path, trade_offs: list[float]) -> list[dict[str, float]]:
    """A trial per λ; ``chance`` stands in every point."""
    bench = Workbench.prepare(config, cache_dir=cache)
    points = []
    for number, trade_off in enumerate(trade_offs):
        ratios = {row.name: (1.0 + trade_off) ** -0.5 for row in bench.facts.groups}
        seed = trial_seed(config.seed, number)
        outcome = trial_module.run_trial(bench, ratios, trade_off, kind="search", seed=seed)
        points.append(
            {
                "trade_off": trade_off,
                "accuracy": outcome.record.accuracy,
                "before": outcome.record.accuracy_before_finetuning,
                "macs_ratio": outcome.record.macs / bench.facts.dense_macs,
                "inner_s": outcome.record.phase_s["inner"],
                "chance": 100.0 / bench.data.num_classes,
            }
        )
    return points


def score(points: list[dict[str, float]]) -> float:
    """Hypervolume of the sweep's front on ``select``."""
    accuracy, macs = ([p[key] for p in points] for key in ("accuracy", "macs_ratio"))
    chosen = front(accuracy, macs)
    return hypervolume(
        [accuracy[i] for i in chosen],
        [macs[i] for i in chosen],
        chance_accuracy=points[0]["chance"],
        dense_cost=1.0,
    )


def table(runs: dict[str, list[dict[str, float]]], names: list[str], seeds: list[int]) -> str:
    """Markdown: hypervolume, paired difference to the default, seconds of the loop over its."""
    lines = [
        "| part | variant | hypervolume | minus default (95 % interval) | loop's time |",
        "|---|---|---|---|---|",
    ]
    for name in names:
        pairs = [
            (runs[f"{name}/{seed}"], runs[f"default/{seed}"])
            for seed in seeds
            if f"{name}/{seed}" in runs and f"default/{seed}" in runs
        ]
        if not pairs:
            continue
        mine, base = (np.array([score(pair[i]) for pair in pairs]) for i in (0, 1))
        times = [
            float(np.median([p["inner_s"] for pair in pairs for p in pair[i]])) for i in (0, 1)
        ]
        difference = ""
        if name != "default" and len(pairs) > 1:
            half = scipy.stats.t.ppf(0.975, len(pairs) - 1) * scipy.stats.sem(mine - base)
            difference = f"{(mine - base).mean():+.4f} ± {half:.4f}"
        lines.append(
            f"| {VARIANTS[name].part} | {name} | {mine.mean():.4f} | {difference} | "
            f"{times[0] / times[1]:.2f} |"
        )
    return "\n".join(lines)


def main() -> int:
    """Run what is missing, print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--study", default="digits")
    parser.add_argument("--seeds", type=int, nargs="+", default=[21, 22, 23, 24, 25, 26])
    parser.add_argument("--variants", nargs="+", default=list(VARIANTS), choices=list(VARIANTS))
    parser.add_argument("--sweep", type=int, default=8, help="values of λ")
    parser.add_argument("--set", action="append", default=[], dest="overrides")
    parser.add_argument("--json", type=Path, default=Path("runs/bench/ablations.json"))
    arguments = parser.parse_args()
    arguments.json.parent.mkdir(parents=True, exist_ok=True)
    results: dict = {}
    if arguments.json.is_file():
        results = json.loads(arguments.json.read_text())
    setting = {
        "study": arguments.study,
        "sweep": np.geomspace(*LONGEST_SWEEP, arguments.sweep).tolist(),
        "set": arguments.overrides,
    }
    if results.setdefault("setting", setting) != setting:
        print(f"{arguments.json} holds another setting: {results['setting']}", file=sys.stderr)
        return 2
    runs = results.setdefault("runs", {})
    names = list(dict.fromkeys(["default", *arguments.variants]))
    for seed in arguments.seeds:
        for name in names:
            if f"{name}/{seed}" in runs:
                continue
            variant = VARIANTS[name]
            config = config_of(arguments.study, tuple(arguments.overrides), variant, seed)
            with variant.patch():
                runs[f"{name}/{seed}"] = sweep(
                    config, arguments.json.parent / "dense", setting["sweep"]
                )
            print(f"{name} seed {seed}: {score(runs[f'{name}/{seed}']):.4f}", flush=True)
            results |= {
                "hardware": hardware_name(torch.device("cpu")),
                "versions": versions(),
                "date": datetime.date.today().isoformat(),
            }
            write_file(arguments.json, json.dumps(results, indent=1).encode())
    print(table(runs, names, arguments.seeds))
    return 0


if __name__ == "__main__":
    sys.exit(main())
