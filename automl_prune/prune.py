"""Physical pruning: a copy of the module tree with narrower layers, same classes and names."""

from __future__ import annotations

from typing import TYPE_CHECKING

from automl_prune.errors import ModelError
from automl_prune.graph.narrow import LayerWidths, narrowed_copy, resize_layer, widths_of_layer

if TYPE_CHECKING:
    from torch import Tensor, nn

    from automl_prune.graph import CouplingGraph

__all__ = ["LayerWidths", "layer_widths", "narrow_to", "prune_model"]


def prune_model(model: nn.Module, graph: CouplingGraph, keep_U: Tensor) -> nn.Module:
    """A physically smaller copy of ``model``.

    Args:
        model: the full-size model that ``graph`` was traced from; not changed.
        graph: its coupling graph.
        keep_U: (units,) bool; at least one unit of every group must stay.

    Returns:
        A deep copy with narrowed layers: same classes, same parameter names, same ``forward``.

    Raises:
        ValueError: ``keep_U`` has another length, or empties a group.
    """
    if keep_U.shape != (graph.num_units,):
        raise ValueError(
            f"keep_U has shape {tuple(keep_U.shape)}; the graph has {graph.num_units} units"
        )
    for group in graph.groups:
        if not bool(keep_U[group.units].any()):
            raise ValueError(f"group {group.name} would lose all its units; keep at least one")
    return narrowed_copy(model, graph.layers, keep_U)


def layer_widths(model: nn.Module) -> dict[str, LayerWidths]:
    """Sizes of every layer that surgery can change, by module path."""
    return {
        name: widths
        for name, module in model.named_modules()
        if (widths := widths_of_layer(module)) is not None
    }


def narrow_to(model: nn.Module, widths: dict[str, LayerWidths]) -> None:
    """Give a freshly built dense model the shape of a pruned one, in place.

    The values are then meaningless until a state dict is loaded. No trace is needed.

    Raises:
        ModelError: the model has no such layer, or a smaller one.
    """
    found = layer_widths(model)
    for name, wanted in widths.items():
        own = found.get(name)
        is_pad = hasattr(model.get_submodule(name), "pad_before") if own else False
        if own is None or (
            not is_pad and (own.inputs < wanted.inputs or own.outputs < wanted.outputs)
        ):
            raise ModelError(
                f"layer {name} of the built model is {own}, the widths ask for {wanted}; "
                "the builder does not give the network that was pruned"
            )
        if own != wanted:
            resize_layer(model.get_submodule(name), wanted)
