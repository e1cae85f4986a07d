"""What only surgery shows: widths, counts and writes that ids alone do not see."""

import pytest
import torch
import torch.nn.functional as F
from handmade_nets import Net, check, conv, reasons
from torch import nn

from automl_prune.graph import CouplingGraph, Group
from automl_prune.graph.self_check import _kept_sets


@pytest.mark.parametrize("width", [2, 3, 4, 5, 7, 8, 14, 21, 28, 32])
def test_halves_of_a_concatenation_need_unequal_counts(width):
    """Cut by the same share, chunk still cuts at the seam; cut unequally it does not."""

    def body(m, x):
        first, second = torch.cat([m.a(x), m.b(x)], 1).chunk(2, 1)
        return m.head((m.c(first) + m.d(second)).mean((2, 3)))

    layers = {"a": conv(3, width), "b": conv(3, width)}
    layers |= {"c": conv(width, 6), "d": conv(width, 6)}
    graph = check(Net(body, head=nn.Linear(6, 5), **layers))
    assert not {"a", "b"} <= {group.name for group in graph.groups}
    assert "other widths" in reasons(graph, "a")[0]


def test_grouped_convolution_down_to_one_channel_per_group():
    net = Net(
        lambda m, x: m.head(m.b(F.relu(m.a(x))).mean((2, 3))),
        a=conv(3, 16),
        b=conv(16, 16, groups=4),
        head=nn.Linear(16, 5),
    )
    assert {group.name: group.num_units for group in check(net).groups} == {"a": 4, "b": 4}


@pytest.mark.parametrize("num_groups", [1, 2, 5, 16, 40])
def test_every_two_groups_are_cut_very_differently_once(num_groups):
    sizes = [(2, 4, 14, 28, 64)[i % 5] for i in range(num_groups)]
    first = [sum(sizes[:i]) for i in range(num_groups)]
    groups = [
        Group(name=str(i), first_unit=f, num_units=n, layers=(), channels_per_unit=1)
        for i, (f, n) in enumerate(zip(first, sizes, strict=True))
    ]
    graph = CouplingGraph(groups=tuple(groups), layers={}, fixed=(), num_units=sum(sizes))
    shares = torch.tensor(
        [
            [keep_U[group.units].double().mean() for group in groups]
            for keep_U in _kept_sets(graph, groups)
        ]
    )
    assert bool((shares > 0).all())
    assert bool((shares < 1).any(0).all()), "a group that was never narrowed"
    for a in range(num_groups):
        for b in range(a):
            assert float((shares[:, a] - shares[:, b]).abs().max()) >= 0.25, (a, b)


def test_unknown_operation_that_only_one_layout_needs_fixes_no_other_group():
    """Surgery makes some tensors contiguous: the passes need not see the same operations."""

    class Pinned(nn.Module):
        def forward(self, x):
            pooled = x.mean((2, 3), keepdim=True)
            if x.is_contiguous():
                return pooled
            # the same values by an operation that has no rule with an offset
            return pooled.as_strided(pooled.shape, pooled.stride(), 0)

    net = nn.Sequential(conv(3, 8), conv(8, 8), Pinned(), nn.Flatten(), nn.Linear(8, 5))
    graph = check(net.to(memory_format=torch.channels_last))
    assert [group.name for group in graph.groups] == ["0"]
