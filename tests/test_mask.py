import pytest
import torch
from torch import nn

from automl_prune.graph import trace_coupling
from automl_prune.mask import masked_forward, masked_parameters


class GroupedNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.grouped = nn.Conv2d(8, 12, 3, padding=1, groups=2)
        self.last = nn.Linear(12, 5)

    def forward(self, x):
        x = torch.relu(self.grouped(torch.relu(self.first(x))))
        return self.last(x.mean((2, 3)))


@pytest.fixture(scope="module")
def net():
    torch.manual_seed(0)
    model = GroupedNet().double()
    return model, trace_coupling(model, (3, 6, 6)), torch.randn(2, 3, 6, 6).double()


def test_only_slices_of_removed_units_become_zero(net):
    model, graph, _ = net
    mask_U = torch.ones(graph.num_units, dtype=torch.float64)
    group = graph.groups[0]
    mask_U[group.first_unit] = 0
    weights = masked_parameters(model, graph, mask_U)
    removed = graph.layers["grouped"].in_units == group.first_unit
    halves = removed.view(2, 4)  # a grouped convolution sees its own half only
    weight = weights["grouped.weight"]
    assert torch.all(weight[:6][:, halves[0]] == 0)
    assert torch.all(weight[6:][:, halves[1]] == 0)
    assert torch.equal(weight[:6][:, ~halves[0]], model.grouped.weight[:6][:, ~halves[0]])
    assert torch.equal(weights["last.weight"], model.last.weight)


def test_a_mask_of_ones_changes_nothing(net):
    model, graph, images = net
    ones = torch.ones(graph.num_units, dtype=torch.float64)
    assert torch.equal(masked_forward(model, graph, ones, images), model(images))


def test_gradient_by_the_mask_is_the_finite_difference(net):
    model, graph, images = net
    mask_U = torch.full((graph.num_units,), 0.6, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(masked_forward(model, graph, mask_U, images).sum(), mask_U)
    for unit in range(graph.num_units):
        step = torch.zeros_like(mask_U)
        step[unit] = 1e-6
        with torch.no_grad():
            above = masked_forward(model, graph, mask_U + step, images).sum()
            below = masked_forward(model, graph, mask_U - step, images).sum()
        assert float((above - below) / 2e-6) == pytest.approx(float(gradient[unit]), abs=1e-5)
