import copy

import pytest
import torch

from automl_prune.inner.execution import MaskedExecution
from automl_prune.inner.loss import log_macs_gradient, measure_cost_scale, ratio_gradient
from automl_prune.inner.window import group_sizes, ramp, unit_groups


def test_cost_gradient_is_the_slope_of_log_macs(tiny_bench):
    cost = tiny_bench.cost
    ratios = torch.linspace(0.3, 0.9, len(tiny_bench.graph.groups), dtype=torch.float64)
    gradient, ratio = log_macs_gradient(ratios, cost)
    assert ratio == pytest.approx(float(cost.macs(ratios * cost.dense_counts_G)) / cost.dense_macs)
    for index in range(len(ratios)):
        step = torch.zeros_like(ratios)
        step[index] = 1e-6
        slope = (log_at(cost, ratios + step) - log_at(cost, ratios - step)) / 2e-6
        assert float(gradient[index]) == pytest.approx(slope, rel=1e-5)


def log_at(cost, ratios):
    return float(torch.log(cost.macs(ratios * cost.dense_counts_G)))


def test_no_pressure_at_or_below_the_budget(tiny_bench):
    ratios = torch.full((len(tiny_bench.graph.groups),), 0.5, dtype=torch.float64)
    _, now = log_macs_gradient(ratios, tiny_bench.cost)
    at_budget, _ = log_macs_gradient(ratios, tiny_bench.cost, budget_ratio=now)
    above, _ = log_macs_gradient(ratios, tiny_bench.cost, budget_ratio=0.99 * now)
    assert torch.all(at_budget == 0)
    torch.testing.assert_close(above, log_macs_gradient(ratios, tiny_bench.cost)[0])


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


def test_measuring_the_scale_leaves_the_dense_model_alone(tiny_bench):
    model = copy.deepcopy(tiny_bench.dense).eval()
    before = copy.deepcopy(model.state_dict())
    arguments = (model, tiny_bench.graph, tiny_bench.cost, tiny_bench.data, tiny_bench.config)
    scale = measure_cost_scale(*arguments, device="cpu")
    assert scale == tiny_bench.facts.cost_scale  # and it is the same every time
    assert not any(module.training for module in model.modules())
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name]), name


def test_the_scale_makes_task_and_cost_pull_equally(tiny_bench):
    """Doubling the loss doubles the scale, so that λ keeps its meaning."""
    data = copy.copy(tiny_bench.data)
    data.loss = lambda logits, labels: 2.0 * tiny_bench.data.loss(logits, labels)
    scale = measure_cost_scale(
        tiny_bench.dense, tiny_bench.graph, tiny_bench.cost, data, tiny_bench.config, device="cpu"
    )
    assert scale == pytest.approx(2.0 * tiny_bench.facts.cost_scale, rel=1e-4)


def test_the_dense_model_keeps_its_mode(tiny_bench):
    assert not tiny_bench.dense.training
