"""From one forward pass to groups of coupled channels."""

from __future__ import annotations

import dataclasses
import logging
from collections import Counter, defaultdict
from typing import TYPE_CHECKING

import torch
from torch import nn

from automl_prune.graph.cost import CostModel, count_macs
from automl_prune.graph.forward_pass import run_flow
from automl_prune.graph.groups import FIXED, CouplingGraph, Fixed, Group, Layer
from automl_prune.graph.self_check import Channels, misfits
from automl_prune.graph.union_find import UnionFind

if TYPE_CHECKING:
    from automl_prune.graph.flow import Flow, Visit

logger = logging.getLogger(__name__)

ONLY_CHANNEL = "no other channel is free to go in its place"


def trace_coupling(model: nn.Module, input_shape: tuple[int, int, int]) -> CouplingGraph:
    """Find which channels must be removed together, and which cannot be removed.

    The model runs where it is, in evaluation mode, on one random image per pass; it is not
    changed. Modules that only training runs (auxiliary heads) are not followed and are left as
    they are by surgery; a warning is logged.

    Args:
        model: on the CPU or a GPU.
        input_shape: channels, height, width.

    Returns:
        The graph; every group in it was narrowed on copies of the model, and their forward
        passes delivered exactly the kept channels, in order, to every layer.

    Raises:
        TraceError: the model cannot be run or followed; names operation and module.
    """
    book = UnionFind()
    flow = run_flow(model, input_shape, book)
    _warn_of_idle_modules(model, flow)
    anonymous = book.anonymous_roots()
    channels = {
        name: Channels(
            in_roots=book.roots(visit.in_ids),
            out_roots=book.roots(visit.out_ids),
            anonymous=anonymous,
        )
        for name, visit in flow.visits.items()
    }
    graph = _build_graph(flow.visits, channels, book)
    guilty = misfits(model, input_shape, graph, channels)
    if guilty:
        graph = _without(graph, guilty)
    followed = CostModel(graph).dense_macs
    constant_macs = count_macs(model, input_shape) - followed
    assert constant_macs >= 0, (constant_macs, followed)
    return dataclasses.replace(graph, constant_macs=constant_macs)


def _warn_of_idle_modules(model: nn.Module, flow: Flow) -> None:
    idle = [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear | nn.modules.conv._ConvNd)
        and name not in flow.ran
        and name not in flow.visits
    ]
    if idle:
        logger.warning(
            "%d layers do not run in evaluation mode and will not be pruned (first: %s); if "
            "training mode runs them, remove them before pruning, or they will not fit",
            len(idle),
            idle[0],
        )


def _build_graph(
    visits: dict[str, Visit], channels: dict[str, Channels], book: UnionFind
) -> CouplingGraph:
    """Classes of ids to groups of units; a group is all classes that look alike."""
    roots = {
        name: (own.in_roots.tolist(), own.out_roots.tolist()) for name, own in channels.items()
    }
    producers = [name for name, visit in visits.items() if visit.kind in ("conv", "linear")]
    looks: dict[int, Counter[tuple[str, str]]] = defaultdict(Counter)
    for name, (in_roots, out_roots) in roots.items():
        if name in producers:
            for root in in_roots:
                looks[root][name, "in"] += 1
        for root in out_roots:
            looks[root][name, "out"] += 1
    produced = dict.fromkeys(root for name in producers for root in roots[name][1])
    alike: dict[frozenset[tuple[tuple[str, str], int]], list[int]] = {}
    for root in produced:
        if book.reason(root) is None:
            alike.setdefault(frozenset(looks[root].items()), []).append(root)
    units: dict[int, int] = {}
    groups = []
    for look, members in alike.items():
        if len(members) < 2:
            for root in members:
                book.fix(torch.tensor([root]), ONLY_CHANNEL)
            continue
        counts = dict(look)
        layers = tuple(name for name in visits if (name, "out") in counts)
        first = next(name for name in layers if name in producers)
        groups.append(
            Group(
                name=first,
                first_unit=len(units),
                num_units=len(members),
                layers=layers,
                channels_per_unit=counts[first, "out"],
            )
        )
        units.update((root, number) for number, root in enumerate(members, start=len(units)))
    fixed = []
    for name in producers:
        reasons = Counter(book.reason(root) for root in roots[name][1] if root not in units)
        for reason, count in reasons.items():
            assert reason is not None
            fixed.append(Fixed(layer=name, channels=count, reason=reason))
    return CouplingGraph(
        groups=_unique_names(groups),
        layers={
            name: Layer(
                name=name,
                kind=visit.kind,
                out_units=_units(roots[name][1], units),
                in_units=_units(roots[name][0], units),
                groups=visit.groups,
                positions=visit.positions,
                kernel=visit.kernel,
            )
            for name, visit in visits.items()
        },
        fixed=tuple(fixed),
        num_units=len(units),
    )


def _units(roots: list[int], units: dict[int, int]) -> torch.Tensor:
    return torch.tensor([units.get(root, FIXED) for root in roots], dtype=torch.int64)


def _unique_names(groups: list[Group]) -> tuple[Group, ...]:
    """Several groups can start at one layer; the later ones get a suffix."""
    seen: Counter[str] = Counter()
    named = []
    for group in groups:
        seen[group.name] += 1
        count = seen[group.name]
        name = group.name if count == 1 else f"{group.name}#{count}"
        named.append(dataclasses.replace(group, name=name))
    return tuple(named)


def _without(graph: CouplingGraph, guilty: dict[str, str]) -> CouplingGraph:
    """The same graph with some groups fixed."""
    number = torch.full((graph.num_units + 1,), FIXED)
    groups: list[Group] = []
    fixed = list(graph.fixed)
    first = 0
    for group in graph.groups:
        if group.name not in guilty:
            number[group.units] = torch.arange(first, first + group.num_units)
            groups.append(dataclasses.replace(group, first_unit=first))
            first += group.num_units
            continue
        for name in group.layers:
            layer = graph.layers[name]
            if layer.kind in ("conv", "linear"):
                inside = (layer.out_units >= group.units.start) & (
                    layer.out_units < group.units.stop
                )
                fixed.append(
                    Fixed(layer=name, channels=int(inside.sum()), reason=guilty[group.name])
                )
    layers = {
        name: dataclasses.replace(
            layer, out_units=number[layer.out_units], in_units=number[layer.in_units]
        )
        for name, layer in graph.layers.items()
    }
    return CouplingGraph(groups=tuple(groups), layers=layers, fixed=tuple(fixed), num_units=first)
