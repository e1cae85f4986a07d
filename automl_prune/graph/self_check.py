"""Groups are believed only after surgery: narrowed copies run again, and ids flow again.

The narrowed network runs the same Python with other widths. Every layer must then see exactly
the kept channels, in order; a constant width in ``forward``, or a split into halves that are no
longer equal, shows here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from automl_prune.errors import TraceError
from automl_prune.graph.cost import count_macs
from automl_prune.graph.forward_pass import run_flow
from automl_prune.graph.groups import FIXED
from automl_prune.graph.narrow import narrow_layers, shallow_copy, unit_mask

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from torch import Tensor, nn

    from automl_prune.graph.flow import Flow
    from automl_prune.graph.groups import CouplingGraph, Group

_ANY_FIXED = -2
"""Id of a channel that is fixed, whichever it is."""
_REASON = "forward does not follow other widths: "


@dataclass(frozen=True, slots=True, kw_only=True)
class Channels:
    """Class of every channel of one layer, in the full-size network."""

    in_roots: Tensor
    out_roots: Tensor
    anonymous: frozenset[int]
    """Classes that came out of operations without a rule: any fixed channel may stand there, as
    an operation may be absent in another memory layout."""


class _MisfitError(Exception):
    """The narrowed network does not deliver the kept channels in order."""


class _Expected:
    """The book of a pass over a narrowed network: known classes instead of fresh ids."""

    def __init__(
        self, graph: CouplingGraph, channels: dict[str, Channels], keep_U: Tensor
    ) -> None:
        self._graph = graph
        self._fixed = {_ANY_FIXED}
        self._any = {_ANY_FIXED}.union(*(own.anonymous for own in channels.values()))
        mask = unit_mask(keep_U)
        self.ins: dict[str, Tensor] = {}
        self.outs: dict[str, Tensor] = {}
        for name, layer in graph.layers.items():
            own = channels[name]
            self.ins[name] = own.in_roots[mask[layer.in_units]]
            self.outs[name] = own.out_roots[mask[layer.out_units]]
            for roots, units in ((own.in_roots, layer.in_units), (own.out_roots, layer.out_units)):
                self._fixed.update(roots[units == FIXED].tolist())

    def issue(self, layer: str, count: int) -> Tensor:
        ids = self.outs.get(layer)
        if ids is None:
            raise _MisfitError(f"{layer} did not run at full width")
        if len(ids) != count:
            raise _MisfitError(f"{layer} gives {count} channels, {len(ids)} were kept")
        return ids

    def issue_pad(self, layer: str, ids: Tensor, before: int, after: int) -> Tensor:
        return self.issue(layer, before + len(ids) + after)

    def is_depthwise(self, layer: str, groups: int, channels: int) -> bool:
        known = self._graph.layers.get(layer)
        return known is not None and known.kind == "depthwise"

    def anonymous(self, reason: str) -> int:
        return _ANY_FIXED

    def join(self, first: Tensor, second: Tensor) -> None:
        if not self.same(first, second):
            raise _MisfitError("channels meet that do not belong together")

    def fix(self, ids: Tensor, reason: str) -> None:
        if not set(torch.unique(ids).tolist()) <= self._fixed:
            raise _MisfitError(reason)

    def same(self, first: Tensor, second: Tensor) -> bool:
        if first.shape != second.shape:
            return False
        different = first != second
        pairs = zip(first[different].tolist(), second[different].tolist(), strict=True)
        return all(
            self._fixed.issuperset(pair) and not self._any.isdisjoint(pair) for pair in pairs
        )


def misfits(
    model: nn.Module,
    input_shape: tuple[int, int, int],
    graph: CouplingGraph,
    channels: dict[str, Channels],
) -> dict[str, str]:
    """Groups that cannot be narrowed although the ids say so, with the reason.

    Args:
        model: the full-size model; not changed.
        input_shape: channels, height, width.
        graph: of the model.
        channels: classes of the channels, by layer of the graph.
    """

    def why(groups: Sequence[Group], *, quick: bool = False) -> str | None:
        return _why_misfit(model, input_shape, graph, channels, groups, quick=quick)

    if why(graph.groups) is None:
        return {}
    guilty: dict[str, str] = {}
    innocent: list[Group] = []
    for group in graph.groups:
        reason = why([group], quick=True)
        if reason is None:
            innocent.append(group)
        else:
            guilty[group.name] = reason
    if why(innocent) is None:
        return guilty
    accepted: list[Group] = []
    for group in innocent:
        reason = why([*accepted, group])
        if reason is None:
            accepted.append(group)
        else:
            guilty[group.name] = reason
    return guilty


def _why_misfit(
    model: nn.Module,
    input_shape: tuple[int, int, int],
    graph: CouplingGraph,
    channels: dict[str, Channels],
    groups: Sequence[Group],
    *,
    quick: bool,
) -> str | None:
    """None if these groups can be narrowed, each by an amount of its own.

    The quick form tries one kept set; what passes it has to pass in full together with others.
    """
    for keep_U in _kept_sets(graph, groups):
        narrowed = shallow_copy(model)
        narrow_layers(narrowed, graph.layers, keep_U)
        book = _Expected(graph, channels, keep_U)
        try:
            flow = run_flow(narrowed, input_shape, book)
            _check_inputs(graph, flow, book)
        except (TraceError, _MisfitError) as error:
            return _REASON + _first_line(error)
        if quick:
            return None
    narrowed = shallow_copy(model)
    narrow_layers(narrowed, graph.layers, _one_unit_each(graph, groups))
    try:  # a single channel looks like a broadcast one, so its ids say nothing: it has to run
        count_macs(narrowed, input_shape)
    except Exception as error:  # a user's forward may raise anything
        return _REASON + _first_line(error)
    return None


def _check_inputs(graph: CouplingGraph, flow: Flow, book: _Expected) -> None:
    for name, layer in graph.layers.items():
        visit = flow.visits.get(name)
        if visit is None and layer.kind != "pad":  # without zeros to add, a pad is no operation
            raise _MisfitError(f"{name} does not run")
        if visit is not None and not book.same(visit.in_ids, book.ins[name]):
            raise _MisfitError(f"{name} does not get the kept channels in order")


def _first_line(error: Exception) -> str:
    cause = error.__cause__ or error
    return (str(cause).splitlines() or [type(cause).__name__])[0][:160]


def _kept_sets(graph: CouplingGraph, groups: Sequence[Group]) -> Iterator[Tensor]:
    """Random units in which every two groups are cut by very different shares at least once.

    Equal halves of two groups that lose the same share stay equal, and by luck also at some
    unequal counts, so chance is not enough: groups are numbered, and in pattern b those whose
    number has bit b set keep few units, the others many.
    """
    generator = torch.Generator().manual_seed(0)
    flips = (False, True) if any(group.num_units <= 3 for group in groups) else (False,)
    for bit in range(len(groups).bit_length()):
        for flip in flips:
            keep_U = torch.ones(graph.num_units, dtype=torch.bool)
            for number, group in enumerate(groups, start=1):
                size = group.num_units
                few = bool(number >> bit & 1) != flip
                spread = int(torch.randint(0, size // 6 + 1, (), generator=generator))
                if size <= 4:
                    count = max(1, size // 2) if few else size
                else:
                    count = max(2, size // 3 - spread) if few else size - 1 - spread
                order = torch.randperm(size, generator=generator)
                keep_U[group.first_unit + order[count:]] = False
            yield keep_U


def _one_unit_each(graph: CouplingGraph, groups: Sequence[Group]) -> Tensor:
    keep_U = torch.ones(graph.num_units, dtype=torch.bool)
    for group in groups:
        keep_U[group.units] = False
        keep_U[group.first_unit] = True
    return keep_U
