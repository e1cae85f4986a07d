"""A model's weights as bytes: safetensors, never pickle; and the digest that names them."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from automl_prune.errors import ModelError

if TYPE_CHECKING:
    from torch import nn


def weights_digest(model: nn.Module) -> str:
    """SHA-256 over names, shapes, types and bytes of all parameters and buffers."""
    digest = hashlib.sha256()
    for name, tensor in sorted(_tensors(model).items()):
        digest.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
        digest.update(safetensors.torch.save({"": tensor}))
    return digest.hexdigest()


def weights_to_bytes(model: nn.Module) -> bytes:
    """All parameters and persistent buffers, in the safetensors format.

    Shared tensors are written once per name, so that any builder can load them strictly.
    """
    return safetensors.torch.save(_tensors(model))


def weights_from_bytes(content: bytes, *, origin: str) -> dict[str, Tensor]:
    """Inverse of :func:`weights_to_bytes`; ``origin`` names the bytes in messages.

    Raises:
        ModelError: not a safetensors file, or cut short.
    """
    try:
        return safetensors.torch.load(content)
    except (SafetensorError, KeyError) as error:
        raise ModelError(f"{origin} is not a whole safetensors file: {error}") from error


def _tensors(model: nn.Module) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = {}
    for name, value in model.state_dict().items():
        if not isinstance(value, Tensor):
            raise ModelError(
                f"the model keeps {name} ({type(value).__name__}) in its state; only tensors can "
                "be saved without pickle. Keep it as an attribute instead"
            )
        tensors[name] = value.detach().cpu().clone(memory_format=torch.contiguous_format)
    return tensors
