"""The number format in which passes through a network are computed."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Literal

import torch

if TYPE_CHECKING:
    from collections.abc import Iterator

Precision = Literal["auto", "float32", "bfloat16"]

_precision: Precision = "auto"


def set_precision(precision: Precision) -> None:
    """Choose the format for this process, as the number of threads is chosen for it.

    Args:
        precision: ``auto`` is bfloat16 on GPUs that have fast units for it, float32 elsewhere.
    """
    global _precision
    _precision = precision


@contextlib.contextmanager
def exact_arithmetic() -> Iterator[None]:
    """Float32 as CPUs compute it: GPUs would round what convolutions multiply to TF32."""
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = before


def fast_arithmetic(device: torch.device) -> contextlib.AbstractContextManager[object]:
    """Autocast as chosen with :func:`set_precision`; weights and their steps stay float32."""
    wanted = _precision == "bfloat16" or (
        _precision == "auto"
        and device.type == "cuda"
        and torch.cuda.is_bf16_supported(including_emulation=False)
    )
    return torch.autocast(device.type, torch.bfloat16) if wanted else contextlib.nullcontext()
