"""From one forward pass to groups of coupled channels, checked by narrowing and passing again."""

from __future__ import annotations

import copy
import dataclasses
from collections import Counter, defaultdict
from typing import TYPE_CHECKING

import torch

from automl_prune.errors import TraceError
from automl_prune.graph.flow import Flow, run_flow
from automl_prune.graph.groups import FIXED, CouplingGraph, Fixed, Group, Layer
from automl_prune.graph.narrow import narrow_layers, unit_mask

if TYPE_CHECKING:
    from torch import Tensor, nn


class _UnionFind:
    """The book of the first pass: fresh ids, joined as operations couple them."""

    def __init__(self) -> None:
        self.parents: list[int] = []
        self.reasons: dict[int, str] = {}
        self._issued: dict[str, Tensor] = {}

    def _fresh(self, count: int) -> Tensor:
        first = len(self.parents)
        self.parents.extend(range(first, first + count))
        return torch.arange(first, first + count)

    def is_depthwise(self, layer: str, inputs: int, groups: int) -> bool:
        return groups > 1 and groups == inputs

    def issue(self, layer: str, count: int) -> Tensor:
        if layer not in self._issued:
            self._issued[layer] = self._fresh(count)
        return self._issued[layer]

    def issue_pad(self, layer: str, ids: Tensor, before: int, after: int) -> Tensor:
        zeros = self.issue(layer, before + after)
        return torch.cat([zeros[:before], ids, zeros[before:]])

    def anonymous(self, reason: str) -> int:
        number = int(self._fresh(1))
        self.reasons[number] = reason
        return number

    def root(self, number: int) -> int:
        while self.parents[number] != number:
            self.parents[number] = self.parents[self.parents[number]]
            number = self.parents[number]
        return number

    def join(self, first: Tensor, second: Tensor) -> None:
        for a, b in zip(first.tolist(), second.tolist(), strict=True):
            small, large = sorted((self.root(a), self.root(b)))
            if small != large:
                self.parents[large] = small
                if large in self.reasons:
                    self.reasons.setdefault(small, self.reasons.pop(large))

    def fix(self, ids: Tensor, reason: str) -> None:
        for number in torch.unique(ids).tolist():
            if number >= 0:
                self.reasons.setdefault(self.root(number), reason)


class _MisfitError(Exception):
    """The narrowed network does not deliver the kept channels in order."""


class _Expected:
    """The book of the second pass, over a narrowed network: units instead of fresh ids."""

    def __init__(self, layers: dict[str, Layer], keep_U: Tensor) -> None:
        self._fixed = len(keep_U)
        self._kinds = {name: layer.kind for name, layer in layers.items()}
        mask = unit_mask(keep_U)
        self.ins = {n: self._kept(layer.in_units, mask) for n, layer in layers.items()}
        self.outs = {n: self._kept(layer.out_units, mask) for n, layer in layers.items()}

    def _kept(self, units: Tensor, mask: Tensor) -> Tensor:
        kept = units[mask[units]]
        return torch.where(kept == FIXED, self._fixed, kept)

    def is_depthwise(self, layer: str, inputs: int, groups: int) -> bool:
        # A grouped convolution narrowed to one input per group is still no depthwise one.
        return self._kinds[layer] == "depthwise"

    def issue(self, layer: str, count: int) -> Tensor:
        ids = self.outs[layer]
        if len(ids) != count:
            raise _MisfitError(f"{layer} gives {count} channels, {len(ids)} were kept")
        return ids

    def issue_pad(self, layer: str, ids: Tensor, before: int, after: int) -> Tensor:
        return self.issue(layer, before + len(ids) + after)

    def anonymous(self, reason: str) -> int:
        return self._fixed

    def join(self, first: Tensor, second: Tensor) -> None:
        if not torch.equal(first, second):
            raise _MisfitError("channels meet that do not belong together")

    def fix(self, ids: Tensor, reason: str) -> None:
        if bool((ids != self._fixed).any()):
            raise _MisfitError(reason)


def trace_coupling(model: nn.Module, input_shape: tuple[int, int, int]) -> CouplingGraph:
    """Find which channels must be removed together, and which cannot be removed.

    Args:
        model: not changed; run in evaluation mode on one random image per pass.
        input_shape: channels, height, width.

    Returns:
        The graph; every group in it was narrowed on a copy of the model, and the copy's forward
        pass delivered exactly the kept channels, in order, to every layer.

    Raises:
        TraceError: the model cannot be run or followed; names operation and module.
    """
    book = _UnionFind()
    flow = run_flow(model, input_shape, book)
    graph = _build_graph(flow, book)
    guilty = _misfits(model, input_shape, graph)
    if guilty:
        graph = _without(graph, guilty)
    return graph


def _build_graph(flow: Flow, book: _UnionFind) -> CouplingGraph:
    roots = {
        name: (_roots(book, visit.in_ids), _roots(book, visit.out_ids))
        for name, visit in flow.visits.items()
    }
    signature: dict[int, Counter[tuple[str, str]]] = defaultdict(Counter)
    produced: set[int] = set()
    for name, visit in flow.visits.items():
        in_roots, out_roots = roots[name]
        if visit.kind in ("conv", "linear"):
            produced.update(out_roots)
            for root in in_roots:
                signature[root][name, "in"] += 1
        for root in out_roots:
            signature[root][name, "out"] += 1
    classes: dict[frozenset[tuple[tuple[str, str], int]], list[int]] = {}
    seen: set[int] = set()
    for name, visit in flow.visits.items():
        if visit.kind not in ("conv", "linear"):
            continue
        for root in roots[name][1]:
            if root not in seen and root in produced and root not in book.reasons:
                seen.add(root)
                classes.setdefault(frozenset(signature[root].items()), []).append(root)
    units: dict[int, int] = {}
    groups = []
    for members, class_roots in classes.items():
        counts = dict(members)
        if len(class_roots) < 2:
            for root in class_roots:
                book.reasons[root] = "the layer's only free channel"
            continue
        layers = tuple(name for name in flow.visits if (name, "out") in counts)
        producer = next(n for n in layers if flow.visits[n].kind in ("conv", "linear"))
        groups.append(
            Group(
                name=producer,
                first_unit=len(units),
                num_units=len(class_roots),
                layers=layers,
                channels_per_unit=counts[producer, "out"],
            )
        )
        units.update((root, len(units)) for root in class_roots)
    layers_by_name = {
        name: Layer(
            name=name,
            kind=visit.kind,
            out_units=torch.tensor([units.get(root, FIXED) for root in roots[name][1]]),
            in_units=torch.tensor([units.get(root, FIXED) for root in roots[name][0]]),
            groups=visit.groups,
            positions=visit.positions,
            kernel=visit.kernel,
        )
        for name, visit in flow.visits.items()
    }
    fixed = []
    for name, visit in flow.visits.items():
        if visit.kind not in ("conv", "linear"):
            continue
        reasons = Counter(book.reasons[r] for r in roots[name][1] if r not in units)
        fixed += [Fixed(layer=name, channels=n, reason=why) for why, n in reasons.items()]
    return CouplingGraph(
        groups=_unique_names(groups),
        layers=layers_by_name,
        fixed=tuple(fixed),
        num_units=len(units),
    )


def _roots(book: _UnionFind, ids: Tensor) -> list[int]:
    return [book.root(number) for number in ids.tolist()]


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


def _misfits(
    model: nn.Module, input_shape: tuple[int, int, int], graph: CouplingGraph
) -> dict[str, str]:
    """Groups that cannot be narrowed although the ids say so, with the reason."""
    everything = [group.name for group in graph.groups]
    if _why_misfit(model, input_shape, graph, everything) is None:
        return {}
    guilty: dict[str, str] = {}
    for name in everything:
        reason = _why_misfit(model, input_shape, graph, [name])
        if reason is not None:
            guilty[name] = reason
    innocent = [name for name in everything if name not in guilty]
    if _why_misfit(model, input_shape, graph, innocent) is None:
        return guilty
    accepted: list[str] = []
    for name in innocent:
        reason = _why_misfit(model, input_shape, graph, [*accepted, name])
        if reason is None:
            accepted.append(name)
        else:
            guilty[name] = reason
    return guilty


def _why_misfit(
    model: nn.Module, input_shape: tuple[int, int, int], graph: CouplingGraph, names: list[str]
) -> str | None:
    """None if narrowing these groups works, tried with two different sets of kept units."""
    generator = torch.Generator().manual_seed(0)
    for pattern in ("front", "random"):
        keep_U = torch.ones(graph.num_units, dtype=torch.bool)
        for index, group in enumerate(graph.groups):
            if group.name not in names:
                continue
            count = group.num_units
            order = torch.arange(count)
            if pattern == "random":
                order = torch.randperm(count, generator=generator)
            # Groups of one size lose different numbers, or unequal halves would go unnoticed.
            dropped = 1 + (7 * index + (pattern == "random")) % max(1, count // 2)
            keep_U[group.units] = False
            keep_U[group.first_unit + order[: count - dropped]] = True
        narrowed = copy.deepcopy(model)
        narrow_layers(narrowed, graph.layers, keep_U)
        book = _Expected(graph.layers, keep_U)
        try:
            flow = run_flow(narrowed, input_shape, book)
            for name, visit in flow.visits.items():
                if not torch.equal(visit.in_ids, book.ins[name]):
                    raise _MisfitError(f"{name} does not get the kept channels in order")
        except (TraceError, _MisfitError) as error:
            cause = error.__cause__ or error
            return f"forward fixes its width: {str(cause).splitlines()[0][:160]}"
    return None


def _without(graph: CouplingGraph, guilty: dict[str, str]) -> CouplingGraph:
    """The same graph with some groups fixed."""
    number = torch.full((graph.num_units + 1,), FIXED)
    groups, first = [], 0
    fixed = list(graph.fixed)
    for group in graph.groups:
        if group.name in guilty:
            for layer in group.layers:
                info = graph.layers[layer]
                if info.kind in ("conv", "linear"):
                    in_group = (info.out_units >= group.units.start) & (
                        info.out_units < group.units.stop
                    )
                    fixed.append(
                        Fixed(layer=layer, channels=int(in_group.sum()), reason=guilty[group.name])
                    )
            continue
        number[group.units] = torch.arange(first, first + group.num_units)
        groups.append(dataclasses.replace(group, first_unit=first))
        first += group.num_units
    layers = {
        name: dataclasses.replace(
            layer, out_units=number[layer.out_units], in_units=number[layer.in_units]
        )
        for name, layer in graph.layers.items()
    }
    return CouplingGraph(groups=tuple(groups), layers=layers, fixed=tuple(fixed), num_units=first)
