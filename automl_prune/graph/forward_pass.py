"""One forward pass of the user's network with ids flowing through it.

A dispatch mode sees every operation, whatever the Python code does, and asks ``rules`` what each
of them does to the ids.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from automl_prune.errors import TraceError
from automl_prune.graph.flow import Flow, IdBook
from automl_prune.graph.rules import apply_rule, tensors_in

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import nn


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
        self.flow.operation = func.overloadpacket.__name__
        return apply_rule(self.flow, func, args, kwargs or {})


def run_flow(model: nn.Module, input_shape: tuple[int, int, int], book: IdBook) -> Flow:
    """Run ``model`` once on one random image and let ids flow with it.

    The model is run in evaluation mode without gradients; its modes are restored, and its
    parameters and buffers are not changed.

    Args:
        model: on the CPU or a GPU.
        input_shape: channels, height, width.
        book: issues the ids.

    Raises:
        TraceError: the model does not run, or does not give a tensor.
    """
    owners: dict[tuple[int, int], tuple[str, nn.Module]] = {}
    for name, module in model.named_modules():
        for tensor in (*module.parameters(recurse=False), *module.buffers(recurse=False)):
            owners.setdefault((tensor.data_ptr(), tensor.numel()), (name, module))
    flow = Flow(book, owners)
    parameter = next(model.parameters(), torch.zeros(()))
    generator = torch.Generator().manual_seed(0)
    images_BCHW = torch.randn(1, *input_shape, generator=generator)
    images_BCHW = images_BCHW.to(parameter.device, parameter.dtype)
    source = book.anonymous("input of the model")
    flow.note(images_BCHW, torch.tensor(source).expand(images_BCHW.shape))
    with evaluation_mode(model), _module_stack(model, flow), torch.no_grad():
        try:
            with _FlowMode(flow):
                output = model(images_BCHW)
        except TraceError:
            raise
        except Exception as error:  # a user's forward may raise anything
            message = (str(error).splitlines() or [""])[0][:300]
            raise TraceError(
                f"the model cannot be run on one image of shape {tuple(input_shape)} (channels, "
                f"height, width): {type(error).__name__} in {flow.where}, last operation "
                f"{flow.operation or 'none'}: {message}; check the input size and the model's "
                "forward"
            ) from error
    outputs = [value for value in tensors_in(output) if flow.ids_of(value) is not None]
    if not outputs:
        raise TraceError(
            f"the model gives {type(output).__name__}, in which no tensor depends on its input "
            "through operations of torch; a tensor of logits is needed"
        )
    for value in outputs:
        ids = flow.ids_of(value)
        assert ids is not None
        book.fix(ids, "output of the model")
    return flow


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Evaluation mode inside; every module's own mode afterwards."""
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
            flow.ran.add(name)

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
