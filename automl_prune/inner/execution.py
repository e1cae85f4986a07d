"""How a step is computed: what every form must do, and the plain masked form.

The masked form runs the full-size model with zeros at the consumers' inputs. It saves nothing; it
is the reference for :mod:`automl_prune.inner.compact`, which computes only what can be active.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import torch
from torch.nn.modules.batchnorm import _BatchNorm

from automl_prune.arithmetic import fast_arithmetic
from automl_prune.graph.narrow import unit_mask
from automl_prune.inner.optimizer import weight_step
from automl_prune.mask import weight_factor

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from torch import Tensor, nn

    from automl_prune.graph import CouplingGraph, Layer

    Loss = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightRule:
    """How weights are stepped."""

    momentum: float = 0.0
    weight_decay: float = 0.0


class Execution(Protocol):
    """One way to compute steps on the full-size model's weights.

    Units that a hard mask removes keep every bit of their weights (producers' rows and consumers'
    input slices), normalisation parameters and statistics, and momentum.
    """

    def train_step(
        self, images_BCHW: Tensor, labels_B: Tensor, keep_U: Tensor, lr: float
    ) -> Tensor:
        """One step of the weights under a hard mask; returns the loss, detached, on the device.

        Args:
            images_BCHW: a batch of ``train``.
            labels_B: its labels.
            keep_U: (U,) bool on the CPU; never changed in place by the caller.
            lr: learning rate.
        """

    def mask_gradient(
        self, images_BCHW: Tensor, labels_B: Tensor, mask_U: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Loss under a soft mask, and its gradient by the mask.

        Batch statistics are used, running ones are neither used nor changed.

        Args:
            images_BCHW: a batch of ``search``.
            labels_B: its labels.
            mask_U: (U,) on the CPU, in [0, 1].

        Returns:
            Loss, detached, on the device; (U,) float64 on the CPU, right wherever the mask is
            above zero.
        """

    def write_back(self) -> None:
        """Bring the full-size model's weights, statistics and momenta up to date."""

    def read_again(self) -> None:
        """Take over what was written to the full-size model from outside."""


class MaskedExecution:
    """The full-size model, masked.

    Args:
        model: its weights are trained in place.
        graph: its coupling graph.
        loss: (logits_BK, labels_B) to a scalar.
        momenta: a buffer per parameter name; None if only gradients by the mask are wanted.
        rule: how weights are stepped.
    """

    def __init__(
        self,
        model: nn.Module,
        graph: CouplingGraph,
        loss: Loss,
        momenta: dict[str, Tensor] | None = None,
        rule: WeightRule | None = None,
    ) -> None:
        self._model, self._loss, self._rule = model, loss, rule or WeightRule()
        parameters = dict(model.named_parameters())
        momenta = momenta or {}
        self._trained = [(parameters[name], buffer) for name, buffer in momenta.items()]
        self._device = next(iter(parameters.values())).device
        self._dtype = next(iter(parameters.values())).dtype
        self._consumers: list[tuple[str, Tensor, Layer]] = []
        self._owned: list[tuple[Tensor, Layer, bool]] = []
        for name, layer in graph.layers.items():
            module = model.get_submodule(name)
            consumes = layer.kind in ("conv", "linear") and bool((layer.in_units >= 0).any())
            if consumes:
                self._consumers.append((f"{name}.weight", parameters[f"{name}.weight"], layer))
            if not consumes and not bool((layer.out_units >= 0).any()):
                continue
            for own_name, parameter in module.named_parameters(recurse=False):
                columns = consumes and own_name == "weight"
                self._owned.append((parameter, layer, columns))
                if f"{name}.{own_name}" in momenta:
                    self._owned.append((momenta[f"{name}.{own_name}"], layer, columns))
            for _, buffer in module.named_buffers(recurse=False):
                if buffer.dim() > 0:
                    self._owned.append((buffer, layer, False))
        self._keep_U: Tensor | None = None
        self._mask: Tensor | None = None
        self._frozen: list[tuple[Tensor, Tensor]] = []

    def train_step(
        self, images_BCHW: Tensor, labels_B: Tensor, keep_U: Tensor, lr: float
    ) -> Tensor:
        """See :class:`Execution`."""
        if keep_U is not self._keep_U:
            self._set_keep(keep_U)
        assert self._mask is not None
        self._model.train()
        weights = self._masked_weights(self._mask)
        before = [tensor.clone() for tensor, _ in self._frozen]
        loss = self._loss(forward(self._model, images_BCHW.to(self._dtype), weights), labels_B)
        loss.backward()  # type: ignore[no-untyped-call]
        weight_step(
            [parameter for parameter, _ in self._trained],
            [buffer for _, buffer in self._trained],
            lr=lr,
            momentum=self._rule.momentum,
            weight_decay=self._rule.weight_decay,
        )
        with torch.no_grad():
            for (tensor, frozen), old in zip(self._frozen, before, strict=True):
                tensor.copy_(torch.where(frozen, old, tensor))
        return loss.detach()

    def mask_gradient(
        self, images_BCHW: Tensor, labels_B: Tensor, mask_U: Tensor
    ) -> tuple[Tensor, Tensor]:
        """See :class:`Execution`."""
        leaf_U = mask_U.to(self._device, self._dtype, copy=True).requires_grad_(True)
        mask = torch.cat([leaf_U, leaf_U.new_ones(1)])
        self._model.train()
        with running_statistics_untouched(self._model):
            weights = self._masked_weights(mask, detach=True)
            logits_BK = forward(self._model, images_BCHW.to(self._dtype), weights)
            loss = self._loss(logits_BK, labels_B)
            (gradient_U,) = torch.autograd.grad(loss, leaf_U)
        return loss.detach(), gradient_U.double().cpu()

    def write_back(self) -> None:
        """Nothing to do: there is no copy."""

    def read_again(self) -> None:
        """Nothing to do: there is no copy."""

    def _set_keep(self, keep_U: Tensor) -> None:
        self._keep_U = keep_U
        keep = unit_mask(keep_U)
        self._mask = keep.to(self._device, self._dtype)
        self._frozen = []
        for tensor, layer, columns in self._owned:
            kept = keep[layer.out_units].view(-1, *(1,) * (tensor.dim() - 1))
            if columns:
                kept = kept & weight_factor(keep.float(), layer, tensor.cpu()).bool()
            if not bool(kept.all()):
                self._frozen.append((tensor, kept.logical_not().to(self._device)))

    def _masked_weights(self, mask: Tensor, *, detach: bool = False) -> dict[str, Tensor]:
        return {
            name: (weight.detach() if detach else weight) * weight_factor(mask, layer, weight)
            for name, weight, layer in self._consumers
        }


def forward(model: nn.Module, images_BCHW: Tensor, weights: dict[str, Tensor]) -> Tensor:
    """Float32 (or float64) logits with some parameters replaced."""
    with fast_arithmetic(images_BCHW.device):
        logits_BK = torch.func.functional_call(model, weights, (images_BCHW,))
    assert isinstance(logits_BK, torch.Tensor)
    return logits_BK if logits_BK.dtype == torch.float64 else logits_BK.float()


@contextlib.contextmanager
def modes_kept(model: nn.Module) -> Iterator[None]:
    """Every module is in training or evaluation mode afterwards as it was before."""
    modes = [(module, module.training) for module in model.modules()]
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


@contextlib.contextmanager
def running_statistics_untouched(model: nn.Module) -> Iterator[None]:
    """Normalise with batch statistics, and leave every buffer of the model as it is."""
    norms = [m for m in model.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]
    in_norms = {id(buffer) for norm in norms for buffer in norm.buffers(recurse=False)}
    others = [buffer for buffer in model.buffers() if id(buffer) not in in_norms]
    before = [buffer.clone() for buffer in others]
    for norm in norms:
        norm.track_running_stats = False
    try:
        yield
    finally:
        for norm in norms:
            norm.track_running_stats = True
        with torch.no_grad():
            for buffer, old in zip(others, before, strict=True):
                buffer.copy_(old)
