"""What each operation does to the ids that enter it. An operation without a rule fixes them."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from automl_prune.graph.flow import ZERO, Flow, Visit, compressed

if TYPE_CHECKING:
    from collections.abc import Callable

MOVEMENT = frozenset(
    [
        "view",
        "_unsafe_view",
        "reshape",
        "permute",
        "transpose",
        "t",
        "slice",
        "select",
        "split",
        "split_with_sizes",
        "chunk",
        "unbind",
        "cat",
        "stack",
        "unsqueeze",
        "squeeze",
        "narrow",
        "flip",
        "roll",
        "pixel_shuffle",
        "pixel_unshuffle",
        "channel_shuffle",
        "repeat",
        "expand",
        "index_select",
        "movedim",
        "unfold",
        "repeat_interleave",
        "swapaxes",
        "alias",
        "detach",
        "clone",
        "contiguous",
    ]
)
ELEMENTWISE = frozenset(
    [
        "add",
        "sub",
        "rsub",
        "mul",
        "div",
        "maximum",
        "minimum",
        "where",
        "relu",
        "relu6",
        "hardtanh",
        "hardswish",
        "silu",
        "gelu",
        "sigmoid",
        "hardsigmoid",
        "tanh",
        "elu",
        "leaky_relu",
        "mish",
        "softplus",
        "softsign",
        "selu",
        "celu",
        "logit",
        "dropout",
        "native_dropout",
        "exp",
        "log",
        "log1p",
        "expm1",
        "neg",
        "abs",
        "sqrt",
        "rsqrt",
        "pow",
        "square",
        "reciprocal",
        "clamp",
        "clamp_min",
        "clamp_max",
        "erf",
        "sin",
        "cos",
        "floor",
        "round",
        "sign",
        "_to_copy",
        "to",
        "copy_",
        "lift_fresh",
        "sgn",
        "addcmul",
        "log_sigmoid_forward",
        "hardshrink",
        "softshrink",
        "threshold",
    ]
)
SPATIAL = frozenset(
    [
        "max_pool2d_with_indices",
        "max_pool2d",
        "avg_pool2d",
        "adaptive_avg_pool2d",
        "_adaptive_avg_pool2d",
        "adaptive_max_pool2d",
        "mean_pool",
        "upsample_nearest2d",
        "upsample_bilinear2d",
        "_upsample_bilinear2d_aa",
        "upsample_bicubic2d",
        "reflection_pad2d",
        "replication_pad2d",
        "max_pool1d",
        "avg_pool1d",
        "max_pool3d_with_indices",
        "avg_pool3d",
    ]
)
REDUCTIONS = frozenset(
    [
        "mean",
        "sum",
        "amax",
        "amin",
        "max",
        "min",
        "var",
        "std",
        "prod",
        "norm",
        "linalg_vector_norm",
    ]
)
ALONG = frozenset(
    ["_softmax", "softmax", "_log_softmax", "log_softmax", "cumsum", "cumprod", "sort"]
)
SPANNING = frozenset(["native_layer_norm", "layer_norm", "native_group_norm", "group_norm"])


def apply_rule(
    flow: Flow, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any
) -> None:
    """Give the operation's results their ids, and tell the book what it couples."""
    if not any(flow.ids_of(value) is not None for value in _flat((args, kwargs))):
        return
    name = func.overloadpacket.__name__
    plain = name[:-1] if name.endswith("_") and not name.startswith("_") else name
    rule = RULES.get(plain) or RULES.get(name)
    if rule is None or not rule(flow, plain, args, kwargs, result):
        _unknown(flow, plain, args, kwargs, result)


def _flat(value: object) -> list[Any]:
    if isinstance(value, dict):
        return [item for part in value.values() for item in _flat(part)]
    if isinstance(value, list | tuple):
        return [item for part in value for item in _flat(part)]
    return [value]


def _unknown(flow: Flow, name: str, args: Any, kwargs: Any, result: Any) -> None:
    reason = f"operation {name} in {flow.where} has no rule"
    for value in _flat((args, kwargs)):
        ids = flow.ids_of(value)
        if ids is not None:
            flow.book.fix(ids, reason)
    for value in _flat(result):
        if isinstance(value, Tensor):
            flow.note(value, torch.full((), flow.book.anonymous(reason)).expand(value.shape))


def _convolution(flow: Flow, name: str, args: Any, kwargs: Any, result: Any) -> bool:
    x, weight, transposed, groups = args[0], args[1], args[6], args[8]
    owner, ids = flow.owner(weight), flow.ids_of(x)
    if (
        ids is None
        or owner is None
        or transposed
        or not isinstance(owner[1], nn.modules.conv._ConvNd)
    ):
        return False
    layer = owner[0]
    in_ids = _no_zeros(flow, flow.channel_ids(ids, 1))
    kernel = math.prod(weight.shape[2:])
    positions = math.prod(result.shape[2:]) * result.shape[0]
    if flow.book.is_depthwise(layer, len(in_ids), groups):
        out_ids = in_ids.repeat_interleave(result.shape[1] // groups)
        kind = "depthwise"
    else:
        out_ids = flow.book.issue(layer, result.shape[1])
        kind = "conv"
        for ids_of_channels in (in_ids, out_ids):
            rows = ids_of_channels.view(groups, -1)
            for row in rows[1:]:
                flow.book.join(rows[0], row)
    flow.visit(
        Visit(
            name=layer,
            kind=kind,  # type: ignore[arg-type]
            in_ids=in_ids,
            out_ids=out_ids,
            groups=groups,
            positions=positions,
            kernel=kernel,
        )
    )
    shape = (1, -1) + (1,) * (result.dim() - 2)
    flow.note(result, out_ids.view(shape).expand(result.shape))
    return True


def _linear(flow: Flow, name: str, args: Any, kwargs: Any, result: Any) -> bool:
    x, weight = (args[1], args[2]) if name == "addmm" else (args[0], args[1])
    owner, ids = flow.owner(weight), flow.ids_of(x)
    if ids is None or owner is None or not isinstance(owner[1], nn.Linear):
        return False
    if flow.ids_of(weight) is not None:
        return False
    in_ids = _no_zeros(flow, flow.channel_ids(ids, -1))
    out_ids = flow.book.issue(owner[0], result.shape[-1])
    flow.visit(
        Visit(
            name=owner[0],
            kind="linear",
            in_ids=in_ids,
            out_ids=out_ids,
            positions=math.prod(result.shape[:-1]),
        )
    )
    flow.note(result, out_ids.expand(result.shape))
    return True


def _no_zeros(flow: Flow, ids: Tensor) -> Tensor:
    """Channels that are always zero but are read by a layer stay."""
    if bool((ids == ZERO).any()):
        stand_in = flow.book.anonymous(f"constant padding read in {flow.where}")
        ids = torch.where(ids == ZERO, stand_in, ids)
    return ids


def _batch_norm(flow: Flow, name: str, args: Any, kwargs: Any, result: Any) -> bool:
    ids = flow.ids_of(args[0])
    owner = next((o for o in map(flow.owner, args[1:5]) if o is not None), None)
    if ids is None:
        return False
    output = result[0] if isinstance(result, tuple | list) else result
    channels = flow.channel_ids(ids, 1)
    if owner is not None:
        if not isinstance(owner[1], nn.modules.batchnorm._BatchNorm):
            return False
        channels = _no_zeros(flow, channels)
        flow.visit(Visit(name=owner[0], kind="norm", in_ids=channels, out_ids=channels))
    shape = (1, -1) + (1,) * (output.dim() - 2)
    flow.note(output, channels.view(shape).expand(output.shape))
    return True


def _spanning_norm(flow: Flow, name: str, args: Any, kwargs: Any, result: Any) -> bool:
    ids = flow.ids_of(args[0])
    if ids is None:
        return False
    flow.book.fix(
        ids, f"statistics of {name.removeprefix('native_')} in {flow.where} span channels"
    )
    flow.note(result[0] if isinstance(result, tuple | list) else result, ids)
    return True


def _movement(flow: Flow, name: str, args: Any, kwargs: Any, result: Any) -> bool:
    def swap(value: Any) -> Any:
        if isinstance(value, list | tuple):
            return type(value)(swap(item) for item in value)
        if isinstance(value, Tensor):
            ids = flow.ids_of(value)
            if ids is None and value.is_floating_point():
                reason = f"constant tensor moved together with channels in {flow.where}"
                return torch.full((), flow.book.anonymous(reason)).expand(value.shape)
            return value if ids is None else ids
        return value

    outputs = [value for value in _flat(result) if isinstance(value, Tensor)]
    if name in {"alias", "detach", "clone", "contiguous"}:
        moved: Any = swap(args[0])
    elif name in {"view", "_unsafe_view", "reshape"}:
        moved = swap(args[0]).reshape(outputs[0].shape)
    else:
        moved = getattr(torch.ops.aten, name)(*swap(args), **kwargs)
    for output, ids in zip(
        outputs, (v for v in _flat(moved) if isinstance(v, Tensor)), strict=True
    ):
        flow.note(output, ids)
    return True


def _elementwise(flow: Flow, name: str, args: Any, kwargs: Any, result: Any) -> bool:
    output = result[0] if isinstance(result, tuple | list) else result
    operands = [v for v in _flat((args, kwargs)) if isinstance(v, Tensor)]
    tracked = [(v, ids) for v in operands if (ids := flow.ids_of(v)) is not None]
    merged: Tensor | None = None
    for value, ids in tracked:
        spread = ids.expand(output.shape)
        if merged is None:
            merged, shape = spread, value.shape
            continue
        if _broadcasts_over_channels(value.shape, merged):
            flow.book.fix(ids, f"broadcast over channels in {flow.where}")
        elif _broadcasts_over_channels(shape, spread):
            flow.book.fix(merged, f"broadcast over channels in {flow.where}")
            merged = spread
        else:
            merged = _joined(flow, merged, spread)
        shape = output.shape
    assert merged is not None
    for value in operands:
        if flow.ids_of(value) is None and _varies_with_channels(value, output.shape, merged):
            owner = flow.owner(value)
            what = f"a parameter of {owner[0]}" if owner and owner[0] else "a tensor"
            flow.book.fix(merged, f"{what} is applied channel by channel in {flow.where}")
    for value in _flat(result):
        if isinstance(value, Tensor) and value.shape == output.shape:
            flow.note(value, merged)
    return True


def _padded_to(shape: Any, dims: int) -> tuple[int, ...]:
    return (1,) * (dims - len(shape)) + tuple(shape)


def _varying_dims(ids: Tensor) -> list[int]:
    ids = compressed(ids)
    return [d for d in range(ids.dim()) if ids.shape[d] > 1 and ids.stride(d) != 0]


def _broadcasts_over_channels(shape: Any, others: Tensor) -> bool:
    small = _padded_to(shape, others.dim())
    return any(small[d] == 1 for d in _varying_dims(others))


def _varies_with_channels(value: Tensor, shape: Any, ids: Tensor) -> bool:
    own = _padded_to(value.shape, len(shape))
    return any(own[d] > 1 for d in _varying_dims(ids))


def _joined(flow: Flow, first: Tensor, second: Tensor) -> Tensor:
    first, second = compressed(first), compressed(second)
    small_first, small_second = first, second
    for dim in range(first.dim()):
        if first.stride(dim) == 0 and second.stride(dim) == 0 and first.shape[dim] > 1:
            small_first = small_first.narrow(dim, 0, 1)
            small_second = small_second.narrow(dim, 0, 1)
    a, b = small_first.flatten(), small_second.flatten()
    both = (a != ZERO) & (b != ZERO)
    if bool(both.any()):
        pairs = torch.unique(torch.stack([a[both], b[both]]), dim=1)
        flow.book.join(pairs[0], pairs[1])
    return torch.where(small_first == ZERO, small_second, small_first).expand(first.shape)


def _spatial(flow: Flow, name: str, args: Any, kwargs: Any, result: Any) -> bool:
    ids = flow.ids_of(args[0])
    output = result[0] if isinstance(result, tuple | list) else result
    if ids is None or output.dim() != ids.dim():
        return False
    dims = 3 if "3d" in name else 1 if "1d" in name else 2
    channel_dim = ids.dim() - dims - 1
    channels = flow.channel_ids(ids, channel_dim)
    shape = [1] * ids.dim()
    shape[channel_dim] = -1
    flow.note(output, channels.view(shape).expand(output.shape))
    return True


def _reduction(flow: Flow, name: str, args: Any, kwargs: Any, result: Any) -> bool:
    ids = flow.ids_of(args[0])
    output = result[0] if isinstance(result, tuple | list) else result
    if ids is None:
        return False
    dims = args[1] if len(args) > 1 else kwargs.get("dim")
    if name in {"norm", "linalg_vector_norm"}:
        dims = args[2] if len(args) > 2 else kwargs.get("dim")
    dims = range(ids.dim()) if dims in (None, []) else [dims] if isinstance(dims, int) else dims
    dims = sorted({d % ids.dim() for d in dims})
    if set(dims) & set(_varying_dims(ids)):
        reason = f"{name} over channels in {flow.where}"
        flow.book.fix(ids, reason)
        flow.note(output, torch.full((), flow.book.anonymous(reason)).expand(output.shape))
        return True
    for dim in dims:
        ids = ids.narrow(dim, 0, 1)
    flow.note(output, ids.reshape(output.shape))
    for other in _flat(result)[1:]:
        if isinstance(other, Tensor):
            flow.note(other, ids.reshape(other.shape))
    return True


def _along(flow: Flow, name: str, args: Any, kwargs: Any, result: Any) -> bool:
    ids = flow.ids_of(args[0])
    if ids is None:
        return False
    dim = (args[1] if len(args) > 1 else kwargs["dim"]) % ids.dim()
    if dim in _varying_dims(ids):
        flow.book.fix(ids, f"{name.strip('_')} over channels in {flow.where}")
    for output in _flat(result):
        if isinstance(output, Tensor):
            flow.note(output, ids)
    return True


def _pad(flow: Flow, name: str, args: Any, kwargs: Any, result: Any) -> bool:
    ids = flow.ids_of(args[0])
    if ids is None:
        return False
    pads: list[int] = list(args[1])
    before, after = pads[0::2][::-1], pads[1::2][::-1]
    first_padded = ids.dim() - len(before)
    varying = [d for d in _varying_dims(ids) if d >= first_padded]
    grown = [d for d in varying if before[d - first_padded] or after[d - first_padded]]
    if not grown and ids.dim() == 4 and first_padded <= 1:
        grown = [1] if before[1 - first_padded] or after[1 - first_padded] else []
    if not grown:
        for dim in range(first_padded, ids.dim()):
            ids = ids.narrow(dim, 0, 1) if dim not in varying else ids
        flow.note(result, ids.expand(result.shape))
        return True
    module_name, module = flow.stack[-1] if flow.stack else ("", nn.Identity())
    if grown == [1] and hasattr(module, "pad_before") and hasattr(module, "pad_after"):
        at = 1 - first_padded
        in_ids = flow.channel_ids(ids, 1)
        out_ids = flow.book.issue_pad(module_name, in_ids, before[at], after[at])
        flow.visit(Visit(name=module_name, kind="pad", in_ids=in_ids, out_ids=out_ids))
        flow.note(result, out_ids.view(1, -1, 1, 1).expand(result.shape))
        return True
    flow.book.fix(ids, f"constant padding of channels in {flow.where}")
    flow.note(result, torch.constant_pad_nd(ids, pads, ZERO))
    return True


RULES: dict[str, Callable[[Flow, str, Any, Any, Any], bool]] = {
    "convolution": _convolution,
    "addmm": _linear,
    "mm": _linear,
    "linear": _linear,
    "constant_pad_nd": _pad,
    **dict.fromkeys(MOVEMENT, _movement),
    **dict.fromkeys(ELEMENTWISE, _elementwise),
    **dict.fromkeys(SPATIAL, _spatial),
    **dict.fromkeys(REDUCTIONS, _reduction),
    **dict.fromkeys(ALONG, _along),
    **dict.fromkeys(SPANNING, _spanning_norm),
    **dict.fromkeys(
        (
            "native_batch_norm",
            "_native_batch_norm_legit",
            "_native_batch_norm_legit_no_training",
            "cudnn_batch_norm",
            "miopen_batch_norm",
            "batch_norm",
            "_batch_norm_with_update",
            "_batch_norm_no_update",
        ),
        _batch_norm,
    ),
}
