"""The number format in which passes through a network are computed while it is trained."""

from __future__ import annotations

import contextlib
from typing import Literal

import torch

Precision = Literal["auto", "float32", "bfloat16"]

_precision: Precision = "auto"


def set_precision(precision: Precision) -> None:
    """Choose the format for this process, as the number of threads is chosen for it.

    Args:
        precision: ``auto`` is bfloat16 on GPUs that have fast units for it, float32 elsewhere.
    """
    global _precision
    _precision = precision


def fast_arithmetic(device: torch.device) -> contextlib.AbstractContextManager[object]:
    """Autocast as chosen with :func:`set_precision`; weights and their steps stay float32."""
    wanted = _precision == "bfloat16" or (
        _precision == "auto"
        and device.type == "cuda"
        and torch.cuda.is_bf16_supported(including_emulation=False)
    )
    return torch.autocast(device.type, torch.bfloat16) if wanted else contextlib.nullcontext()
