"""Steps: of the keep ratios, and of the weights."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch.optim.sgd import sgd

if TYPE_CHECKING:
    from torch import Tensor


class RatioOptimizer:
    """Momentum on the jointly normalised gradient, projected to the bounds.

    The gradient is divided by a running root mean square of its norm: one number for all groups,
    so that differences between groups survive, and one that lags behind, so that steps become
    short where gradients cancel out. That makes λ a destination: the ratios stop where task and
    cost balance on average. (Steps of unit length would not stop, and would not cancel.)

    Args:
        ratios_G: start, float64; kept as ``ratios_G`` and never changed in place.
        low_G: lowest ratios.
        high_G: highest ratios.
        momentum: of the steps.
        norm_decay: of the running mean square.
    """

    def __init__(
        self,
        ratios_G: Tensor,
        low_G: Tensor,
        high_G: Tensor,
        *,
        momentum: float,
        norm_decay: float = 0.9,
    ) -> None:
        self._low_G, self._high_G = low_G, high_G
        self._momentum, self._norm_decay = momentum, norm_decay
        self.ratios_G = torch.minimum(torch.maximum(ratios_G.double(), low_G), high_G)
        self.velocity_G = torch.zeros_like(self.ratios_G)
        self.square = torch.zeros(2, dtype=torch.float64)
        """Running sum of squared norms, and of its weights."""

    def step(self, gradient_G: Tensor, lr: float) -> None:
        """Move against the gradient.

        Args:
            gradient_G: of the loss, by the ratios.
            lr: length of a step whose gradient has its usual norm, before momentum.
        """
        movable_G = self._high_G > self._low_G
        gradient_G = torch.where(movable_G, gradient_G, 0.0)
        newest = torch.stack([gradient_G.square().sum(), torch.ones((), dtype=torch.float64)])
        self.square = self._norm_decay * self.square + (1.0 - self._norm_decay) * newest
        self.velocity_G = self._momentum * self.velocity_G + gradient_G / self.usual_norm
        wanted_G = self.ratios_G - lr * self.velocity_G
        self.ratios_G = torch.minimum(torch.maximum(wanted_G, self._low_G), self._high_G)
        # a ratio that lies at its bound does not push on
        self.velocity_G = torch.where(self.ratios_G == wanted_G, self.velocity_G, 0.0)

    @property
    def usual_norm(self) -> float:
        """Running root mean square of the gradient's norm; tiny before the first step."""
        squared, weight = self.square.tolist()
        return max(math.sqrt(squared / max(weight, 1e-30)), 1e-30)


def weight_step(
    parameters: list[Tensor],
    momenta: list[Tensor],
    *,
    lr: float | Tensor,
    momentum: float,
    weight_decay: float,
) -> None:
    """One step of Nesterov SGD in place, with gradients from ``.grad``, which are then dropped.

    Args:
        parameters: those without a gradient are left alone.
        momenta: a buffer for each; zero at first.
        lr: learning rate; as a tensor: see :func:`automl_prune.cuda_graphs.rate_tensor`.
        momentum: 0 leaves the buffers alone.
        weight_decay: added to the gradient as ``weight_decay * parameter``.
    """
    pairs = [(p, m) for p, m in zip(parameters, momenta, strict=True) if p.grad is not None]
    gradients = [p.grad for p, _ in pairs if p.grad is not None]
    buffers: list[Tensor | None] = [m if momentum > 0.0 else None for _, m in pairs]
    with torch.no_grad():
        sgd(
            [p for p, _ in pairs],
            gradients,
            buffers,
            fused=True,
            weight_decay=weight_decay,
            momentum=momentum,
            lr=lr,
            dampening=0.0,
            nesterov=momentum > 0.0,
            maximize=False,
        )
    for parameter, _ in pairs:
        parameter.grad = None
