"""Dropout on a narrowed network, drawn as the full-size network would draw it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import nn

from automl_prune.inner.execution import modes_kept

if TYPE_CHECKING:
    from torch import Tensor

    from automl_prune.graph import CouplingGraph


class WideDropout(nn.Module):
    """Draws for all channels and uses those that are held: the same draw at every width.

    Args:
        p: probability of zero.
        units_I: unit of every channel of its full-size input, -1 for fixed ones.
    """

    def __init__(self, p: float, units_I: Tensor) -> None:
        super().__init__()
        self.p = p
        self._units_I = units_I
        self._held: Tensor | None = None

    def hold(self, keep: Tensor) -> None:
        """Use the channels of these units (bool per unit, and True in the last place)."""
        keep_I = keep[self._units_I]
        self._held = None if bool(keep_I.all()) else keep_I.nonzero().flatten()

    def forward(self, x: Tensor) -> Tensor:
        """(B, held channels, ...) to the same shape."""
        if self._held is None or not self.training:
            return F.dropout(x, self.p, self.training)
        ones = x.new_ones(x.shape[0], len(self._units_I), *x.shape[2:])
        if x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last):
            ones = ones.contiguous(memory_format=torch.channels_last)
        drawn = F.dropout(ones, self.p, training=True)
        return x * drawn.index_select(1, self._held.to(x.device))


def widen_dropouts(
    full: nn.Module, narrow: nn.Module, graph: CouplingGraph, images_BCHW: Tensor
) -> list[WideDropout]:
    """Replace the dropouts right in front of consumers, in place, in a copy of a network.

    Those are the ones whose channels are known without following them: what they give *is* the
    input of a convolution or linear layer. Any other dropout draws at the width that it meets;
    its draws are then as random, but not those of the full-size network.

    Args:
        full: the network that ``graph`` was traced from; run once in evaluation mode, not changed.
        narrow: a copy of it.
        graph: its coupling graph.
        images_BCHW: any images.

    Returns:
        The new modules.
    """
    dropouts = {n: m for n, m in full.named_modules() if type(m) is nn.Dropout and m.p > 0}
    if not dropouts:
        return []
    replaced = []
    for name, consumer in _consumers_after(full, dropouts, graph, images_BCHW).items():
        wide = WideDropout(dropouts[name].p, graph.layers[consumer].in_units)
        parent, _, own_name = name.rpartition(".")
        setattr(narrow.get_submodule(parent), own_name, wide)
        replaced.append(wide)
    return replaced


def _consumers_after(
    full: nn.Module,
    dropouts: dict[str, nn.Dropout],
    graph: CouplingGraph,
    images_BCHW: Tensor,
) -> dict[str, str]:
    """Dropout's name to the name of the layer whose input it gives; seen on one forward pass."""
    given: list[tuple[Tensor, str]] = []
    found: dict[str, str] = {}

    def note(name: str, output: Tensor) -> None:
        given.append((output, name))  # held, so that no other tensor can be the same object

    def look(name: str, value: Tensor) -> None:
        for output, dropout in given:
            if output is value:
                found[dropout] = name

    handles = [
        module.register_forward_hook(lambda _m, _i, output, name=name: note(name, output))
        for name, module in dropouts.items()
    ]
    for name, layer in graph.layers.items():
        if layer.kind in ("conv", "linear"):
            handles.append(
                full.get_submodule(name).register_forward_pre_hook(
                    lambda _m, inputs, name=name: look(name, inputs[0])
                )
            )
    try:
        with modes_kept(full), torch.no_grad():
            full.eval()
            full(images_BCHW[:1])
    finally:
        for handle in handles:
            handle.remove()
    return found
