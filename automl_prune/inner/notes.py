"""What the inner loop notes on its way, and what it hands on."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypedDict

import torch

from automl_prune.errors import ModelError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from torch import Tensor

_CURVE_POINTS = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class InnerProgress:
    """Where the loop is, after a weight step."""

    step: int
    """Weight steps done."""
    loss: float
    """Task loss on ``train``."""
    macs_ratio: float
    """F(r) / F_dense now."""
    mean_ratio: float
    """Mean keep ratio over groups."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class InnerResult:
    """What the loop found."""

    ratios_G: Tensor
    """Final keep ratios, float64."""
    keep_U: Tensor
    """bool on the CPU: the units that stay, ratios rounded to whole channels."""
    weight_steps: int
    num_ratio_steps: int
    ratio_steps: tuple[int, ...]
    """Weight steps done where each row of the curves was noted; the last is the end."""
    ratios: tuple[tuple[float, ...], ...]
    """Per group, over ``ratio_steps``."""
    macs_ratio: tuple[float, ...]
    """F(r) / F_dense, over ``ratio_steps``."""
    search_loss: tuple[float, ...]
    """Task loss on ``search`` at those ratios, over ``ratio_steps``."""
    inner_loss: tuple[tuple[int, float], ...]
    """(weight steps done, loss on ``train``), at most some hundred, spread over all steps."""


class InnerState(TypedDict):
    """State of an :class:`InnerLoop`: tensors, and values that JSON can hold."""

    tensors: dict[str, Tensor]
    values: dict[str, object]


class LoopNotes:
    """Curves of a running loop; losses stay on the device until somebody needs them.

    Args:
        total_steps: weight steps of the whole loop.
    """

    def __init__(self, total_steps: int) -> None:
        self.ratio_steps: list[int] = []
        """Weight steps done at each ratio step."""
        self.ratios: list[Tensor] = []
        self.macs_ratio: list[float] = []
        self.search_losses: list[Tensor] = []
        self.losses: list[tuple[int, float]] = []
        self._total_steps = total_steps

    def ratio_step(self, step: int, ratios_G: Tensor, macs_ratio: float, loss: Tensor) -> None:
        """Note what a ratio step started from."""
        self.ratio_steps.append(step)
        self.ratios.append(ratios_G)
        self.macs_ratio.append(macs_ratio)
        self.search_losses.append(loss)

    def weight_steps(
        self,
        step: int,
        pending: list[tuple[Tensor, float, float]],
        on_step: Callable[[InnerProgress], None] | None,
    ) -> None:
        """Note the last weight steps, of which ``step`` is the last.

        Args:
            step: weight steps done.
            pending: loss, F(r) / F_dense and mean keep ratio of each.
            on_step: told of each.

        Raises:
            ModelError: a loss is not finite.
        """
        every = math.ceil(self._total_steps / _CURVE_POINTS)
        losses = finite([loss for loss, _, _ in pending], step)
        first = step - len(pending) + 1
        for done, loss, (_, macs_ratio, mean_ratio) in zip(
            range(first, step + 1), losses, pending, strict=True
        ):
            if done % every == 0 or done in (1, self._total_steps):
                self.losses.append((done, loss))
            if on_step is not None:
                on_step(
                    InnerProgress(
                        step=done, loss=loss, macs_ratio=macs_ratio, mean_ratio=mean_ratio
                    )
                )

    def tensors(self) -> dict[str, Tensor]:
        """The part of a state that is tensors."""
        empty = torch.zeros(0, dtype=torch.float64)
        return {
            "noted_ratios": torch.stack(self.ratios) if self.ratios else empty,
            "noted_macs": torch.tensor(self.macs_ratio, dtype=torch.float64),
            "noted_losses": torch.stack(self.search_losses)
            if self.search_losses
            else torch.zeros(0),
        }

    def values(self) -> dict[str, object]:
        """The part of a state that JSON can hold."""
        return {
            "noted_steps": list(self.ratio_steps),
            "losses": [list(point) for point in self.losses],
        }

    def load(
        self,
        tensors: Mapping[str, object],
        values: Mapping[str, object],
        device: torch.device,
    ) -> None:
        """Inverse of :meth:`tensors` and :meth:`values`."""
        ratios, macs, search = (
            tensors[name] for name in ("noted_ratios", "noted_macs", "noted_losses")
        )
        steps, losses = values["noted_steps"], values["losses"]
        assert isinstance(ratios, torch.Tensor)
        assert isinstance(macs, torch.Tensor)
        assert isinstance(search, torch.Tensor)
        assert isinstance(steps, list | tuple)
        assert isinstance(losses, list | tuple)
        self.ratio_steps = [int(at) for at in steps]
        self.ratios = list(ratios.clone()) if self.ratio_steps else []
        self.macs_ratio = macs.tolist()
        self.search_losses = list(search.to(device, copy=True))
        self.losses = [(int(at), float(loss)) for at, loss in losses]


def finite(pending: list[Tensor], step: int) -> list[float]:
    """Losses as numbers; one wait for the device.

    Raises:
        ModelError: one is not finite.
    """
    losses: list[float] = torch.stack(pending).tolist()
    if not all(math.isfinite(loss) for loss in losses):
        raise not_finite(step)
    return losses


def not_finite(step: int) -> ModelError:
    """The error for a loss or gradient that is not finite."""
    return ModelError(
        f"the loss of the inner loop is no longer finite at step {step}; lower inner.weight_lr, "
        "or check the model and the loss"
    )
