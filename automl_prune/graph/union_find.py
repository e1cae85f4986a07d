"""The book of the first pass: fresh ids, joined where operations couple them (union-find)."""

from __future__ import annotations

import torch
from torch import Tensor


class UnionFind:
    """Issues fresh ids; classes of joined ids; the reason why a class must stay whole."""

    def __init__(self) -> None:
        self._parents: list[int] = []
        self._reasons: dict[int, str] = {}
        self._anonymous: list[int] = []
        self._issued: dict[str, Tensor] = {}

    def issue(self, layer: str, count: int) -> Tensor:
        """See :class:`~automl_prune.graph.flow.IdBook`."""
        if layer not in self._issued:
            self._issued[layer] = self._fresh(count)
        return self._issued[layer]

    def issue_pad(self, layer: str, ids: Tensor, before: int, after: int) -> Tensor:
        """See :class:`~automl_prune.graph.flow.IdBook`."""
        zeros = self.issue(layer, before + after)
        return torch.cat([zeros[:before], ids, zeros[before:]])

    def is_depthwise(self, layer: str, groups: int, channels: int) -> bool:
        """See :class:`~automl_prune.graph.flow.IdBook`."""
        return groups == channels > 1

    def anonymous(self, reason: str) -> int:
        """See :class:`~automl_prune.graph.flow.IdBook`."""
        number = int(self._fresh(1))
        self._reasons[number] = reason
        self._anonymous.append(number)
        return number

    def anonymous_roots(self) -> frozenset[int]:
        """Classes that hold an id of no layer, such as the result of an unknown operation."""
        return frozenset(map(self.root, self._anonymous))

    def join(self, first: Tensor, second: Tensor) -> None:
        """See :class:`~automl_prune.graph.flow.IdBook`."""
        for a, b in zip(first.tolist(), second.tolist(), strict=True):
            small, large = sorted((self.root(a), self.root(b)))
            if small != large:
                self._parents[large] = small
                if large in self._reasons:
                    self._reasons.setdefault(small, self._reasons.pop(large))

    def fix(self, ids: Tensor, reason: str) -> None:
        """See :class:`~automl_prune.graph.flow.IdBook`."""
        for number in torch.unique(ids).tolist():
            self._reasons.setdefault(self.root(number), reason)

    def root(self, number: int) -> int:
        """The id that stands for the class of ``number``: the first that was issued."""
        while self._parents[number] != number:
            self._parents[number] = self._parents[self._parents[number]]
            number = self._parents[number]
        return number

    def roots(self, ids: Tensor) -> Tensor:
        """:meth:`root` of every id."""
        return torch.tensor([self.root(number) for number in ids.tolist()], dtype=torch.int64)

    def reason(self, number: int) -> str | None:
        """Why the class of ``number`` cannot be removed, or None."""
        return self._reasons.get(self.root(number))

    def _fresh(self, count: int) -> Tensor:
        first = len(self._parents)
        self._parents.extend(range(first, first + count))
        return torch.arange(first, first + count)
