"""A user's trained weights: file to state dict to model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from automl_prune.errors import CheckpointError

if TYPE_CHECKING:
    from torch import nn

_SHOWN_KEYS = 8


def load_checkpoint(model: nn.Module, path: str | Path) -> None:
    """Load weights into ``model``, which is changed in place only if all of them fit.

    A dict that holds the state dict under ``state_dict`` or ``model`` is unwrapped, and the
    prefix ``module.`` of data-parallel training is dropped. Missing ``num_batches_tracked``
    entries are no mistake.

    Args:
        model: receives the weights.
        path: ``.safetensors``, ``.pt`` or ``.pth``; read without running pickled code.

    Raises:
        CheckpointError: no such file, unreadable, or it does not fit; the keys are named.
    """
    path = Path(path)
    state = _read_state(path)
    own = model.state_dict()
    missing = [k for k in own if k not in state and not k.endswith("num_batches_tracked")]
    unexpected = [k for k in state if k not in own]
    wrong = [
        f"{k} (file {tuple(state[k].shape)}, model {tuple(own[k].shape)})"
        for k in state
        if k in own and state[k].shape != own[k].shape
    ]
    if missing or unexpected or wrong:
        findings = {"missing": missing, "unexpected": unexpected, "of another shape": wrong}
        lines = [f"  {what}: {_enumerate(keys)}" for what, keys in findings.items() if keys]
        raise CheckpointError(
            "\n".join(
                [
                    f"checkpoint {path} does not fit {type(model).__name__}:",
                    *lines,
                    "check model.builder and model.kwargs, or give another model.checkpoint",
                ]
            )
        )
    model.load_state_dict(state, strict=False)


def _read_state(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise CheckpointError(f"checkpoint {path} does not exist; set model.checkpoint")
    content: Any
    try:
        if path.suffix == ".safetensors":
            content = load_file(path)
        elif path.suffix in (".pt", ".pth"):
            content = torch.load(path, map_location="cpu", weights_only=True)
        else:
            raise CheckpointError(
                f"checkpoint {path}: found suffix {path.suffix!r}; use .safetensors, .pt or .pth"
            )
    except CheckpointError:
        raise
    except Exception as error:  # a damaged file makes torch raise anything, even IndexError
        first_line = str(error).strip().partition("\n")[0][:200]
        raise CheckpointError(
            f"checkpoint {path} cannot be read ({first_line}); save the state dict alone, with "
            "torch.save(model.state_dict(), ...) or safetensors"
        ) from error
    for key in ("state_dict", "model"):
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    if not isinstance(content, dict) or not all(isinstance(v, Tensor) for v in content.values()):
        raise CheckpointError(
            f"checkpoint {path} holds no state dict (names to tensors); save "
            "model.state_dict() alone"
        )
    if content and all(key.startswith("module.") for key in content):
        return {key.removeprefix("module."): value for key, value in content.items()}
    return dict(content)


def _enumerate(keys: list[str]) -> str:
    rest = len(keys) - _SHOWN_KEYS
    shown = ", ".join(keys[:_SHOWN_KEYS])
    return f"{shown} and {rest} more ({len(keys)} in all)" if rest > 0 else shown
