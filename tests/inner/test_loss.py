import copy

import pytest
import torch

from automl_prune.inner import measure_cost_scale
from automl_prune.inner.loss import log_macs_gradient


def test_gradient_of_log_macs_is_the_finite_difference(tiny_bench):
    cost = tiny_bench.cost
    ratios_G = torch.full_like(tiny_bench.low_G, 0.6)
    gradient_G, ratio = log_macs_gradient(ratios_G, cost)
    assert ratio == pytest.approx(float(cost.macs(0.6 * cost.dense_counts_G)) / cost.dense_macs)
    for index in range(len(ratios_G)):
        step = torch.zeros_like(ratios_G)
        step[index] = 1e-6
        above, below = (
            cost.macs((ratios_G + sign * step) * cost.dense_counts_G).log() for sign in (1, -1)
        )
        assert float(above - below) / 2e-6 == pytest.approx(float(gradient_G[index]), rel=1e-5)


def test_under_budget_there_is_no_pressure(tiny_bench):
    ratios_G = torch.full_like(tiny_bench.low_G, 0.6)
    _, ratio = log_macs_gradient(ratios_G, tiny_bench.cost)
    under, _ = log_macs_gradient(ratios_G, tiny_bench.cost, budget_ratio=ratio + 0.01)
    over, _ = log_macs_gradient(ratios_G, tiny_bench.cost, budget_ratio=ratio - 0.01)
    assert torch.all(under == 0)
    assert torch.all(over > 0)


def test_the_scale_is_repeatable_and_changes_nothing(tiny_bench):
    before = copy.deepcopy(tiny_bench.dense.state_dict())
    args = (tiny_bench.graph, tiny_bench.cost, tiny_bench.data, tiny_bench.config)
    scales = [
        measure_cost_scale(tiny_bench.dense, *args, device=tiny_bench.device) for _ in range(2)
    ]
    assert scales[0] == scales[1] == tiny_bench.facts.cost_scale
    for name, tensor in tiny_bench.dense.state_dict().items():
        assert torch.equal(tensor, before[name]), name
    assert not tiny_bench.dense.training
