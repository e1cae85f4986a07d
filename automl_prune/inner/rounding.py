"""From keep ratios to whole channels, freely or under a budget of MACs."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor

    from automl_prune.graph import CostModel, CouplingGraph, Group

_HALVINGS = 40


def round_to_units(ratios_G: Tensor, graph: CouplingGraph, channel_multiple: int) -> Tensor:
    """Kept units of every group, at least one.

    The nearest count whose channels (units x channels per unit) are a multiple of
    ``channel_multiple``, or all of the group's units; the larger one where two are as near.

    Returns:
        (G,) int64 on the CPU.
    """
    counts = [
        _nearest(ratio * group.num_units, group, channel_multiple)
        for ratio, group in zip(ratios_G.tolist(), graph.groups, strict=True)
    ]
    return torch.tensor(counts, dtype=torch.int64)


def project_to_budget(
    ratios_G: Tensor,
    cost: CostModel,
    max_macs: float,
    *,
    low_G: Tensor,
    high_G: Tensor,
    channel_multiple: int = 1,
) -> Tensor:
    """Kept units of the largest model near ``ratios_G`` that has at most ``max_macs`` MACs.

    All ratios are scaled by one factor as far as fits; then single steps of units are added,
    first where rounding took most, until no group can grow by one step.

    Args:
        ratios_G: keep ratios to start from.
        cost: counts MACs.
        max_macs: not to be exceeded unless the lowest ratios do already.
        low_G: lowest keep ratios.
        high_G: highest keep ratios.
        channel_multiple: as in :func:`round_to_units`.

    Returns:
        (G,) int64 on the CPU.
    """
    graph = cost.graph

    def rounded(factor: float) -> Tensor:
        scaled_G = torch.minimum(torch.maximum(ratios_G * factor, low_G), high_G)
        return round_to_units(scaled_G, graph, channel_multiple)

    def fits(counts_G: Tensor) -> bool:
        return float(cost.macs(counts_G.double())) <= max_macs

    below, above = 0.0, 1.0 / max(float(ratios_G.min()), 1e-6) if len(ratios_G) else 1.0
    if fits(rounded(above)):
        return rounded(above)
    for _ in range(_HALVINGS):
        middle = (below + above) / 2
        below, above = (middle, above) if fits(rounded(middle)) else (below, middle)
    counts_G = rounded(below)
    wanted_G = torch.minimum(ratios_G * below, high_G) * cost.dense_counts_G
    growing = True
    while growing:
        growing = False
        for index in torch.argsort(counts_G - wanted_G, stable=True).tolist():
            larger_G = counts_G.clone()
            larger_G[index] = _next_larger(
                int(counts_G[index]), graph.groups[index], channel_multiple, float(high_G[index])
            )
            if larger_G[index] > counts_G[index] and fits(larger_G):
                counts_G, growing = larger_G, True
                break
    return counts_G


def _nearest(wanted: float, group: Group, channel_multiple: int) -> int:
    step = units_per_step(group, channel_multiple)
    below = min(math.floor(wanted / step) * step, group.num_units)
    above = min(below + step, group.num_units)
    nearest = above if wanted - below >= above - wanted else below
    return max(nearest, min(step, group.num_units))


def _next_larger(count: int, group: Group, channel_multiple: int, high: float) -> int:
    step = units_per_step(group, channel_multiple)
    larger = min((count // step + 1) * step, group.num_units)
    return larger if larger <= _nearest(high * group.num_units, group, channel_multiple) else count


def units_per_step(group: Group, channel_multiple: int) -> int:
    """Units of a group that make the fewest channels that are a multiple."""
    return channel_multiple // math.gcd(channel_multiple, group.channels_per_unit)
