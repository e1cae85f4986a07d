import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from automl_prune.graph import CostModel, count_macs, count_params, trace_coupling
from automl_prune.models import digits_net
from automl_prune.prune import prune_model

SHAPE = (1, 8, 8)
torch.manual_seed(0)
MODEL = digits_net(num_classes=10)
GRAPH = trace_coupling(MODEL, SHAPE)
COST = CostModel(GRAPH)


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_cost_is_exact_at_every_integer_count(data):
    counts = [data.draw(st.integers(1, group.num_units)) for group in GRAPH.groups]
    keep_U = torch.zeros(GRAPH.num_units, dtype=torch.bool)
    for group, count in zip(GRAPH.groups, counts, strict=True):
        keep_U[group.first_unit : group.first_unit + count] = True
    pruned = prune_model(MODEL, GRAPH, keep_U)
    assert float(COST.macs(torch.tensor(counts))) == count_macs(pruned, SHAPE)


def test_gradient_is_the_finite_difference():
    counts_G = (COST.dense_counts_G * 0.7).requires_grad_(True)
    (gradient,) = torch.autograd.grad(COST.macs(counts_G), counts_G)
    counts_G = counts_G.detach()
    for index in range(len(counts_G)):
        step = torch.zeros_like(counts_G)
        step[index] = 1e-3
        difference = (COST.macs(counts_G + step) - COST.macs(counts_G - step)) / 2e-3
        assert float(difference) == pytest.approx(float(gradient[index]), rel=1e-6)


def test_counting_by_hand():
    model = torch.nn.Sequential(
        torch.nn.Conv2d(3, 4, 3, padding=1, stride=2), torch.nn.Flatten(), torch.nn.Linear(16, 5)
    )
    assert count_macs(model, (3, 4, 4)) == 2 * 2 * 4 * 3 * 9 + 16 * 5
    assert count_params(model) == 4 * 3 * 9 + 4 + 16 * 5 + 5


def test_counting_restores_the_mode():
    model = digits_net(num_classes=10).train()
    model.bn1.eval()
    count_macs(model, SHAPE)
    assert model.training
    assert not model.bn1.training
