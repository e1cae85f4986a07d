"""MACs of kept counts: exact, differentiable, without a forward pass."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from automl_prune.graph.groups import CouplingGraph


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
        factors, ins, outs = [], [], []
        for layer in graph.layers.values():
            if layer.kind not in ("conv", "linear", "depthwise"):
                continue
            counts_in = torch.bincount(group_of[layer.in_units], minlength=num_groups + 1)
            counts_out = torch.bincount(group_of[layer.out_units], minlength=num_groups + 1)
            if layer.kind == "depthwise":
                counts_in = torch.zeros_like(counts_in)
                counts_in[-1] = 1
            factor = layer.positions * layer.kernel
            factors.append(factor if layer.kind == "depthwise" else factor / layer.groups)
            ins.append(_per_unit(counts_in, sizes_G))
            outs.append(_per_unit(counts_out, sizes_G))
        self._factors_L = torch.tensor(factors, dtype=torch.float64)
        empty = torch.zeros(0, num_groups + 1, dtype=torch.float64)
        self._ins_LG = torch.stack(ins) if ins else empty
        self._outs_LG = torch.stack(outs) if outs else empty
        self.dense_macs = round(float(self.macs(sizes_G)))

    def macs(self, counts_G: Tensor) -> Tensor:
        """MACs of one forward pass at batch 1.

        Args:
            counts_G: kept units per group, real-valued; float64.

        Returns:
            float64 scalar; at integer counts exactly the MACs of the pruned model.
        """
        counts = torch.cat([counts_G.double(), torch.ones(1, dtype=torch.float64)])
        return (self._factors_L * (self._ins_LG @ counts) * (self._outs_LG @ counts)).sum()


def _per_unit(counts: Tensor, sizes_G: Tensor) -> Tensor:
    """Channels per kept unit of every group, and in the last place the fixed channels."""
    per_unit = counts.double()
    per_unit[:-1] /= sizes_G
    return per_unit


def count_macs(model: nn.Module, input_shape: tuple[int, int, int]) -> int:
    """MACs of convolutions and linear layers, counted on a real forward pass at batch 1.

    Independent of the coupling graph: hooks see what each layer really computes.

    Args:
        model: run in evaluation mode; its mode is restored.
        input_shape: channels, height, width.
    """
    total = 0

    def count(module: nn.Module, _: object, output: Tensor) -> None:
        nonlocal total
        if isinstance(module, nn.Linear):
            total += output.numel() * module.in_features
        elif isinstance(module, nn.modules.conv._ConvNd):
            inputs = module.in_channels // module.groups
            total += output.numel() * inputs * math.prod(module.kernel_size)

    counted = (nn.Linear, nn.modules.conv._ConvNd)
    handles = [m.register_forward_hook(count) for m in model.modules() if isinstance(m, counted)]
    modes = {module: module.training for module in model.modules()}
    parameter = next(model.parameters())
    try:
        model.eval()
        with torch.no_grad():
            model(torch.zeros(1, *input_shape, device=parameter.device, dtype=parameter.dtype))
    finally:
        for handle in handles:
            handle.remove()
        for module, training in modes.items():
            module.training = training
    return total


def count_params(model: nn.Module) -> int:
    """Number of parameters; shared ones count once."""
    return sum(parameter.numel() for parameter in model.parameters())
