"""The inner loop: weight steps under hard masks and ratio steps under soft ones, in turn.

Batch, draw, window and random numbers of a step are functions of the step's number, so that an
interrupted loop goes on to the same bits. Ratios and rankings live on the CPU in float64: they are
a few hundred numbers. Shape suffixes: G groups, U units, R noted ratio steps, B batch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch

from automl_prune.config import expected_macs_ratio
from automl_prune.inner.compact import CompactExecution
from automl_prune.inner.execution import MaskedExecution, WeightRule
from automl_prune.inner.loss import macs_gradient, ratio_gradient
from automl_prune.inner.narrowed import HEAVY_LAYER, can_be_narrowed, mean_layer_macs
from automl_prune.inner.notes import InnerResult, LoopNotes, finite, not_finite
from automl_prune.inner.optimizer import RatioOptimizer
from automl_prune.inner.rank import rank_units
from automl_prune.inner.rounding import project_to_budget, round_to_units
from automl_prune.inner.window import group_sizes, hard_draw, ramp, unit_groups, window_widths
from automl_prune.seeds import derive_seed
from automl_prune.train import one_cycle, own_randomness

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from torch import Tensor, nn

    from automl_prune.config import StudyConfig
    from automl_prune.data import Data
    from automl_prune.graph import CostModel, CouplingGraph
    from automl_prune.inner.execution import Execution
    from automl_prune.inner.notes import InnerProgress, InnerState

ExecutionName = Literal["auto", "masked", "compact"]
_STEPS_BETWEEN_SYNCS = 10
_FEWEST_IMAGES = 16
"""Of a ratio step: batch norm takes their statistics."""
_HEAVY_ON_GPU = 50_000_000_000
"""MACs per layer and batch, on average."""


class InnerLoop:
    """Alternating optimisation of one model's weights and keep ratios.

    Args:
        model: full size; trained in place, moved to ``device``.
        graph: its coupling graph.
        cost: its cost.
        data: ``train`` drives the weights, ``search`` the ratios.
        config: ``inner``, ``groups.channel_multiple`` and ``data`` say how.
        start_G: keep ratios to start from.
        low_G: lowest keep ratios; raised to one unit where below.
        high_G: highest keep ratios; a group with equal bounds does not move.
        trade_off: λ.
        cost_scale: s, from :func:`automl_prune.inner.scale.measure_cost_scale`.
        seed: of batches, draws and dropout.
        device: where to compute.
        fixed: a baseline: the best units by L2 norm are kept from the start, ratios are held, and
            the steps that ratios would have taken are weight steps.
        execution: ``masked`` computes every channel; ``compact`` those that can be active;
            ``auto`` takes the compact form where it can be had and pays.
        first_U: units that rank before all others; those that a parent kept.
    """

    def __init__(
        self,
        model: nn.Module,
        graph: CouplingGraph,
        cost: CostModel,
        data: Data,
        config: StudyConfig,
        *,
        start_G: Tensor,
        low_G: Tensor,
        high_G: Tensor,
        trade_off: float,
        cost_scale: float,
        seed: int,
        device: torch.device | str,
        fixed: bool,
        execution: ExecutionName = "auto",
        first_U: Tensor | None = None,
    ) -> None:
        self._model = model
        self.step = 0
        """Weight steps done."""
        inner = config.inner
        self._device = torch.device(device)
        model.to(device=self._device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._graph, self._cost, self._data, self._inner = graph, cost, data, inner
        self._channel_multiple = config.groups.channel_multiple
        self._batch_size = config.data.batch_size
        self._fixed, self._seed = fixed, derive_seed(seed, "inner")
        self.price = trade_off * cost_scale
        """λ·s: loss that the dense model's MACs are worth."""
        self._budget_ratio = _budget_ratio(config, trade_off)
        self._stride = inner.weight_steps_per_ratio_step
        extra = inner.steps // self._stride if fixed else 0
        self.total_steps = inner.steps + extra
        """Weight steps of the whole loop."""
        self._num_ratio_steps = 0 if fixed else inner.steps // self._stride
        self._sizes_G, self._group_U = group_sizes(graph), unit_groups(graph)
        self._low_G = torch.maximum(low_G.double(), 1.0 / self._sizes_G)
        self._high_G = torch.maximum(high_G.double(), self._low_G)
        if fixed:
            self._low_G = self._high_G = start_G.double()
        self._ratios = RatioOptimizer(
            start_G, self._low_G, self._high_G, momentum=inner.ratio_momentum
        )
        self._momenta = {
            name: torch.zeros_like(parameter)
            for name, parameter in model.named_parameters()
            if parameter.requires_grad
        }
        rule = WeightRule(momentum=inner.weight_momentum, weight_decay=inner.weight_decay)
        if execution == "auto":
            pays = _compact_pays(graph, self._device, self._batch_size, held=fixed)
            execution = "compact" if pays and can_be_narrowed(model) else "masked"
        kind = CompactExecution if execution == "compact" else MaskedExecution
        self._execution: Execution = kind(model, graph, data.loss, self._momenta, rule)
        self._first_U = first_U
        self._rank_U = rank_units(model, graph, first_U)
        # else drawn at the first step
        self._keep_U = self._rounded_keep() if fixed else torch.ones_like(self._rank_U).bool()
        self._notes = LoopNotes(self.total_steps)
        self._open_streams()

    @property
    def model(self) -> nn.Module:
        """Full size, its weights trained so far."""
        self._execution.write_back()
        return self._model

    def run(self, until: int, on_step: Callable[[InnerProgress], None] | None = None) -> None:
        """Go on to weight step ``until``, at most the last.

        Args:
            until: weight steps done afterwards, with the ratio steps that belong to them.
            on_step: called for every weight step, some steps late.

        Raises:
            ModelError: a loss is not finite.
        """
        until = min(until, self.total_steps)
        pending: list[tuple[Tensor, float, float]] = []
        with own_randomness(self._device):
            while self.step < until:
                loss = self._weight_step()
                self.step += 1
                if not self._fixed and self.step % self._stride == 0:
                    self._ratio_step()
                macs_ratio = self.macs_ratio
                pending.append((loss, macs_ratio, float(self._ratios.ratios_G.mean())))
                if len(pending) == _STEPS_BETWEEN_SYNCS or self.step == until:
                    self._notes.weight_steps(self.step, pending, on_step)
                    pending.clear()

    def result(self) -> InnerResult:
        """What has been found so far; at the end, what the trial goes on with.

        Raises:
            ModelError: a loss is not finite.
        """
        with own_randomness(self._device):
            last_loss, _ = self._search_gradient(
                len(self._notes.ratio_steps),
                next(self._stream("search", len(self._notes.ratio_steps))),
            )
        losses = finite([*self._notes.search_losses, last_loss], self.step)
        ratios_RG = torch.stack([*self._notes.ratios, self._ratios.ratios_G])
        return InnerResult(
            ratios_G=self._ratios.ratios_G.clone(),
            keep_U=self._rounded_keep(),
            weight_steps=self.step,
            num_ratio_steps=len(self._notes.ratio_steps),
            ratio_steps=(*self._notes.ratio_steps, self.step),
            ratios=tuple(tuple(row) for row in ratios_RG.T.tolist()),
            macs_ratio=(*self._notes.macs_ratio, self.macs_ratio),
            search_loss=tuple(losses),
            inner_loss=tuple(self._notes.losses),
        )

    def state_dict(self) -> InnerState:
        """Everything that :meth:`load_state_dict` needs, on the CPU; independent copies."""
        tensors = {f"model/{k}": v for k, v in self.model.state_dict().items()}
        tensors |= {f"momentum/{k}": v for k, v in self._momenta.items()}
        tensors |= {
            "ratios": self._ratios.ratios_G,
            "velocity": self._ratios.velocity_G,
            "square": self._ratios.square,
            "rank": self._rank_U,
            "keep": self._keep_U,
            **self._notes.tensors(),
        }
        return {
            "tensors": {
                k: v.detach().to("cpu", copy=True).contiguous() for k, v in tensors.items()
            },
            "values": {"step": self.step, **self._notes.values()},
        }

    def load_state_dict(self, state: Mapping[str, Mapping[str, object]]) -> None:
        """Inverse of :meth:`state_dict`, on a loop made with the same arguments."""
        tensors, values = state["tensors"], state["values"]

        def tensor(name: str) -> Tensor:
            found = tensors[name]
            assert isinstance(found, torch.Tensor)
            return found.clone()

        own = {f"model/{k}": v for k, v in self.model.state_dict().items()}
        own |= {f"momentum/{k}": v for k, v in self._momenta.items()}
        with torch.no_grad():
            for name, target in own.items():
                target.copy_(tensor(name))
        self._execution.read_again()
        self._ratios.ratios_G, self._ratios.velocity_G = tensor("ratios"), tensor("velocity")
        self._ratios.square = tensor("square")
        self._rank_U, self._keep_U = tensor("rank"), tensor("keep").bool()
        step = values["step"]
        assert isinstance(step, int)
        self.step = step
        self._notes.load(tensors, values, self._device)
        self._open_streams()

    def _open_streams(self) -> None:
        self._train_batches = self._stream("train", self.step)
        self._search_batches = self._stream("search", len(self._notes.ratio_steps))

    def _stream(self, split: str, start: int) -> Iterator[tuple[Tensor, Tensor]]:
        share = 1.0 if split == "train" else self._inner.ratio_batch_fraction
        images = max(round(share * self._batch_size), _FEWEST_IMAGES)
        return self._data.stream(
            split,  # type: ignore[arg-type]
            batch_size=min(images, self._batch_size),
            seed=derive_seed(self._seed, split),
            augment=split == "train",
            device=self._device,
            start=start,
        )

    def _weight_step(self) -> Tensor:
        step = self.step
        if not self._fixed:
            self._refresh_ranks(step)
            if step % self._inner.hold_draw == 0:
                self._keep_U = self._draw(step)
        images_BCHW, labels_B = next(self._train_batches)
        torch.manual_seed(derive_seed(self._seed, "step", step))
        return self._execution.train_step(
            images_BCHW, labels_B, self._keep_U, self._inner.weight_lr
        )

    def _refresh_ranks(self, step: int) -> None:
        frozen_from = (1.0 - self._inner.freeze_fraction) * self.total_steps
        if step % self._inner.refresh_every == 0 and 0 < step < frozen_from:
            self._rank_U = rank_units(self.model, self._graph, self._first_U)

    def _draw(self, step: int) -> Tensor:
        generator = torch.Generator().manual_seed(derive_seed(self._seed, "draw", step))
        uniform_G = torch.rand(len(self._sizes_G), generator=generator, dtype=torch.float64)
        k_G, tau_G = self._window(step)
        return hard_draw(k_G, tau_G, uniform_G, self._rank_U, self._group_U)

    def _window(self, step: int) -> tuple[Tensor, Tensor]:
        """Remaining units k and window widths tau."""
        tau_G = window_widths(
            self._sizes_G,
            step / self.total_steps,
            start=self._inner.window_start,
            anneal_fraction=self._inner.anneal_fraction,
        )
        return (self._ratios.ratios_G * self._sizes_G).clamp(min=1.0), tau_G

    def _ratio_step(self) -> None:
        number = len(self._notes.ratio_steps)
        loss, gradient_G = self._search_gradient(number, next(self._search_batches))
        if not bool(gradient_G.isfinite().all()):
            raise not_finite(self.step)
        by_cost_G, macs_ratio = macs_gradient(
            self._ratios.ratios_G, self._cost, self._budget_ratio
        )
        self._notes.ratio_step(self.step, self._ratios.ratios_G, macs_ratio, loss)
        # short steps while the weights meet the masks for the first time, and at the end, where
        # the ratios settle
        lr = one_cycle(number, self._num_ratio_steps, self._inner.ratio_lr)
        self._ratios.step(gradient_G + self.price * by_cost_G, lr)

    def _search_gradient(self, number: int, batch: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """Task loss and its gradient by the ratios, on one batch of ``search``."""
        images_BCHW, labels_B = batch
        torch.manual_seed(derive_seed(self._seed, "ratio-step", number))
        k_G, tau_G = self._window(self.step)
        mask_U = ramp(k_G, tau_G, self._rank_U, self._group_U)
        loss, gradient_U = self._execution.mask_gradient(images_BCHW, labels_B, mask_U)
        return loss, ratio_gradient(gradient_U, k_G, tau_G, self._rank_U, self._group_U)

    @property
    def macs_ratio(self) -> float:
        """F(r) / F_dense at the ratios reached so far."""
        counts_G = self._ratios.ratios_G * self._sizes_G
        return float(self._cost.macs(counts_G)) / self._cost.dense_macs

    @property
    def gradient_norm(self) -> float:
        """Usual norm of the gradient by the ratios, task and price together."""
        return self._ratios.usual_norm

    def _rounded_keep(self) -> Tensor:
        """Whole channels, as large as the ratios say or the budget allows."""
        ratios_G, multiple = self._ratios.ratios_G, self._channel_multiple
        if self._fixed:
            counts_G = round_to_units(ratios_G, self._graph, multiple)
        else:
            allowed = self.macs_ratio if self._budget_ratio is None else self._budget_ratio
            counts_G = project_to_budget(
                ratios_G,
                self._cost,
                allowed * self._cost.dense_macs,
                low_G=self._low_G,
                high_G=self._high_G,
                channel_multiple=multiple,
            )
        return self._rank_U < counts_G[self._group_U]


def _budget_ratio(config: StudyConfig, trade_off: float) -> float | None:
    budget = config.inner.budget_ratio
    if isinstance(budget, float):
        return budget
    return expected_macs_ratio(trade_off) if budget == "trade-off" else None


def _compact_pays(
    graph: CouplingGraph, device: torch.device, batch_size: int, *, held: bool
) -> bool:
    """Whether layers do much work each.

    Every new draw has to be gathered, and kernels of its shapes made, layer by layer; in a tiny
    network that costs more than the channels that are left out. A GPU replays the masked form's
    steps, whose shapes stay (:mod:`automl_prune.cuda_graphs`), and is fast enough to do without
    until layers keep it busy. A rule and not a measurement, so that a trial gives the same bits
    again. docs/benchmarks.md has the times that it follows.

    Args:
        graph: of the model.
        device: where steps are computed.
        batch_size: images of a step.
        held: one draw is held for the whole loop.
    """
    work = mean_layer_macs(graph)
    if device.type == "cuda":
        return work * batch_size >= _HEAVY_ON_GPU
    return held or work >= HEAVY_LAYER
