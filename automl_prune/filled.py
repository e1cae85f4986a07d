"""A pruned model as it is trained: filled up to widths at which kernels are quick.

At odd widths many kernels take longer than at the next multiple of eight, and some longer than at
full width (docs/benchmarks.md). So after its channels are chosen a model is recalibrated and
fine-tuned with *fillers*: channels that nothing reads (:mod:`automl_prune.inner.narrowed`). It
computes what the pruned model does, and so do its gradients.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from automl_prune.inner.narrowed import (
    HEAVY_LAYER,
    WIDTH_MULTIPLE,
    NarrowedCopy,
    can_be_narrowed,
    mean_layer_macs,
)
from automl_prune.prune import prune_model

if TYPE_CHECKING:
    from torch import Tensor, nn

    from automl_prune.graph import CouplingGraph


class FilledModel:
    """What trains in a pruned model's place, and gives it.

    Where layers do little work, and where modules share a parameter, it is the pruned model
    itself.

    Args:
        full: the full-size model, which from now on belongs to this object: its kept channels are
            trained.
        graph: its coupling graph.
        keep_U: (units,) bool on the CPU; what stays.
    """

    def __init__(self, full: nn.Module, graph: CouplingGraph, keep_U: Tensor) -> None:
        self._full, self._graph, self._keep_U = full, graph, keep_U
        self._copy: NarrowedCopy | None = None
        if mean_layer_macs(graph) >= HEAVY_LAYER and can_be_narrowed(full):
            self._copy = NarrowedCopy(full, graph, {}, width_multiple=WIDTH_MULTIPLE)
            self._copy.keep(keep_U)
            self._copy.gather()
            self._copy.silence_fillers_always()
        self.model = self._cut() if self._copy is None else self._copy.model
        """To be trained in place; any optimiser will do."""

    def pruned(self) -> nn.Module:
        """The pruned model with today's weights and statistics, in evaluation mode.

        It has tensors of its own where :attr:`model` has fillers, else it is :attr:`model`.
        """
        if self._copy is None:
            return self.model.eval()
        self._copy.scatter()
        return self._cut().eval()

    def _cut(self) -> nn.Module:
        pruned = prune_model(self._full, self._graph, self._keep_U)
        return pruned.to(memory_format=torch.channels_last)
