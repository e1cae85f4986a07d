"""The ranking: which channels of a group matter most, by the size of their weights."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from automl_prune.inner.window import unit_groups

if TYPE_CHECKING:
    from torch import Tensor, nn

    from automl_prune.graph import CouplingGraph


def unit_importance(model: nn.Module, graph: CouplingGraph) -> Tensor:
    """Group L2 norm, squared, of every unit.

    Summed over producers' rows, normalisation scales and consumers' input slices. Each of these
    is first divided by its mean over the layer's channels, so that no layer drowns the others.

    Returns:
        (U,) float64 on the CPU; comparable within a group only.
    """
    # fixed channels (-1) wrap around to a last place that nobody reads
    places = graph.num_units + 1
    units: list[Tensor] = []
    values: list[Tensor] = []
    with torch.no_grad():
        for name, layer in graph.layers.items():
            weight = getattr(model.get_submodule(name), "weight", None)
            if layer.kind == "pad" or weight is None:
                continue
            squares = weight.detach().double().square()
            rows = squares if squares.dim() == 1 else squares.flatten(1).sum(1)
            units.append(layer.out_units % places)
            values.append(_relative(rows))
            if layer.kind in ("conv", "linear"):
                columns = squares.view(layer.groups, -1, *squares.shape[1:]).sum(1)
                columns = columns.flatten(2).sum(2) if columns.dim() > 2 else columns
                units.append(layer.in_units % places)
                values.append(_relative(columns.flatten()))
    importance = torch.zeros(places, dtype=torch.float64)
    if units:
        importance.index_add_(0, torch.cat(units), torch.cat(values).cpu())
    return importance[:-1]


def rank_units(model: nn.Module, graph: CouplingGraph, first_U: Tensor | None = None) -> Tensor:
    """Place of every unit in its group's ranking.

    Args:
        model: its weights decide.
        graph: its coupling graph.
        first_U: (U,) bool, units that stand before all others of their group.

    Returns:
        (U,) int64 on the CPU: 0 is the most important unit of the group; equal units stand in
        the order of their numbers.
    """
    importance_U = unit_importance(model, graph)
    if first_U is not None:
        importance_U = importance_U + first_U * (1.0 + importance_U.max())
    return ranks_of(importance_U, graph)


def ranks_of(importance_U: Tensor, graph: CouplingGraph) -> Tensor:
    """Ranking by any importance; see :func:`rank_units`."""
    group_U = unit_groups(graph)
    order = torch.argsort(importance_U, descending=True, stable=True)
    order = order[torch.argsort(group_U[order], stable=True)]
    first_G = torch.tensor([group.first_unit for group in graph.groups], dtype=torch.int64)
    first_U = first_G[group_U]
    rank_U = torch.empty_like(group_U)
    # groups lie one after the other, so sorting by group keeps every group's units in its range
    rank_U[order] = torch.arange(graph.num_units) - first_U
    return rank_U


def _relative(squares: Tensor) -> Tensor:
    return squares / squares.mean().clamp(min=torch.finfo(torch.float64).tiny)
