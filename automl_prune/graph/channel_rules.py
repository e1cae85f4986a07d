"""Rules of operations without a layer: movement, element by element, pooling, reductions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from automl_prune.graph.flow import Flow, along_dim, compressed, varying_dims

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

# Names of aten operations, without the underscore of their in-place forms.
MOVEMENT = """view _unsafe_view reshape _reshape_alias permute transpose t slice select split
    split_with_sizes unsafe_split unsafe_split_with_sizes chunk unsafe_chunk unbind cat stack
    unsqueeze squeeze narrow flip roll pixel_shuffle pixel_unshuffle channel_shuffle
    native_channel_shuffle repeat expand index index_select movedim unfold im2col diagonal
    repeat_interleave swapaxes alias detach clone contiguous"""
ELEMENTWISE = """add sub rsub mul div floor_divide remainder fmod maximum minimum where lerp
    addcmul addcdiv atan2 hypot relu relu6 hardtanh hardswish silu gelu sigmoid hardsigmoid tanh
    elu leaky_relu mish softplus softsign selu celu rrelu_with_noise logit dropout native_dropout
    exp exp2 log log2 log10 log1p expm1 neg abs sqrt rsqrt pow square reciprocal clamp clamp_min
    clamp_max erf sin cos tan atan floor ceil round trunc frac sign sgn _to_copy to copy_
    lift_fresh log_sigmoid_forward hardshrink softshrink threshold nan_to_num masked_fill
    gt lt ge le eq ne logical_and logical_or logical_xor logical_not bitwise_and bitwise_or
    bitwise_not isnan isinf isfinite"""
SPATIAL = """max_pool1d avg_pool1d max_pool2d max_pool2d_with_indices avg_pool2d
    max_pool3d_with_indices avg_pool3d adaptive_avg_pool2d _adaptive_avg_pool2d
    adaptive_max_pool2d adaptive_avg_pool3d _adaptive_avg_pool3d upsample_nearest1d
    upsample_nearest2d upsample_nearest3d _upsample_nearest_exact2d upsample_bilinear2d
    _upsample_bilinear2d_aa upsample_bicubic2d _upsample_bicubic2d_aa upsample_linear1d
    upsample_trilinear3d reflection_pad1d reflection_pad2d replication_pad1d
    replication_pad2d"""
REDUCTIONS = """mean sum amax amin max min var std var_mean prod any all norm linalg_vector_norm
    logsumexp argmax argmin"""
ALONG = "_softmax softmax _log_softmax log_softmax cumsum cumprod sort"


def _movement(flow: Flow, func: Any, args: Any, kwargs: Any, result: Any) -> str | None:
    """The operation itself is run on the ids."""
    name = func.overloadpacket.__name__

    def swapped(value: Any) -> Any:
        if isinstance(value, list | tuple):
            return type(value)(swapped(item) for item in value)
        if not isinstance(value, Tensor):
            return value
        ids = flow.ids_of(value)
        if ids is None and value.is_floating_point():
            reason = f"constant tensor moved together with channels in {flow.where}"
            return torch.tensor(flow.book.anonymous(reason)).expand(value.shape)
        # a tensor of its own, so that an in-place operation changes no noted ids
        return value.cpu() if ids is None else ids.detach()

    outputs = [result] if isinstance(result, Tensor) else list(result)
    if name in {"alias", "detach", "clone", "contiguous"}:
        moved = swapped(args[0])
    elif name in {"view", "_unsafe_view", "reshape", "_reshape_alias"}:
        moved = swapped(args[0]).reshape(outputs[0].shape)
    elif name == "im2col":
        moved = func(swapped(args[0]).double(), *args[1:], **kwargs).round().long()
    else:
        moved = func(*swapped(args), **kwargs)
    for output, ids in zip(outputs, [moved] if isinstance(moved, Tensor) else moved, strict=True):
        flow.note(output, ids)
    return None


def _restride(flow: Flow, func: Any, args: Any, kwargs: Any, result: Any) -> str | None:
    """Pooling of a channels-last tensor ends with strides that differ only where nothing moves."""
    ids = flow.ids_of(args[0])
    shape, strides = result.shape, result.stride()
    if ids is None or ids.shape != shape or len(args) > 3 or len(flow.strides) != len(strides):
        return "has no rule"
    if any(n > 1 and a != b for n, a, b in zip(shape, flow.strides, strides, strict=True)):
        return "has no rule"
    flow.note(result, ids)
    return None


def _elementwise(flow: Flow, func: Any, args: Any, kwargs: Any, result: Any) -> str | None:
    output = result[0] if isinstance(result, tuple | list) else result
    operands = [v for v in _flat((args, tuple(kwargs.values()))) if isinstance(v, Tensor)]
    merged: Tensor | None = None
    shape: Sequence[int] = ()
    for value in operands:
        ids = flow.ids_of(value)
        if ids is None:
            continue
        spread = ids.expand(output.shape)
        if merged is None:
            merged, shape = spread, value.shape
        elif _broadcasts(value.shape, merged):
            flow.book.fix(ids, f"broadcast over channels in {flow.where}")
        elif _broadcasts(shape, spread):
            flow.book.fix(merged, f"broadcast over channels in {flow.where}")
            merged = spread
        else:
            _join(flow, merged, spread)
        shape = output.shape
    assert merged is not None
    for value in operands:
        if flow.ids_of(value) is None and _varies_with_channels(value, output.shape, merged):
            owner = flow.owner(value)
            if owner is not None and _is_bias_of_same_layer(flow, owner, value, merged):
                continue
            what = f"a parameter of {owner[0]}" if owner and owner[0] else "a constant tensor"
            flow.book.fix(merged, f"{what} is applied channel by channel in {flow.where}")
    for value in _flat(result):
        if isinstance(value, Tensor) and value.shape == output.shape:
            flow.note(value, merged)
    return None


def _flat(value: object) -> list[Any]:
    if isinstance(value, list | tuple):
        return [item for part in value for item in _flat(part)]
    return [value]


def _padded_to(shape: Sequence[int], dims: int) -> tuple[int, ...]:
    return (1,) * (dims - len(shape)) + tuple(shape)


def _broadcasts(shape: Sequence[int], others: Tensor) -> bool:
    """Whether a tensor of this shape has one element where the others have channels."""
    small = _padded_to(shape, others.dim())
    return any(small[d] == 1 for d in varying_dims(others))


def _varies_with_channels(value: Tensor, shape: Sequence[int], ids: Tensor) -> bool:
    own = _padded_to(value.shape, len(shape))
    return any(own[d] > 1 for d in varying_dims(ids))


def _is_bias_of_same_layer(
    flow: Flow, owner: tuple[str, nn.Module], value: Tensor, merged: Tensor
) -> bool:
    """A linear layer on a tensor that is not contiguous adds its bias as an operation apart."""
    name, module = owner
    if not isinstance(module, nn.Linear) or name not in flow.visits or value.dim() != 1:
        return False
    out_ids = flow.visits[name].out_ids
    return value.shape == out_ids.shape and torch.equal(merged, out_ids.expand(merged.shape))


def _join(flow: Flow, first: Tensor, second: Tensor) -> None:
    """Join position by position, each pair of ids once."""
    first, second = compressed(first), compressed(second)
    for dim in range(first.dim()):
        if first.shape[dim] > 1 and first.stride(dim) == 0 and second.stride(dim) == 0:
            first, second = first.narrow(dim, 0, 1), second.narrow(dim, 0, 1)
    pairs = torch.unique(torch.stack([first.flatten(), second.flatten()]), dim=1)
    flow.book.join(pairs[0], pairs[1])


def _spatial(flow: Flow, func: Any, args: Any, kwargs: Any, result: Any) -> str | None:
    ids = flow.ids_of(args[0])
    name = func.overloadpacket.__name__
    outputs = [result] if isinstance(result, Tensor) else list(result)
    if ids is None or outputs[0].dim() != ids.dim():
        return "has no rule"
    dims = 3 if "3d" in name else 1 if "1d" in name else 2
    channel_dim = ids.dim() - dims - 1
    channels = flow.channel_ids(ids, channel_dim)
    for output in outputs:
        flow.note(output, along_dim(channels, channel_dim, output))
    return None


def _reduction(flow: Flow, func: Any, args: Any, kwargs: Any, result: Any) -> str | None:
    ids = flow.ids_of(args[0])
    name = func.overloadpacket.__name__
    place = 2 if name in {"norm", "linalg_vector_norm"} else 1
    names = [argument.name for argument in func._schema.arguments]
    given = kwargs.get("dim")
    if len(args) > place and place < len(names) and names[place] == "dim":
        given = args[place]
    if ids is None or any(isinstance(value, Tensor) for value in args[1:]):
        return "has no rule"
    dims = given if isinstance(given, list | tuple) else [] if given is None else [given]
    reduced = sorted({d % ids.dim() for d in dims}) or list(range(ids.dim()))
    outputs = [result] if isinstance(result, Tensor) else list(result)
    if set(reduced) & set(varying_dims(ids)):
        reason = f"{name} over channels in {flow.where}"
        flow.book.fix(ids, reason)
        for output in outputs:
            flow.note(output, torch.tensor(flow.book.anonymous(reason)).expand(output.shape))
        return None
    for dim in reduced:
        ids = ids.narrow(dim, 0, 1)
    for output in outputs:
        flow.note(output, ids.reshape(output.shape))
    return None


def _along(flow: Flow, func: Any, args: Any, kwargs: Any, result: Any) -> str | None:
    ids = flow.ids_of(args[0])
    assert ids is not None
    dim = (args[1] if len(args) > 1 else kwargs.get("dim", -1)) % ids.dim()
    if dim in varying_dims(ids):
        name = func.overloadpacket.__name__.strip("_")
        flow.book.fix(ids, f"{name} over channels in {flow.where}")
    for output in [result] if isinstance(result, Tensor) else list(result):
        flow.note(output, ids)
    return None


RULES: dict[str, Callable[[Flow, Any, Any, Any, Any], str | None]] = {
    **dict.fromkeys(MOVEMENT.split(), _movement),
    "as_strided": _restride,
    **dict.fromkeys(ELEMENTWISE.split(), _elementwise),
    **dict.fromkeys(SPATIAL.split(), _spatial),
    **dict.fromkeys(REDUCTIONS.split(), _reduction),
    **dict.fromkeys(ALONG.split(), _along),
}
