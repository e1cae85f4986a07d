"""MACs of kept counts: exact, differentiable, without a forward pass."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.utils.flop_counter import FlopCounterMode

if TYPE_CHECKING:
    from torch import Tensor, nn

    from automl_prune.graph.groups import CouplingGraph


_COUNTED = (
    torch.ops.aten.convolution,
    torch.ops.aten._convolution,
    torch.ops.aten.mm,
    torch.ops.aten.addmm,
)


class CostModel:
    """F(k): MACs of convolutions and linear layers as a function of all groups' kept units.

    Per layer: positions * kernel * inputs * outputs / groups, with inputs and outputs linear in
    the kept units; a depthwise convolution has one input per output.
    """

    def __init__(self, graph: CouplingGraph) -> None:
        """Read the counts off the graph's layers."""
        self.graph = graph
        num_groups = len(graph.groups)
        group_of = torch.full((graph.num_units + 1,), num_groups)
        for index, group in enumerate(graph.groups):
            group_of[group.units] = index
        sizes_G = torch.tensor([g.num_units for g in graph.groups], dtype=torch.float64)
        self.dense_counts_G = sizes_G
        counted = [n for n in graph.layers.values() if n.kind in ("conv", "linear", "depthwise")]
        shape = (len(counted), num_groups + 1)
        self._factors_L = torch.zeros(len(counted), dtype=torch.float64)
        self._ins_LG = torch.zeros(shape, dtype=torch.float64)
        self._outs_LG = torch.zeros(shape, dtype=torch.float64)
        for row, layer in enumerate(counted):
            self._factors_L[row] = layer.positions * layer.kernel
            self._outs_LG[row] = _per_unit(group_of[layer.out_units], sizes_G)
            if layer.kind == "depthwise":
                self._ins_LG[row, -1] = 1
            else:  # every group of a convolution has the same share of every unit
                self._ins_LG[row] = _per_unit(group_of[layer.in_units], sizes_G) / layer.groups
        self.dense_macs = round(float(self.macs(sizes_G)))

    def macs(self, counts_G: Tensor) -> Tensor:
        """MACs of one forward pass at batch 1.

        Args:
            counts_G: kept units per group, real-valued; float64.

        Returns:
            float64 scalar; at integer counts exactly the MACs of the pruned model.
        """
        counts = counts_G.to(self._factors_L.device, torch.float64)
        counts = torch.cat([counts, counts.new_ones(1)])
        per_layer = self._factors_L * (self._ins_LG @ counts) * (self._outs_LG @ counts)
        return per_layer.sum() + self.graph.constant_macs


def _per_unit(group_of_channels: Tensor, sizes_G: Tensor) -> Tensor:
    """Channels per kept unit of every group, and in the last place the fixed channels."""
    counts = torch.bincount(group_of_channels, minlength=len(sizes_G) + 1).double()
    counts[:-1] /= sizes_G
    return counts


def count_macs(model: nn.Module, input_shape: tuple[int, int, int]) -> int:
    """MACs of convolutions and linear layers, counted on a real forward pass at batch 1.

    Independent of the coupling graph: torch's own counter sees what is really computed, and
    counts two operations per MAC. Products of two tensors that both depend on the input
    (attention) are batched and are not counted.

    Args:
        model: run in evaluation mode; its mode is restored.
        input_shape: channels, height, width.
    """
    parameter = next(model.parameters(), torch.zeros(()))
    images_BCHW = torch.zeros(1, *input_shape, device=parameter.device, dtype=parameter.dtype)
    modes = {module: module.training for module in model.modules()}
    counter = FlopCounterMode(display=False)
    model.eval()
    try:
        with torch.no_grad(), counter:
            model(images_BCHW)
    finally:
        for module, training in modes.items():
            module.training = training
    by_operation = counter.get_flop_counts().get("Global", {})
    flops = sum(by_operation.get(operation, 0) for operation in _COUNTED)
    assert flops % 2 == 0, flops
    return flops // 2


def count_params(model: nn.Module) -> int:
    """Number of parameters; shared ones count once."""
    return sum(parameter.numel() for parameter in model.parameters())
