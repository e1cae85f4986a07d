"""The price of channels: λ·s·log(F(r)/F_dense), and how its scale s is measured."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

from automl_prune.inner.execution import MaskedExecution, modes_kept
from automl_prune.inner.rank import rank_units
from automl_prune.inner.window import group_sizes, ramp, unit_groups, window_widths
from automl_prune.seeds import derive_seed

if TYPE_CHECKING:
    from torch import Tensor, nn

    from automl_prune.config import StudyConfig
    from automl_prune.data import Data
    from automl_prune.graph import CostModel, CouplingGraph


def log_macs_gradient(
    ratios_G: Tensor, cost: CostModel, budget_ratio: float | None = None
) -> tuple[Tensor, float]:
    """Gradient of log(F(r) / F_dense) by the ratios, and F(r) / F_dense itself.

    With a budget T the term is max(0, log(F / T)), so below it the gradient is zero.

    Args:
        ratios_G: keep ratios, float64.
        cost: counts F at k = r * C.
        budget_ratio: T / F_dense, or None.
    """
    ratios_G = ratios_G.detach().requires_grad_(True)
    macs = cost.macs(ratios_G * cost.dense_counts_G)
    ratio = float(macs.detach()) / cost.dense_macs
    if budget_ratio is not None and ratio <= budget_ratio:
        return torch.zeros_like(ratios_G.detach()), ratio
    (gradient_G,) = torch.autograd.grad(torch.log(macs), ratios_G)
    return gradient_G, ratio


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


def measure_cost_scale(
    model: nn.Module,
    graph: CouplingGraph,
    cost: CostModel,
    data: Data,
    config: StudyConfig,
    *,
    device: torch.device | str,
) -> float:
    """The scale s that makes λ dimensionless; measured once per study, on the dense model.

    s = mean norm of the task gradient over ``inner.scale_batches`` batches of ``search``, over
    the norm of the gradient of log F; both by the ratios, at ``inner.scale_ratio`` everywhere and
    the first window width. So at λ = 1 task and cost pull equally hard there.

    Args:
        model: the dense model on ``device``; not changed, running statistics included.
        graph: its coupling graph.
        cost: its cost.
        data: ``search`` is read.
        config: of the study.
        device: where to compute.
    """
    inner, sizes_G, group_U = config.inner, group_sizes(graph), unit_groups(graph)
    if not graph.groups:
        return 1.0
    ratios_G = torch.full_like(sizes_G, inner.scale_ratio)
    k_G = (ratios_G * sizes_G).clamp(min=1.0)
    tau_G = window_widths(
        sizes_G, 0.0, start=inner.window_start, anneal_fraction=inner.anneal_fraction
    )
    rank_U = rank_units(model, graph)
    mask_U = ramp(k_G, tau_G, rank_U, group_U)
    seed = derive_seed(config.seed, "cost-scale")
    batches = data.stream(
        "search", batch_size=config.data.batch_size, seed=seed, augment=False, device=device
    )
    execution = MaskedExecution(model, graph, data.loss)
    was_training = model.training
    norms = []
    with modes_kept(model), torch.random.fork_rng(devices=_cuda(device)):
        for number in range(inner.scale_batches):
            images_BCHW, labels_B = next(batches)
            torch.manual_seed(derive_seed(seed, "step", number))
            _, gradient_U = execution.mask_gradient(images_BCHW, labels_B, mask_U)
            gradient_G = ratio_gradient(gradient_U, k_G, tau_G, rank_U, group_U)
            norms.append(float(gradient_G.norm()))
    model.train(was_training)
    by_cost_G, _ = log_macs_gradient(ratios_G, cost)
    scale = math.fsum(norms) / len(norms) / float(by_cost_G.norm())
    return scale if math.isfinite(scale) and scale > 0.0 else 1.0


def _cuda(device: torch.device | str) -> list[torch.device]:
    place = torch.device(device)
    return [place] if place.type == "cuda" else []
