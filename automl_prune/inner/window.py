"""The dynamic mask: a soft ramp over each group's ranking, and hard draws whose mean it is.

For a group with C units of which k stay, and units in order of importance i = 0..C-1::

    m_i = clip(1 + (k - 1 - i) / tau, 0, 1)

The formulas are our reconstruction (see ARCHITECTURE.md). Shape suffixes: G groups, U units.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor

    from automl_prune.graph import CouplingGraph


def unit_groups(graph: CouplingGraph) -> Tensor:
    """(U,) int64: the group of every unit."""
    group_U = torch.empty(graph.num_units, dtype=torch.int64)
    for index, group in enumerate(graph.groups):
        group_U[group.units] = index
    return group_U


def group_sizes(graph: CouplingGraph) -> Tensor:
    """(G,) float64: C of every group."""
    return torch.tensor([group.num_units for group in graph.groups], dtype=torch.float64)


def window_widths(
    sizes_G: Tensor, progress: float, *, start: float, anneal_fraction: float
) -> Tensor:
    """The width tau of every group's window.

    Args:
        sizes_G: C of every group.
        progress: share of the inner loop that is done, in [0, 1].
        start: first width as a share of C.
        anneal_fraction: share of the loop over which the width shrinks, in a straight line, to 1.

    Returns:
        (G,) float64, at least 1.
    """
    first_G = (start * sizes_G).clamp(min=1.0)
    done = min(progress / anneal_fraction, 1.0)
    return first_G + done * (1.0 - first_G)


def ramp(k_G: Tensor, tau_G: Tensor, rank_U: Tensor, group_U: Tensor) -> Tensor:
    """The soft mask m_i of all units at once; differentiable in ``k_G``.

    The derivative is 1/tau for every unit with k - 1 <= i < k - 1 + tau, else 0: at a whole k
    and tau = 1 exactly one unit has it, the last that is kept.

    Args:
        k_G: remaining units, real-valued, in [1, C].
        tau_G: window widths, at least 1.
        rank_U: place of every unit in its group's ranking, 0 = most important.
        group_U: group of every unit.
    """
    height_U = 1.0 + (k_G[group_U] - 1.0 - rank_U) / tau_G[group_U]
    inside_U = (height_U > 0.0) & (height_U <= 1.0)
    return torch.where(inside_U, height_U, (height_U > 1.0).to(height_U.dtype))


def hard_draw(
    k_G: Tensor, tau_G: Tensor, uniform_G: Tensor, rank_U: Tensor, group_U: Tensor
) -> Tensor:
    """Keep unit i where i <= k - 1 + u * tau: a hard mask whose expectation is :func:`ramp`.

    Args:
        k_G: remaining units, real-valued, in [1, C]; so the first unit always stays.
        tau_G: window widths.
        uniform_G: u, one draw from U(0, 1) per group.
        rank_U: place of every unit in its group's ranking.
        group_U: group of every unit.

    Returns:
        (U,) bool.
    """
    last_G = k_G - 1.0 + uniform_G * tau_G
    return rank_U <= last_G[group_U]
