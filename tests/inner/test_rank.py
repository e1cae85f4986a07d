import pytest
import torch
from torch import nn

from automl_prune.graph import CouplingGraph, Group, Layer, trace_coupling
from automl_prune.inner.rank import rank_units, ranks_of, unit_importance
from automl_prune.models import digits_net, resnet20


def chain_graph():
    """conv (1 -> 4 channels) - norm - linear (4 -> 2), one group of four units."""
    units = torch.arange(4)
    fixed = torch.tensor([-1])
    layers = [
        Layer(
            name="0", kind="conv", out_units=units, in_units=fixed, groups=1, positions=1, kernel=1
        ),
        Layer(
            name="1", kind="norm", out_units=units, in_units=units, groups=1, positions=1, kernel=1
        ),
        Layer(
            name="3",
            kind="linear",
            out_units=fixed.repeat(2),
            in_units=units,
            groups=1,
            positions=1,
            kernel=1,
        ),
    ]
    group = Group(name="0", first_unit=0, num_units=4, layers=("0", "1"), channels_per_unit=1)
    return CouplingGraph(
        groups=(group,), layers={layer.name: layer for layer in layers}, fixed=(), num_units=4
    )


def chain_model(rows, scales, columns):
    model = nn.Sequential(nn.Conv2d(1, 4, 1), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 2))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor(rows).view(4, 1, 1, 1))
        model[1].weight.copy_(torch.tensor(scales))
        model[3].weight.copy_(torch.tensor(columns).view(1, 4).expand(2, 4))
    return model


def test_importance_adds_rows_scales_and_columns_each_over_its_mean():
    rows, scales, columns = [1.0, 2.0, 3.0, 4.0], [4.0, 3.0, 2.0, 1.0], [1.0, 1.0, 1.0, 3.0]
    importance = unit_importance(chain_model(rows, scales, columns), chain_graph())
    expected = torch.zeros(4, dtype=torch.float64)
    for values in (rows, scales, columns):
        squares = torch.tensor(values, dtype=torch.float64).square()
        expected += squares / squares.mean()
    torch.testing.assert_close(importance, expected)


def test_the_scale_of_a_layer_does_not_matter():
    graph = chain_graph()
    small = chain_model([1.0, 2.0, 3.0, 4.0], [4.0, 3.0, 2.0, 1.0], [1.0, 1.0, 1.0, 3.0])
    large = chain_model([100.0, 200.0, 300.0, 400.0], [4.0, 3.0, 2.0, 1.0], [1.0, 1.0, 1.0, 3.0])
    torch.testing.assert_close(unit_importance(small, graph), unit_importance(large, graph))


def test_largest_first_and_ties_by_number():
    importance = torch.tensor([1.0, 5.0, 1.0, 5.0], dtype=torch.float64)
    assert ranks_of(importance, chain_graph()).tolist() == [2, 0, 3, 1]


def test_equal_weights_keep_their_order():
    model = chain_model([1.0] * 4, [1.0] * 4, [1.0] * 4)
    assert rank_units(model, chain_graph()).tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("builder", [digits_net, resnet20])
def test_ranks_are_a_permutation_of_every_group(builder):
    torch.manual_seed(0)
    model = builder(num_classes=10, in_channels=1)
    graph = trace_coupling(model, (1, 16, 16))
    rank = rank_units(model, graph)
    importance = unit_importance(model, graph)
    for group in graph.groups:
        assert sorted(rank[group.units].tolist()) == list(range(group.num_units))
        in_order = importance[group.units][rank[group.units].argsort()]
        assert torch.all(in_order.diff() <= 0)


def test_a_grouped_convolution_counts_every_slice_once():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 8, 1), nn.ReLU(), nn.Conv2d(8, 8, 1, groups=2), nn.ReLU())
    model.append(nn.Flatten()).append(nn.Linear(8, 3))
    graph = trace_coupling(model, (1, 1, 1))
    rows = model[0].weight.detach().double().square().flatten()
    grouped = model[2].weight.detach().double().square().view(2, 4, 4).sum(1).flatten()
    expected = rows / rows.mean() + grouped / grouped.mean()
    importance = unit_importance(model, graph)
    units = graph.layers["0"].out_units
    by_hand = torch.zeros(int(units.max()) + 1, dtype=torch.float64).index_add_(0, units, expected)
    for unit in units.unique().tolist():
        assert float(importance[unit]) == pytest.approx(float(by_hand[unit]))


def test_a_net_without_groups_has_an_empty_ranking():
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    assert rank_units(model, trace_coupling(model, (1, 8, 8))).shape == (0,)
