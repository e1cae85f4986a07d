"""Rules of operations that belong to a layer: convolution, linear, normalisation, channel pad."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from automl_prune.graph.flow import Flow, Visit, along_dim, varying_dims

if TYPE_CHECKING:
    from collections.abc import Callable

_PADDED = -2
"""Stands for a padded element until it gets an id."""


def _convolution(flow: Flow, func: Any, args: Any, kwargs: Any, result: Any) -> str | None:
    x, weight, transposed, groups = args[0], args[1], args[6], args[8]
    ids = flow.ids_of(x)
    if transposed:
        return "(transposed) has no rule"
    owner = _weight_owner(flow, weight, nn.modules.conv._ConvNd)
    if ids is None or owner is None:
        return "has a weight that is no plain parameter of a convolution layer"
    in_ids = flow.channel_ids(ids, 1)
    depthwise = flow.book.is_depthwise(owner, groups, len(in_ids))
    if depthwise:
        out_ids = in_ids.repeat_interleave(result.shape[1] // groups)
    else:
        out_ids = flow.book.issue(owner, result.shape[1])
        for ids_of_channels in (in_ids, out_ids):
            rows = ids_of_channels.view(groups, -1)
            for row in rows[1:]:
                flow.book.join(rows[0], row)
    flow.visit(
        Visit(
            name=owner,
            kind="depthwise" if depthwise else "conv",
            in_ids=in_ids,
            out_ids=out_ids,
            groups=groups,
            positions=math.prod(result.shape[2:]) * result.shape[0],
            kernel=math.prod(weight.shape[2:]),
        )
    )
    flow.note(result, along_dim(out_ids, 1, result))
    return None


def _linear(flow: Flow, func: Any, args: Any, kwargs: Any, result: Any) -> str | None:
    name = func.overloadpacket.__name__
    x, weight = (args[1], args[2]) if name == "addmm" else (args[0], args[1])
    ids = flow.ids_of(x)
    whole = weight if name == "linear" else weight.t()
    owner = _weight_owner(flow, whole, nn.Linear)
    if ids is None or owner is None or flow.ids_of(weight) is not None:
        return "has a weight that is no plain parameter of a linear layer"
    in_ids = flow.channel_ids(ids, -1)
    out_ids = flow.book.issue(owner, result.shape[-1])
    flow.visit(
        Visit(
            name=owner,
            kind="linear",
            in_ids=in_ids,
            out_ids=out_ids,
            positions=math.prod(result.shape[:-1]),
        )
    )
    flow.note(result, out_ids.expand(result.shape))
    return None


def _weight_owner(flow: Flow, weight: Tensor, kind: type[nn.Module]) -> str | None:
    """Path of the layer whose whole weight this is, element by element."""
    owner = flow.owner(weight)
    if owner is None or not isinstance(owner[1], kind):
        return None
    own = owner[1].weight
    assert isinstance(own, Tensor)
    same = own.shape == weight.shape and own.stride() == weight.stride()
    return owner[0] if same and own.data_ptr() == weight.data_ptr() else None


def _batch_norm(flow: Flow, func: Any, args: Any, kwargs: Any, result: Any) -> str | None:
    ids = flow.ids_of(args[0])
    output = result[0] if isinstance(result, tuple | list) else result
    owner = next((o for o in map(flow.owner, args[1:5]) if o is not None), None)
    if ids is None or (owner and not isinstance(owner[1], nn.modules.batchnorm._BatchNorm)):
        return "has parameters of no batch normalisation layer"
    channels = flow.channel_ids(ids, 1)
    if owner is not None:
        flow.visit(Visit(name=owner[0], kind="norm", in_ids=channels, out_ids=channels))
    flow.note(output, along_dim(channels, 1, output))
    return None


def _prelu(flow: Flow, func: Any, args: Any, kwargs: Any, result: Any) -> str | None:
    ids, owner = flow.ids_of(args[0]), flow.owner(args[1])
    if ids is None or owner is None or not isinstance(owner[1], nn.PReLU):
        return "has a weight of no PReLU layer"
    if args[1].numel() > 1:
        channels = flow.channel_ids(ids, 1)
        flow.visit(Visit(name=owner[0], kind="norm", in_ids=channels, out_ids=channels))
        ids = along_dim(channels, 1, result)
    flow.note(result, ids)
    return None


def _spanning_norm(flow: Flow, func: Any, args: Any, kwargs: Any, result: Any) -> str | None:
    ids = flow.ids_of(args[0])
    if ids is None:
        return "has a weight that depends on the model's input"
    name = func.overloadpacket.__name__.removeprefix("native_")
    flow.book.fix(ids, f"statistics of {name} in {flow.where} span channels")
    flow.note(result[0] if isinstance(result, tuple | list) else result, ids)
    return None


def _pad(flow: Flow, func: Any, args: Any, kwargs: Any, result: Any) -> str | None:
    ids = flow.ids_of(args[0])
    if ids is None:
        return "has no rule"
    sizes: list[int] = list(args[1])
    first = ids.dim() - len(sizes) // 2
    before = [0] * first + sizes[0::2][::-1]
    after = [0] * first + sizes[1::2][::-1]
    padded = [d for d in range(ids.dim()) if before[d] or after[d]]
    channel_dims = varying_dims(ids) or [1]
    if not set(padded) & set(channel_dims):
        for dim in padded:
            ids = ids.narrow(dim, 0, 1)
        flow.note(result, ids.expand(result.shape))
        return None
    name, module = flow.stack[-1] if flow.stack else ("", nn.Identity())
    if padded == [1] and hasattr(module, "pad_before") and hasattr(module, "pad_after"):
        in_ids = flow.channel_ids(ids, 1)
        out_ids = flow.book.issue_pad(name, in_ids, before[1], after[1])
        flow.visit(Visit(name=name, kind="pad", in_ids=in_ids, out_ids=out_ids))
        flow.note(result, along_dim(out_ids, 1, result))
        return None
    reason = f"constant padding of channels in {flow.where}"
    flow.book.fix(ids, reason)
    moved = torch.constant_pad_nd(ids, sizes, _PADDED)
    flow.note(result, torch.where(moved == _PADDED, flow.book.anonymous(reason), moved))
    return None


RULES: dict[str, Callable[[Flow, Any, Any, Any, Any], str | None]] = {
    "convolution": _convolution,
    **dict.fromkeys(["addmm", "mm", "linear"], _linear),
    **dict.fromkeys(
        [
            "native_batch_norm",
            "_native_batch_norm_legit",
            "_native_batch_norm_legit_no_training",
            "cudnn_batch_norm",
            "miopen_batch_norm",
            "batch_norm",
            "_batch_norm_with_update",
            "_batch_norm_no_update",
        ],
        _batch_norm,
    ),
    "_prelu_kernel": _prelu,
    **dict.fromkeys(
        ["native_layer_norm", "layer_norm", "native_group_norm", "group_norm", "_fused_rms_norm"],
        _spanning_norm,
    ),
    "constant_pad_nd": _pad,
}
