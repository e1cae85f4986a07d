"""The masked model: full size, with removed channels multiplied by zero at every consumer.

A factor on a consumer's input channel is a factor on the matching slice of its weight: exact
whatever normalisation or activation lies before, without hooks, and almost free.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor, nn

    from automl_prune.graph import CouplingGraph, Layer


def masked_parameters(model: nn.Module, graph: CouplingGraph, mask_U: Tensor) -> dict[str, Tensor]:
    """Weights of all consumers with their input slices multiplied by the mask.

    Args:
        model: not changed.
        graph: its coupling graph.
        mask_U: (units,) float, in [0, 1]; gradients flow to it and to the weights.

    Returns:
        Parameter name to masked weight, for ``torch.func.functional_call``.
    """
    mask = torch.cat([mask_U, torch.ones(1, dtype=mask_U.dtype, device=mask_U.device)])
    masked = {}
    for name, layer in graph.layers.items():
        if layer.kind in ("conv", "linear") and bool((layer.in_units >= 0).any()):
            weight = model.get_submodule(name).weight
            assert isinstance(weight, torch.Tensor)
            masked[f"{name}.weight"] = weight * weight_factor(mask, layer, weight)
    return masked


def weight_factor(mask_with_one: Tensor, layer: Layer, weight: Tensor) -> Tensor:
    """The mask of a consumer's input channels, shaped to multiply its weight.

    Args:
        mask_with_one: (units + 1,), the last entry for fixed channels.
        layer: a convolution or linear layer.
        weight: its weight; gives shape and dtype.
    """
    factor = mask_with_one[layer.in_units.to(mask_with_one.device)].to(weight.dtype)
    if layer.groups > 1:
        rows = weight.shape[0]
        per_group = factor.view(layer.groups, 1, -1).expand(-1, rows // layer.groups, -1)
        factor = per_group.reshape(rows, -1)
    else:
        factor = factor.view(1, -1)
    return factor.view(*factor.shape, *(1,) * (weight.dim() - 2))


def masked_forward(
    model: nn.Module, graph: CouplingGraph, mask_U: Tensor, images_BCHW: Tensor
) -> Tensor:
    """Output of the masked model; mode and parameters of ``model`` are used as they are."""
    weights = masked_parameters(model, graph, mask_U.to(images_BCHW.dtype))
    output = torch.func.functional_call(model, weights, (images_BCHW,))
    assert isinstance(output, torch.Tensor)
    return output
