import copy

import pytest
import torch

from automl_prune.inner.execution import MaskedExecution
from automl_prune.inner.loss import macs_gradient, ratio_gradient
from automl_prune.inner.window import group_sizes, ramp, unit_groups


def test_cost_gradient_is_the_slope_of_the_share_of_macs(tiny_bench):
    cost = tiny_bench.cost
    ratios = torch.linspace(0.3, 0.9, len(tiny_bench.graph.groups), dtype=torch.float64)
    gradient, ratio = macs_gradient(ratios, cost)
    assert ratio == pytest.approx(float(cost.macs(ratios * cost.dense_counts_G)) / cost.dense_macs)
    for index in range(len(ratios)):
        step = torch.zeros_like(ratios)
        step[index] = 1e-6
        slope = (share_at(cost, ratios + step) - share_at(cost, ratios - step)) / 2e-6
        assert float(gradient[index]) == pytest.approx(slope, rel=1e-5)


def share_at(cost, ratios):
    return float(cost.macs(ratios * cost.dense_counts_G)) / cost.dense_macs


def test_no_pressure_at_or_below_the_budget(tiny_bench):
    ratios = torch.full((len(tiny_bench.graph.groups),), 0.5, dtype=torch.float64)
    _, now = macs_gradient(ratios, tiny_bench.cost)
    at_budget, _ = macs_gradient(ratios, tiny_bench.cost, budget_ratio=now)
    above, _ = macs_gradient(ratios, tiny_bench.cost, budget_ratio=0.99 * now)
    assert torch.all(at_budget == 0)
    torch.testing.assert_close(above, macs_gradient(ratios, tiny_bench.cost)[0])


def test_ratio_gradient_is_the_slope_of_the_soft_loss(tiny_bench):
    """Through the whole net: the loss at r + h and r - h, in float64."""
    model = copy.deepcopy(tiny_bench.dense).double()
    graph = tiny_bench.graph
    sizes, group = group_sizes(graph), unit_groups(graph)
    rank = torch.cat([torch.arange(g.num_units) for g in graph.groups])
    tau = (0.25 * sizes).clamp(min=1.0)
    images, labels = next(iter(tiny_bench.data.in_order("search", batch_size=64, device="cpu")))
    form = MaskedExecution(model, graph, tiny_bench.data.loss)

    def run(ratios):
        return form.mask_gradient(images, labels, ramp(ratios * sizes, tau, rank, group))

    ratios = torch.full_like(sizes, 0.613)
    gradient = ratio_gradient(run(ratios)[1], ratios * sizes, tau, rank, group)
    for index in range(len(ratios)):
        step = torch.zeros_like(ratios)
        step[index] = 1e-7
        slope = float(run(ratios + step)[0] - run(ratios - step)[0]) / 2e-7
        assert float(gradient[index]) == pytest.approx(slope, rel=1e-3, abs=1e-6)
