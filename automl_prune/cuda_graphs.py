"""Steps that a GPU replays as CUDA graphs, all their kernels at one launch.

The kernels of a small network's step are shorter than the calls that launch them: the GPU waits
for Python most of the time. Recorded, a step is launched as a whole (Nguyen et al., "Accelerating
PyTorch with CUDA Graphs", 2021).
"""

from __future__ import annotations

import random
import warnings
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

PLAIN_CALLS = 3
"""Calls before a step is recorded; in them libraries and the allocator set themselves up."""


class GraphedStep:
    """A function of tensors on a GPU: called as it is at first, then recorded and replayed.

    What a step reads beside its arguments has to stay in its place: tensors that change are
    changed in place, and numbers that change are tensors. Random numbers of the GPU are drawn
    anew at every replay, from the generator's state at that time.

    A step is not recorded, and goes on as it is, where the function waits for the GPU or draws
    random numbers on the CPU. So does every step on the CPU.

    Args:
        step: tensors to tensors; its arguments have the same shapes at every call.
        device: where it computes.
    """

    def __init__(self, step: Callable[..., tuple[Tensor, ...]], device: torch.device) -> None:
        self._step, self._device = step, device
        self._plain_calls = 0
        self._recordable = device.type == "cuda"
        self._stream = torch.cuda.Stream(device) if self._recordable else None  # type: ignore[no-untyped-call]
        self._graph: torch.cuda.CUDAGraph | None = None
        self._inputs: list[Tensor] = []
        self._outputs: tuple[Tensor, ...] = ()

    @property
    def is_recorded(self) -> bool:
        """Whether the next call is a replay."""
        return self._graph is not None

    def __call__(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """One step; what it returns belongs to the caller."""
        if not self._recordable:
            return self._step(*inputs)
        if self._plain_calls < PLAIN_CALLS:
            self._plain_calls += 1
            return self._plain(inputs, watch=self._plain_calls == PLAIN_CALLS)
        if self._graph is None:
            self._record(inputs)
        assert self._graph is not None
        for own, given in zip(self._inputs, inputs, strict=True):
            own.copy_(given)
        self._graph.replay()
        return tuple(output.clone() for output in self._outputs)

    def _plain(self, inputs: tuple[Tensor, ...], *, watch: bool) -> tuple[Tensor, ...]:
        """On the stream that will record, so that gradients belong to it from the start."""
        assert self._stream is not None
        current = torch.cuda.current_stream(self._device)
        self._stream.wait_stream(current)
        with torch.cuda.stream(self._stream):
            outputs = self._watched(inputs) if watch else self._step(*inputs)
        current.wait_stream(self._stream)
        return outputs

    def _watched(self, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """A call that finds out whether the step can be recorded."""
        mode = torch.cuda.get_sync_debug_mode()
        randomness = _cpu_randomness()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            torch.cuda.set_sync_debug_mode("warn")
            try:
                outputs = self._step(*inputs)
            finally:
                torch.cuda.set_sync_debug_mode(mode)
        waits = any("synchronizing CUDA operation" in str(w.message) for w in caught)
        self._recordable = not waits and _cpu_randomness() == randomness
        return outputs

    def _record(self, inputs: tuple[Tensor, ...]) -> None:
        self._inputs = [given.clone() for given in inputs]
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=self._stream):
            self._outputs = self._step(*self._inputs)
        self._graph = graph


def sent(tensor: Tensor, device: torch.device) -> Tensor:
    """On a device, without waiting: a copy from ordinary memory waits for all steps before it."""
    if device.type == "cuda" and tensor.device.type == "cpu":
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)


def rate_tensor(device: torch.device) -> Tensor:
    """A learning rate that changes in place, in the format that fused optimisers want there."""
    dtype = torch.float32 if device.type == "cuda" else torch.float64
    return torch.zeros((), dtype=dtype, device=device)


def _cpu_randomness() -> tuple[object, bytes]:
    return random.getstate(), torch.get_rng_state().numpy().tobytes()
