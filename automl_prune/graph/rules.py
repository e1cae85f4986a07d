"""What each operation does to the ids that enter it. An operation without a rule fixes them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from automl_prune.graph import channel_rules, layer_rules

if TYPE_CHECKING:
    from collections.abc import Callable

    from automl_prune.graph.flow import Flow

    Rule = Callable[[Flow, Any, Any, Any, Any], str | None]
    """(flow, operation, args, kwargs, result) to None, or to why it cannot be followed."""

RULES: dict[str, Rule] = {**channel_rules.RULES, **layer_rules.RULES}
"""Name of an aten operation, without the underscore of the in-place form, to its rule."""


def apply_rule(flow: Flow, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Run an operation, give its results their ids, and tell the book what it couples."""
    before = [(value, flow.ids_of(value)) for value in _written(func, args, kwargs)]
    tracked = any(flow.ids_of(value) is not None for value in tensors_in((args, kwargs)))
    flow.strides = next((value.stride() for value in tensors_in(args)), ())
    result = func(*args, **kwargs)
    if not tracked:
        return result
    name = func.overloadpacket.__name__
    rule = RULES.get(name) or RULES.get(name.removesuffix("_"))
    why = "has no rule" if rule is None else rule(flow, func, args, kwargs, result)
    if why is not None:
        _fix_all(flow, f"operation {name} in {flow.where} {why}", args, kwargs, result)
    for value, ids in before:
        _overwrite(flow, value, ids)
    return result


def tensors_in(value: object) -> list[Tensor]:
    """All tensors in nested tuples, lists and dicts, in order."""
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, dict):
        return [item for part in value.values() for item in tensors_in(part)]
    if isinstance(value, list | tuple):
        return [item for part in value for item in tensors_in(part)]
    return []


def _fix_all(flow: Flow, reason: str, args: Any, kwargs: Any, result: Any) -> None:
    for value in tensors_in((args, kwargs)):
        ids = flow.ids_of(value)
        if ids is not None:
            flow.book.fix(ids, reason)
    for value in tensors_in(result):
        flow.note(value, torch.tensor(flow.book.anonymous(reason)).expand(value.shape))


def _written(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Tensor]:
    """The tensors that an operation changes in place."""
    schema = func._schema
    if not schema.is_mutable:
        return []
    found = []
    for position, argument in enumerate(schema.arguments):
        if argument.alias_info is not None and argument.alias_info.is_write:
            value = args[position] if position < len(args) else kwargs.get(argument.name)
            found += tensors_in(value)
    return found


def _overwrite(flow: Flow, value: Tensor, before: Tensor | None) -> None:
    """A write through a view changes what other views of the same storage hold: fix them all."""
    after = flow.ids_of(value)
    if after is None or (before is not None and torch.equal(before, after)):
        return
    storage = value.untyped_storage()
    if not value._is_view() and value.numel() * value.element_size() == storage.nbytes():
        return
    reason = f"written in place, part by part, in {flow.where}"
    for tensor, ids in list(flow.ids.values()):
        if tensor.untyped_storage().data_ptr() == storage.data_ptr():
            flow.book.fix(ids, reason)
    flow.book.fix(after, reason)
    flow.overwritten[storage.data_ptr()] = (value, flow.book.anonymous(reason))
