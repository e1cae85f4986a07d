import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from automl_prune.graph import CostModel, CouplingGraph, Group, trace_coupling
from automl_prune.inner.rounding import project_to_budget, round_to_units
from automl_prune.models import digits_net


def graph_of(*sizes, channels_per_unit=1):
    groups, first = [], 0
    for index, size in enumerate(sizes):
        groups.append(
            Group(
                name=f"layer{index}",
                first_unit=first,
                num_units=size,
                layers=(f"layer{index}",),
                channels_per_unit=channels_per_unit,
            )
        )
        first += size
    return CouplingGraph(groups=tuple(groups), layers={}, fixed=(), num_units=first)


@pytest.mark.parametrize(
    ("ratio", "size", "multiple", "per_unit", "expected"),
    [
        (0.5, 16, 1, 1, 8),
        (0.53, 16, 1, 1, 8),
        (0.54, 16, 1, 1, 9),
        (0.01, 16, 1, 1, 1),
        (1.0, 16, 1, 1, 16),
        (0.5, 64, 8, 1, 32),
        (0.56, 64, 8, 1, 32),
        (0.57, 64, 8, 1, 40),
        (0.01, 64, 8, 1, 8),
        (1.0, 60, 8, 1, 60),  # all units are always allowed
        (0.99, 60, 8, 1, 60),
        (0.5, 6, 8, 1, 6),  # fewer channels than the multiple
        (0.5, 32, 8, 2, 16),  # four units of two channels make eight
        (0.3, 32, 8, 2, 8),
    ],
)
def test_rounding(ratio, size, multiple, per_unit, expected):
    graph = graph_of(size, channels_per_unit=per_unit)
    counts = round_to_units(torch.tensor([ratio], dtype=torch.float64), graph, multiple)
    assert counts.tolist() == [expected]


@given(st.floats(0.01, 1.0), st.integers(1, 200), st.sampled_from([1, 4, 8]), st.integers(1, 4))
def test_no_allowed_count_is_nearer(ratio, size, multiple, per_unit):
    graph = graph_of(size, channels_per_unit=per_unit)
    (count,) = round_to_units(torch.tensor([ratio], dtype=torch.float64), graph, multiple).tolist()
    allowed = [n for n in range(1, size + 1) if n * per_unit % multiple == 0 or n == size]
    assert count in allowed
    nearest = min(abs(n - ratio * size) for n in allowed)
    assert abs(count - ratio * size) == pytest.approx(nearest)


@pytest.fixture(scope="module")
def digits_cost():
    return CostModel(trace_coupling(digits_net(num_classes=10, in_channels=1), (1, 8, 8)))


@settings(deadline=None, max_examples=25)
@given(st.data())
def test_a_budget_is_filled_to_one_unit_or_two_percent(digits_cost, data):
    num = len(digits_cost.graph.groups)
    ratios = torch.tensor(
        data.draw(st.lists(st.floats(0.1, 1.0), min_size=num, max_size=num)), dtype=torch.float64
    )
    budget = data.draw(st.floats(0.1, 1.0)) * digits_cost.dense_macs
    low, high = torch.full((num,), 0.1).double(), torch.ones(num).double()
    counts = project_to_budget(ratios, digits_cost, budget, low_G=low, high_G=high)
    macs = float(digits_cost.macs(counts.double()))
    assert macs <= budget
    for index, group in enumerate(digits_cost.graph.groups):
        assert 1 <= counts[index] <= group.num_units
        if counts[index] < group.num_units:
            larger = counts.double()
            larger[index] += 1
            assert float(digits_cost.macs(larger)) > budget
    assert math.isfinite(macs)


def test_a_budget_keeps_bounds_and_multiples(digits_cost):
    num = len(digits_cost.graph.groups)
    ratios = torch.full((num,), 0.8).double()
    low, high = torch.full((num,), 0.25).double(), torch.full((num,), 0.5).double()
    counts = project_to_budget(
        ratios, digits_cost, digits_cost.dense_macs, low_G=low, high_G=high, channel_multiple=4
    )
    assert counts.tolist() == [g.num_units // 2 for g in digits_cost.graph.groups]


def test_an_unreachable_budget_gives_the_smallest_model(digits_cost):
    num = len(digits_cost.graph.groups)
    low, high = torch.full((num,), 0.25).double(), torch.ones(num).double()
    counts = project_to_budget(high, digits_cost, 1.0, low_G=low, high_G=high)
    assert counts.tolist() == [g.num_units // 4 for g in digits_cost.graph.groups]
