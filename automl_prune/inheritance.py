"""Starting a trial from the model that an earlier trial left, instead of the dense one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from automl_prune.errors import EnvironmentProblemError
from automl_prune.graph.narrow import deep_copy
from automl_prune.inner.narrowed import NarrowedCopy
from automl_prune.weights import weights_digest, weights_from_bytes

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor, nn

    from automl_prune.graph import CouplingGraph
    from automl_prune.records import Parent


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Inheritance:
    """A finished trial's model, to go on from."""

    parent: Parent
    weights: dict[str, Tensor]
    """State dict of the pruned model."""
    keep_U: Tensor
    """bool per unit on the CPU: what it kept."""

    @classmethod
    def of(
        cls,
        parent: Parent,
        weights: bytes,
        kept: Mapping[str, Sequence[int]],
        graph: CouplingGraph,
    ) -> Inheritance:
        """From what the parent stored.

        Args:
            parent: as the trial was proposed with it.
            weights: content of its safetensors file.
            kept: ``TrialCurves.kept``.
            graph: coupling graph of the dense model.
        """
        keep_U = torch.zeros(graph.num_units, dtype=torch.bool)
        for group in graph.groups:
            keep_U[group.units][list(kept[group.name])] = True
        tensors = weights_from_bytes(weights, origin=f"trial {parent.number}")
        return cls(parent=parent, weights=tensors, keep_U=keep_U)

    def widened(self, dense: nn.Module, graph: CouplingGraph) -> nn.Module:
        """A full-size model: the parent's weights where it has channels, dense ones elsewhere.

        Masked to the parent's units it computes what the parent does, and channels that the parent
        lost can come back.

        Args:
            dense: the dense model; not changed.
            graph: its coupling graph.

        Raises:
            EnvironmentProblemError: the weights are not those that the proposal names.
        """
        full = deep_copy(dense).requires_grad_(False)
        narrowed = NarrowedCopy(full, graph, {})
        narrowed.keep(self.keep_U)
        narrowed.gather()
        narrowed.model.load_state_dict(self.weights)
        found = weights_digest(narrowed.model)
        if found != self.parent.weights_digest:
            raise EnvironmentProblemError(
                f"the weights of trial {self.parent.number} have digest {found[:16]}, this trial "
                f"was proposed to start from {self.parent.weights_digest[:16]}; restore the "
                "study's artifact folder from a backup"
            )
        narrowed.scatter()
        return full
