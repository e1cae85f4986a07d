"""Compact execution: steps on a network that holds only channels which can be active.

A hard mask is exactly zero on the channels that it removes, and so is a soft mask beyond its
window: nothing that they would compute reaches the loss. So a weight step runs on a copy narrowed
to the drawn channels, and a ratio step on one narrowed to the channels whose soft mask is above
zero; both with fillers (:mod:`automl_prune.inner.narrowed`). The same sums as in the masked form,
but for the order of their terms.

Shape suffixes: B images of a batch, C channels, H height, W width, U units.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from automl_prune.arithmetic import fast_arithmetic
from automl_prune.inner.execution import (
    WeightRule,
    forward,
    running_statistics_untouched,
)
from automl_prune.inner.narrowed import WIDTH_MULTIPLE, NarrowedCopy
from automl_prune.inner.optimizer import weight_step
from automl_prune.inner.taps import tapped
from automl_prune.mask import weight_factor
from automl_prune.train import own_randomness

if TYPE_CHECKING:
    from torch import Tensor, nn

    from automl_prune.graph import CouplingGraph
    from automl_prune.inner.execution import Loss

TAP_TOLERANCE = 1e-3
"""Of the largest entry: how well a gradient read off layers' inputs must agree, the first time."""


class CompactExecution:
    """Steps on narrowed copies of the model; what it does is said at ``Execution``.

    Args:
        model: full size; its weights are trained. They are up to date after :meth:`write_back`.
        graph: its coupling graph.
        loss: (logits_BK, labels_B) to a scalar.
        momenta: a buffer per name of a trained parameter.
        rule: how weights are stepped.
    """

    def __init__(
        self,
        model: nn.Module,
        graph: CouplingGraph,
        loss: Loss,
        momenta: dict[str, Tensor],
        rule: WeightRule,
    ) -> None:
        self._loss, self._rule = loss, rule
        self._dtype = next(model.parameters()).dtype
        self._trainer = NarrowedCopy(model, graph, momenta, width_multiple=WIDTH_MULTIPLE)
        self._prober = NarrowedCopy(model, graph, {}, width_multiple=WIDTH_MULTIPLE)
        self._trainer.model.train()
        self._prober.model.train()
        self._keep_U: Tensor | None = None
        self._parameters, self._buffers = self._trainer.trained()
        self._unwritten = False
        self._taps_agree: bool | None = None

    def train_step(
        self, images_BCHW: Tensor, labels_B: Tensor, keep_U: Tensor, lr: float
    ) -> Tensor:
        """See ``Execution``."""
        images_BCHW = images_BCHW.to(self._dtype)
        if keep_U is not self._keep_U:
            self._trainer.draw_wide_dropouts(images_BCHW)
            self._hold(keep_U)
        with fast_arithmetic(images_BCHW.device):
            logits_BK = self._trainer.model(images_BCHW)
        loss = self._loss(_not_below_float32(logits_BK), labels_B)
        loss.backward()  # type: ignore[no-untyped-call]
        self._trainer.silence_fillers()
        weight_step(
            self._parameters,
            self._buffers,
            lr=lr,
            momentum=self._rule.momentum,
            weight_decay=self._rule.weight_decay,
        )
        self._unwritten = True
        return loss.detach()

    def mask_gradient(
        self, images_BCHW: Tensor, labels_B: Tensor, mask_U: Tensor
    ) -> tuple[Tensor, Tensor]:
        """See ``Execution``."""
        self.write_back()
        images_BCHW = images_BCHW.to(self._dtype)
        active_U = mask_U > 0
        prober = self._prober
        prober.draw_wide_dropouts(images_BCHW)
        changing = prober.not_keeping(active_U)
        prober.keep(active_U)
        for held in prober.layers.values():
            if held.is_narrowed or held in changing:
                held.gather(with_state=False)
        if self._taps_agree is None:
            with own_randomness(images_BCHW.device):
                _, expected_U = self._probe(images_BCHW, labels_B, mask_U, through_weights=True)
            loss, gradient_U = self._probe(images_BCHW, labels_B, mask_U, through_weights=False)
            error = float((gradient_U - expected_U)[active_U].abs().max())
            self._taps_agree = error <= TAP_TOLERANCE * float(expected_U[active_U].abs().max())
            return (loss, gradient_U) if self._taps_agree else (loss, expected_U)
        return self._probe(images_BCHW, labels_B, mask_U, through_weights=not self._taps_agree)

    def _probe(
        self, images_BCHW: Tensor, labels_B: Tensor, mask_U: Tensor, *, through_weights: bool
    ) -> tuple[Tensor, Tensor]:
        """Loss and gradient by the mask, on the channels that the prober holds.

        Args:
            images_BCHW: a batch.
            labels_B: its labels.
            mask_U: the soft mask.
            through_weights: differentiate the masked weights, which is right however ``forward``
                uses them; else read the gradient off the inputs of their layers.
        """
        prober = self._prober
        leaf_U = mask_U.to(images_BCHW.device, self._dtype, copy=True).requires_grad_(True)
        mask = torch.cat([leaf_U, leaf_U.new_ones(1)])
        factor = mask if through_weights else mask.detach()
        weights = {name: p.detach() for name, p in prober.model.named_parameters()}
        masks = {}
        for name, held in prober.layers.items():
            if held.consumes:
                weight = weights[f"{name}.weight"]
                weights[f"{name}.weight"] = weight * weight_factor(factor, held.held_layer, weight)
                masks[held.own] = mask[held.held_layer.in_units.to(mask.device)]
        with (
            running_statistics_untouched(prober.model),
            tapped({} if through_weights else masks),
        ):
            loss = self._loss(forward(prober.model, images_BCHW, weights), labels_B)
            (gradient_U,) = torch.autograd.grad(loss, leaf_U, allow_unused=True)
        if gradient_U is None:  # no masked layer was called as a module
            gradient_U = torch.zeros_like(leaf_U)
        return loss.detach(), gradient_U.double().cpu()

    def write_back(self) -> None:
        """See ``Execution``."""
        if self._unwritten:
            self._trainer.scatter()
            self._unwritten = False

    def read_again(self) -> None:
        """See ``Execution``."""
        self._trainer.gather()
        self._parameters, self._buffers = self._trainer.trained()
        self._unwritten = False

    def _hold(self, keep_U: Tensor) -> None:
        """Scatter and gather again where the drawn channels are others than before."""
        changing = self._trainer.not_keeping(keep_U)
        if self._unwritten:
            for held in changing:
                if held.is_narrowed:
                    held.scatter()
        self._trainer.keep(keep_U)
        for held in changing:
            held.gather(with_state=True)
        self._parameters, self._buffers = self._trainer.trained()
        self._keep_U = keep_U


def _not_below_float32(logits_BK: Tensor) -> Tensor:
    return logits_BK if logits_BK.dtype == torch.float64 else logits_BK.float()
