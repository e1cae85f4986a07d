"""Gradients by the ratios: of the task loss, and of the price of channels λ·s·F(r)/F_dense."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from automl_prune.inner.window import ramp

if TYPE_CHECKING:
    from torch import Tensor

    from automl_prune.graph import CostModel


def macs_gradient(
    ratios_G: Tensor, cost: CostModel, budget_ratio: float | None = None
) -> tuple[Tensor, float]:
    """Gradient of F(r) / F_dense by the ratios, and F(r) / F_dense itself.

    With a budget T the term is max(0, F - T) / F_dense, so below it the gradient is zero.

    The price is linear in F, not in log F: then what a channel saves shrinks with the model, so
    every trade-off has an end well above nothing (docs/benchmarks.md has the comparison).

    Args:
        ratios_G: keep ratios, float64.
        cost: counts F at k = r * C.
        budget_ratio: T / F_dense, or None.
    """
    ratios_G = ratios_G.detach().requires_grad_(True)
    share = cost.macs(ratios_G * cost.dense_counts_G) / cost.dense_macs
    (gradient_G,) = torch.autograd.grad(share, ratios_G)
    macs_ratio = float(share.detach())
    if budget_ratio is not None and macs_ratio <= budget_ratio:
        return torch.zeros_like(gradient_G), macs_ratio
    return gradient_G, macs_ratio


def ratio_gradient(
    gradient_U: Tensor, k_G: Tensor, tau_G: Tensor, rank_U: Tensor, group_U: Tensor
) -> Tensor:
    """Gradient by the ratios from the gradient by the soft mask: dL/dr = C * dL/dk.

    Args:
        gradient_U: dL/dm of every unit.
        k_G: remaining units, real-valued.
        tau_G: window widths.
        rank_U: ranking.
        group_U: group of every unit.
    """
    k_G = k_G.detach().requires_grad_(True)
    mask_U = ramp(k_G, tau_G, rank_U, group_U)
    (by_k_G,) = torch.autograd.grad(mask_U, k_G, grad_outputs=gradient_U.to(mask_U.dtype))
    return by_k_G * torch.bincount(group_U, minlength=len(k_G))
