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
from automl_prune.cuda_graphs import GraphedStep, rate_tensor, sent
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
        self._trained: list[Tensor] = [parameters[name] for name in momenta]
        self._momenta = list(momenta.values())
        first = next(iter(parameters.values()))
        self._device, self._dtype = first.device, first.dtype
        self._consumers: list[tuple[str, Tensor, Layer]] = []
        self._owned: list[Tensor] = []
        self._kept: list[Tensor] = []
        self._removed: list[Tensor] = []
        self._holders: list[tuple[Layer, bool, Tensor, Tensor]] = []
        for name, layer in graph.layers.items():
            layer = layer.to(self._device)
            module = model.get_submodule(name)
            consumes = layer.kind in ("conv", "linear") and bool((layer.in_units >= 0).any())
            if consumes:
                self._consumers.append((f"{name}.weight", parameters[f"{name}.weight"], layer))
            if not consumes and not bool((layer.out_units >= 0).any()):
                continue
            for own_name, parameter in module.named_parameters(recurse=False):
                columns = consumes and own_name == "weight"
                momentum = momenta.get(f"{name}.{own_name}")
                self._own(layer, columns, parameter, *([] if momentum is None else [momentum]))
            buffers = [b for _, b in module.named_buffers(recurse=False) if b.dim() > 0]
            if buffers:
                self._own(layer, False, *buffers)
        self._before = [torch.empty_like(tensor) for tensor in self._owned]
        self._keep_U: Tensor | None = None
        self._mask = torch.ones(graph.num_units + 1, dtype=self._dtype, device=self._device)
        self._lr = rate_tensor(self._device)
        self._hold = GraphedStep(self._hold_on, self._device)
        self._descend = GraphedStep(self._descend_on, self._device)
        self._differentiate = GraphedStep(self._differentiate_on, self._device)

    def train_step(
        self, images_BCHW: Tensor, labels_B: Tensor, keep_U: Tensor, lr: float
    ) -> Tensor:
        """See :class:`Execution`."""
        if keep_U is not self._keep_U:
            self._keep_U = keep_U
            self._hold(sent(unit_mask(keep_U).to(self._dtype), self._device))
        self._lr.fill_(lr)
        self._model.train()
        return self._descend(images_BCHW.to(self._dtype), labels_B)[0]

    def mask_gradient(
        self, images_BCHW: Tensor, labels_B: Tensor, mask_U: Tensor
    ) -> tuple[Tensor, Tensor]:
        """See :class:`Execution`."""
        mask_U = sent(mask_U.to(self._dtype), self._device)
        self._model.train()
        loss, gradient_U = self._differentiate(images_BCHW.to(self._dtype), labels_B, mask_U)
        return loss, gradient_U.double().cpu()

    def _descend_on(self, images_BCHW: Tensor, labels_B: Tensor) -> tuple[Tensor]:
        weights = self._masked_weights(self._mask)
        torch._foreach_copy_(self._before, self._owned)
        loss = self._loss(forward(self._model, images_BCHW, weights), labels_B)
        loss.backward()  # type: ignore[no-untyped-call]
        weight_step(
            self._trained,
            self._momenta,
            lr=self._lr,
            momentum=self._rule.momentum,
            weight_decay=self._rule.weight_decay,
        )
        with torch.no_grad():
            torch._foreach_mul_(self._owned, self._kept)
            torch._foreach_addcmul_(self._owned, self._before, self._removed)
        return (loss.detach(),)

    def _differentiate_on(
        self, images_BCHW: Tensor, labels_B: Tensor, mask_U: Tensor
    ) -> tuple[Tensor, Tensor]:
        leaf_U = mask_U.detach().requires_grad_(True)
        mask = torch.cat([leaf_U, leaf_U.new_ones(1)])
        with running_statistics_untouched(self._model):
            weights = self._masked_weights(mask, detach=True)
            loss = self._loss(forward(self._model, images_BCHW, weights), labels_B)
            (gradient_U,) = torch.autograd.grad(loss, leaf_U)
        return loss.detach(), gradient_U

    def write_back(self) -> None:
        """Nothing to do: there is no copy."""

    def read_again(self) -> None:
        """Nothing to do: there is no copy."""

    def _own(self, layer: Layer, columns: bool, *tensors: Tensor) -> None:
        """Note tensors of one shape, whose elements belong to units."""
        kept = torch.ones_like(tensors[0], requires_grad=False)
        removed = torch.zeros_like(kept)
        self._holders.append((layer, columns, kept, removed))
        self._owned += [tensor.detach() for tensor in tensors]
        self._kept += [kept] * len(tensors)
        self._removed += [removed] * len(tensors)

    def _hold_on(self, mask: Tensor) -> tuple[()]:
        self._mask.copy_(mask)
        for layer, columns, kept, removed in self._holders:
            held = mask[layer.out_units].view(-1, *(1,) * (kept.dim() - 1))
            if columns:
                held = held * weight_factor(mask, layer, held)
            kept.copy_(held)
            removed.copy_(1.0 - held)
        return ()

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
