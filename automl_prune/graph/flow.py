"""The ids that flow through one forward pass: every tensor carries an id per element.

An id names a channel of one layer's output. :class:`Flow` holds what a pass has seen so far; an
:class:`IdBook` issues the ids and hears which of them meet.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor

if TYPE_CHECKING:
    from torch import nn

    from automl_prune.graph.groups import LayerKind


class IdBook(Protocol):
    """Who issues ids and hears what happens to them."""

    def issue(self, layer: str, count: int) -> Tensor:
        """Ids of a layer's output channels; the same ids at every call of the layer."""

    def issue_pad(self, layer: str, ids: Tensor, before: int, after: int) -> Tensor:
        """Ids of a channel pad's whole output, given the ids of its input."""

    def is_depthwise(self, layer: str, groups: int, channels: int) -> bool:
        """Whether a convolution hands its input's ids on instead of issuing its own."""

    def anonymous(self, reason: str) -> int:
        """An id that can never be removed."""

    def join(self, first: Tensor, second: Tensor) -> None:
        """The ids at the same positions live or die together."""

    def fix(self, ids: Tensor, reason: str) -> None:
        """These ids can never be removed."""


@dataclass(slots=True, kw_only=True)
class Visit:
    """One layer as the pass met it."""

    name: str
    kind: LayerKind
    in_ids: Tensor
    out_ids: Tensor
    groups: int = 1
    positions: int = 0
    kernel: int = 1


@dataclass(slots=True)
class Flow:
    """Everything a pass saw; rules read and write it."""

    book: IdBook
    owners: dict[tuple[int, int], tuple[str, nn.Module]]
    """(address, elements) of a parameter or buffer to the module that owns it."""
    visits: dict[str, Visit] = field(default_factory=dict)
    ids: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict)
    """id(tensor) to (the tensor, kept alive; its ids)."""
    overwritten: dict[int, tuple[Tensor, int]] = field(default_factory=dict)
    """Address of a storage whose parts were written one by one to (a tensor that keeps it alive;
    the one id of all its elements)."""
    stack: list[tuple[str, nn.Module]] = field(default_factory=list)
    ran: set[str] = field(default_factory=set)
    """Paths of the modules that ran."""
    operation: str = ""
    """Name of the operation that runs now."""
    strides: tuple[int, ...] = ()
    """Of the operation's first tensor, before it ran."""

    @property
    def where(self) -> str:
        """Module path of what runs now."""
        return next((name for name, _ in reversed(self.stack) if name), "the model's forward")

    def ids_of(self, value: object) -> Tensor | None:
        """Ids of a tensor, or None if it does not depend on the model's input."""
        if not isinstance(value, Tensor):
            return None
        if self.overwritten:
            mixed = self.overwritten.get(value.untyped_storage().data_ptr())
            if mixed is not None:
                return torch.tensor(mixed[1]).expand(value.shape)
        entry = self.ids.get(id(value))
        return None if entry is None else entry[1]

    def note(self, tensor: Tensor, ids: Tensor) -> None:
        """Remember a tensor's ids (same shape)."""
        assert ids.shape == tensor.shape, (ids.shape, tensor.shape)
        self.ids[id(tensor)] = (tensor, compressed(ids))

    def owner(self, tensor: object) -> tuple[str, nn.Module] | None:
        """The module that owns a parameter, or a view of all of one."""
        if not isinstance(tensor, Tensor) or tensor.numel() == 0:
            return None
        return self.owners.get((tensor.data_ptr(), tensor.numel()))

    def channel_ids(self, ids: Tensor, dim: int) -> Tensor:
        """Ids along ``dim``; where they differ over the other dims they are joined."""
        ids, dim = compressed(ids), dim % ids.dim()
        for other in range(ids.dim()):
            if other != dim and ids.stride(other) == 0:
                ids = ids.narrow(other, 0, 1)
        rows = ids.movedim(dim, 0).reshape(ids.shape[dim], -1)
        first = rows[:, 0].clone()
        for column in range(1, rows.shape[1]):
            if not torch.equal(rows[:, column], first):
                self.book.join(first, rows[:, column])
        return first

    def visit(self, visit: Visit) -> None:
        """Note a layer; a second call joins its inputs with those of the first."""
        known = self.visits.get(visit.name)
        if known is None:
            self.visits[visit.name] = visit
        else:
            self.book.join(known.in_ids, visit.in_ids)
            known.positions += visit.positions


def compressed(ids: Tensor) -> Tensor:
    """The same ids, with stride 0 along every dim over which they do not vary."""
    for dim in range(ids.dim()):
        if ids.shape[dim] > 1 and ids.stride(dim) != 0:
            first = ids.narrow(dim, 0, 1)
            if bool((ids == first).all()):
                ids = first.expand(ids.shape)
    return ids


def varying_dims(ids: Tensor) -> list[int]:
    """Dims over which the ids differ: where the channels lie."""
    ids = compressed(ids)
    return [d for d in range(ids.dim()) if ids.shape[d] > 1 and ids.stride(d) != 0]


def along_dim(ids: Tensor, dim: int, like: Tensor) -> Tensor:
    """Ids of channels, spread over a tensor that has them along ``dim``."""
    shape = [1] * like.dim()
    shape[dim] = -1
    return ids.view(shape).expand(like.shape)
