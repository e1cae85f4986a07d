"""One forward pass in which an id per channel flows with every tensor.

A dispatch mode sees every operation, whatever the Python code does. Ids that must live or die
together are handed to an :class:`IdBook`; the rules for single operations are in ``rules``.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from automl_prune.errors import TraceError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor, nn

    from automl_prune.graph.groups import LayerKind

ZERO = -1
"""Id of what padding brings: neutral when tensors are added."""


class IdBook(Protocol):
    """Who issues ids and hears what happens to them."""

    def is_depthwise(self, layer: str, inputs: int, groups: int) -> bool:
        """Whether a convolution passes ids on instead of issuing its own."""

    def issue(self, layer: str, count: int) -> Tensor:
        """Ids of a layer's output channels; the same ids at every call of the layer."""

    def issue_pad(self, layer: str, ids: Tensor, before: int, after: int) -> Tensor:
        """Ids of a channel pad's whole output, given the ids of its input."""

    def anonymous(self, reason: str) -> int:
        """An id that can never be removed."""

    def join(self, first: Tensor, second: Tensor) -> None:
        """The ids at the same positions live or die together."""

    def fix(self, ids: Tensor, reason: str) -> None:
        """These ids can never be removed."""


@dataclass(slots=True, kw_only=True)
class Visit:
    """One layer as the pass met it."""

    name: str
    kind: LayerKind
    in_ids: Tensor
    out_ids: Tensor
    groups: int = 1
    positions: int = 0
    kernel: int = 1


@dataclass(slots=True)
class Flow:
    """Everything a pass saw; rules read and write it."""

    book: IdBook
    owners: dict[int, tuple[str, nn.Module]]
    """Storage address of a parameter or buffer to the module that owns it."""
    visits: dict[str, Visit] = field(default_factory=dict)
    ids: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict)
    """id(tensor) to (the tensor, kept alive; its ids)."""
    stack: list[tuple[str, nn.Module]] = field(default_factory=list)

    @property
    def where(self) -> str:
        """Module path of what runs now."""
        return next((name for name, _ in reversed(self.stack) if name), "the model's forward")

    def ids_of(self, value: object) -> Tensor | None:
        """Ids of a tensor, or None if it does not depend on the model's input."""
        entry = self.ids.get(id(value))
        return None if entry is None else entry[1]

    def note(self, tensor: Tensor, ids: Tensor) -> None:
        """Remember a tensor's ids (same shape)."""
        assert ids.shape == tensor.shape, (ids.shape, tensor.shape)
        self.ids[id(tensor)] = (tensor, compressed(ids))

    def owner(self, tensor: object) -> tuple[str, nn.Module] | None:
        """The module that owns a parameter, or a view of one."""
        if not isinstance(tensor, torch.Tensor):
            return None
        return self.owners.get(tensor.untyped_storage().data_ptr())

    def channel_ids(self, ids: Tensor, dim: int) -> Tensor:
        """Ids along ``dim``; where they differ over the other dims they are joined."""
        ids, dim = compressed(ids), dim % ids.dim()
        for other in range(ids.dim()):
            if other != dim and ids.stride(other) == 0:
                ids = ids.narrow(other, 0, 1)
        rows = ids.movedim(dim, 0).reshape(ids.shape[dim], -1)
        first = rows[:, 0].clone()
        for column in range(1, rows.shape[1]):
            if not torch.equal(rows[:, column], first):
                self.book.join(first, rows[:, column])
        return first

    def visit(self, visit: Visit) -> None:
        """Note a layer; a second call joins its inputs with those of the first."""
        known = self.visits.get(visit.name)
        if known is None:
            self.visits[visit.name] = visit
        else:
            self.book.join(known.in_ids, visit.in_ids)
            known.positions += visit.positions


def compressed(ids: Tensor) -> Tensor:
    """The same ids, with stride 0 along every dim over which they do not vary."""
    for dim in range(ids.dim()):
        if ids.shape[dim] > 1 and ids.stride(dim) != 0:
            first = ids.narrow(dim, 0, 1)
            if bool((ids == first).all()):
                ids = first.expand(ids.shape)
    return ids


class _FlowMode(TorchDispatchMode):  # type: ignore[no-untyped-call]
    def __init__(self, flow: Flow) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.flow = flow

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        from automl_prune.graph.rules import apply_rule

        result = func(*args, **(kwargs or {}))
        apply_rule(self.flow, func, args, kwargs or {}, result)
        return result


def run_flow(model: nn.Module, input_shape: tuple[int, int, int], book: IdBook) -> Flow:
    """Run ``model`` once on random images and let ids flow with them.

    The model is run in evaluation mode without gradients; its modes are restored, and its
    parameters and buffers are not changed.

    Args:
        model: on the CPU or a GPU.
        input_shape: channels, height, width.
        book: issues the ids.

    Raises:
        TraceError: the model does not run, or does not give a tensor.
    """
    owners: dict[int, tuple[str, nn.Module]] = {}
    for name, module in model.named_modules():
        for tensor in (*module.parameters(recurse=False), *module.buffers(recurse=False)):
            owners.setdefault(tensor.untyped_storage().data_ptr(), (name, module))
    flow = Flow(book=book, owners=owners)
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    dtype = next((p.dtype for p in model.parameters()), torch.float32)
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(1, *input_shape, generator=generator).to(device, dtype)
    source = book.anonymous("input of the model")
    flow.note(images, torch.full(images.shape, source))
    with _evaluation(model), _module_stack(model, flow), torch.no_grad():
        try:
            with _FlowMode(flow):
                output = model(images)
        except TraceError:
            raise
        except Exception as error:
            raise TraceError(
                f"the model cannot be run on one image of shape {tuple(input_shape)}: "
                f"{type(error).__name__} in {flow.where}: {str(error).splitlines()[0][:300]}"
            ) from error
    outputs = [value for value in _tensors(output) if flow.ids_of(value) is not None]
    if not outputs:
        raise TraceError(
            f"the model gives {type(output).__name__}, in which no tensor depends on its input; "
            "a tensor of logits is needed"
        )
    for value in outputs:
        ids = flow.ids_of(value)
        assert ids is not None
        book.fix(ids, "output of the model")
    return flow


def _tensors(value: object) -> Iterator[Tensor]:
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from _tensors(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _tensors(item)


@contextmanager
def _evaluation(model: nn.Module) -> Iterator[None]:
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training


@contextmanager
def _module_stack(model: nn.Module, flow: Flow) -> Iterator[None]:
    handles = []
    for name, module in model.named_modules():

        def enter(module: nn.Module, _: object, name: str = name) -> None:
            flow.stack.append((name, module))

        def leave(*_: object) -> None:
            flow.stack.pop()

        handles += [
            module.register_forward_pre_hook(enter),
            module.register_forward_hook(leave),
        ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
