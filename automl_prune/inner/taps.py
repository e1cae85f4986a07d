"""Gradients by the mask of a layer's input channels, read off where the layer is called.

With the mask m folded into the layer's weight, the gradient that comes back to its input x is that
of the masked layer, so dL/dm_c = <x, dL/dx>_c / m_c. No gradient by any weight is computed, which
is a third of a backward pass.

Shape suffixes: I input channels of a layer, N everything else of its input.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from torch import Tensor


@contextlib.contextmanager
def tapped(mask_by_layer: Mapping[nn.Module, Tensor]) -> Iterator[None]:
    """Within, inputs of these layers pass their gradient on to the masks as well.

    Args:
        mask_by_layer: (I,); already a factor of the layer's weight. Where it is zero no gradient
            is passed on. Only calls of the module itself are seen, not other uses of its weight.
    """
    with contextlib.ExitStack() as hooks:
        for layer, mask_I in mask_by_layer.items():
            channels = 1 if isinstance(layer, nn.modules.conv._ConvNd) else -1
            handle = layer.register_forward_pre_hook(
                lambda _layer, inputs, mask_I=mask_I, channels=channels: (
                    _Tap.apply(inputs[0], mask_I, channels),
                    *inputs[1:],
                )
            )
            hooks.callback(handle.remove)
        yield


class _Tap(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, mask_I: Tensor, channels: int) -> Tensor:
        ctx.save_for_backward(x, mask_I)
        ctx.channels = channels
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None]:
        (gradient,) = gradients
        x, mask_I = ctx.saved_tensors
        exact = torch.promote_types(x.dtype, torch.float32)
        x_NI, gradient_NI = (
            tensor.movedim(ctx.channels, -1).flatten(0, -2).to(exact) for tensor in (x, gradient)
        )
        by_mask_I = torch.where(mask_I > 0, (x_NI * gradient_NI).sum(0) / mask_I, 0.0)
        return gradient, by_mask_I.to(mask_I.dtype), None
