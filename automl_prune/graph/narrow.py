"""Surgery on single layers: which rows and columns of a layer's tensors stay."""

from __future__ import annotations

import copy
from collections import Counter, OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import nn

if TYPE_CHECKING:
    from torch import Tensor

    from automl_prune.graph.groups import Layer


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerWidths:
    """Sizes of one layer, as a model folder keeps them."""

    inputs: int
    """Input channels or features; of a channel pad: zeros before."""
    outputs: int
    """Output channels or features; of a channel pad: zeros after."""
    groups: int = 1


def unit_mask(keep_U: Tensor) -> Tensor:
    """``keep_U`` with a trailing True, so that unit -1 (fixed) indexes a kept channel."""
    return torch.cat([keep_U, torch.ones(1, dtype=keep_U.dtype, device=keep_U.device)])


def shallow_copy(model: nn.Module) -> nn.Module:
    """A module tree of its own that shares its tensors; surgery replaces tensors, so it may."""
    return _copy_sharing(model, [*model.parameters(), *model.buffers()])


def deep_copy(model: nn.Module) -> nn.Module:
    """What ``copy.deepcopy`` gives, sooner."""
    return _copy_sharing(model, [])


def narrowed_copy(model: nn.Module, layers: dict[str, Layer], keep_U: Tensor) -> nn.Module:
    """A deep copy without the channels of the units that are not kept.

    Args:
        model: the full-size model that ``layers`` was traced from; not changed.
        layers: of the coupling graph.
        keep_U: (units,) bool.
    """
    owners = Counter(id(t) for module in model.modules() for t in _own_tensors(module).values())
    modules = [model.get_submodule(n) for n, layer in layers.items() if layer.kind != "pad"]
    replaced = [tensor for module in modules for tensor in _own_tensors(module).values()]
    copied = _copy_sharing(model, [tensor for tensor in replaced if owners[id(tensor)] == 1])
    narrow_layers(copied, layers, keep_U)
    return copied


def _copy_sharing(model: nn.Module, shared: list[Tensor]) -> nn.Module:
    copied: dict[int, object] = {id(tensor): tensor for tensor in shared}
    # most of a module is empty dictionaries of hooks, which deepcopy is slow at
    for module in model.modules():
        for value in vars(module).values():
            if type(value) in (dict, OrderedDict) and not value:
                copied[id(value)] = type(value)()
    return copy.deepcopy(model, copied)


def narrow_layers(model: nn.Module, layers: dict[str, Layer], keep_U: Tensor) -> None:
    """Remove the channels of the units that are not kept, in place.

    Args:
        model: the full-size model that ``layers`` was traced from.
        layers: of the coupling graph.
        keep_U: (units,) bool.
    """
    mask = unit_mask(keep_U.cpu().bool())
    for name, layer in layers.items():
        module = model.get_submodule(name)
        keep_out, keep_in = mask[layer.out_units], mask[layer.in_units]
        if layer.kind == "pad":
            before, after = pad_sizes(module)
            module.pad_before = int(keep_out[:before].sum())  # type: ignore[assignment]
            module.pad_after = int(keep_out[len(keep_out) - after :].sum())  # type: ignore[assignment]
            continue
        rows = keep_out.nonzero().flatten()
        columns = keep_in.nonzero().flatten()
        groups = layer.groups
        if layer.kind == "depthwise":
            groups, columns = int(keep_in.sum()), torch.zeros(1, dtype=torch.int64)
        elif layer.kind == "conv" and groups > 1:
            columns = keep_in.view(groups, -1)[0].nonzero().flatten()
        _select(module, rows, columns, groups)


def pad_sizes(module: nn.Module) -> tuple[int, int]:
    """Zeros that a channel pad puts before and after its input's channels."""
    before, after = module.pad_before, module.pad_after
    assert isinstance(before, int)
    assert isinstance(after, int)
    return before, after


def widths_of_layer(module: nn.Module) -> LayerWidths | None:
    """Sizes of a module that surgery can change, else None."""
    if isinstance(module, nn.modules.conv._ConvNd):
        return LayerWidths(
            inputs=module.in_channels, outputs=module.out_channels, groups=module.groups
        )
    if isinstance(module, nn.Linear):
        return LayerWidths(inputs=module.in_features, outputs=module.out_features)
    if isinstance(module, nn.modules.batchnorm._BatchNorm):
        return LayerWidths(inputs=module.num_features, outputs=module.num_features)
    if isinstance(module, nn.PReLU):
        return LayerWidths(inputs=module.num_parameters, outputs=module.num_parameters)
    if hasattr(module, "pad_before") and hasattr(module, "pad_after"):
        before, after = pad_sizes(module)
        return LayerWidths(inputs=before, outputs=after)
    return None


def resize_layer(module: nn.Module, widths: LayerWidths) -> None:
    """Give a layer the shape of ``widths``; which of its values stay does not matter here."""
    if hasattr(module, "pad_before"):
        module.pad_before, module.pad_after = widths.inputs, widths.outputs  # type: ignore[assignment]
        return
    _select(
        module,
        torch.arange(widths.outputs),
        torch.arange(widths.inputs // widths.groups),
        widths.groups,
    )


def note_sizes(module: nn.Module, inputs: int, outputs: int, groups: int) -> None:
    """Let a layer's attributes say how many channels it has; its tensors are left alone."""
    if isinstance(module, nn.modules.batchnorm._BatchNorm):
        module.num_features = outputs
    elif isinstance(module, nn.PReLU):
        module.num_parameters = outputs
    elif isinstance(module, nn.Linear):
        module.in_features, module.out_features = inputs, outputs
    else:
        assert isinstance(module, nn.modules.conv._ConvNd), type(module)
        module.in_channels, module.out_channels = inputs, outputs
        module.groups = groups


def _select(module: nn.Module, rows: Tensor, columns: Tensor, groups: int) -> None:
    """Keep ``rows`` of every tensor, and ``columns`` of the weight (within one group)."""
    note_sizes(module, len(columns) * groups, len(rows), groups)
    for name, tensor in _own_tensors(module).items():
        values = tensor.detach()[rows.to(tensor.device)]
        if values.dim() > 1:
            values = values[:, columns.to(tensor.device)]
        if isinstance(tensor, nn.Parameter):
            setattr(module, name, nn.Parameter(values.clone(), requires_grad=tensor.requires_grad))
        else:
            module._buffers[name] = values.clone()


def _own_tensors(module: nn.Module) -> dict[str, Tensor]:
    """What surgery replaces: everything but counters."""
    named = (*module.named_parameters(recurse=False), *module.named_buffers(recurse=False))
    return {name: tensor for name, tensor in named if tensor.dim() > 0}
