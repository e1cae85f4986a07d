"""Which weight belongs to which layer, and layers that cannot be followed."""

import pytest
import torch
import torch.nn.functional as F
from handmade_nets import Net, check, conv, reasons
from torch import nn


@pytest.mark.parametrize("groups", [1, 2])
def test_layer_without_rule_is_still_counted(groups):
    net = Net(
        lambda m, x: m.head(m.b(m.up(m.a(x))).mean((2, 3))),
        a=conv(3, 6),
        up=nn.ConvTranspose2d(6, 4, 2, stride=2, groups=groups),
        b=conv(4, 6),
        head=nn.Linear(6, 5),
    )
    graph = check(net)
    assert [group.name for group in graph.groups] == ["b"]
    assert "transposed" in reasons(graph, "a")[0]


def test_linear_layer_called_by_its_weight_is_counted():
    net = Net(
        lambda m, x: F.linear(F.relu(F.linear(x.flatten(1), m.a.weight, m.a.bias)), m.b.weight),
        a=nn.Linear(3 * 8 * 8, 12),
        b=nn.Linear(12, 5, bias=False),
    )
    assert [group.name for group in check(net).groups] == ["a"]


def test_part_of_a_weight_is_not_taken_for_the_layer():
    net = Net(
        lambda m, x: m.head(F.linear(x.mean((2, 3)), m.a.weight[:4])),
        a=nn.Linear(3, 8),
        head=nn.Linear(4, 5),
    )
    assert not check(net).groups


def test_parameters_in_one_storage_are_told_apart():
    net = Net(
        lambda m, x: m.head(m.b(F.relu(m.a(x))).mean((2, 3))),
        a=conv(3, 8, bias=False),
        b=conv(8, 8, bias=False),
        head=nn.Linear(8, 5),
    )
    flat = torch.cat([net.a.weight.detach().flatten(), net.b.weight.detach().flatten()])
    net.a.weight = nn.Parameter(flat[: 8 * 27].view(8, 3, 3, 3))
    net.b.weight = nn.Parameter(flat[8 * 27 :].view(8, 8, 3, 3))
    assert [group.name for group in check(net).groups] == ["a", "b"]


def test_weight_read_across_its_rows_is_not_taken_for_the_layer():
    net = Net(
        lambda m, x: m.head(m.a(x.mean((2, 3))) @ m.a.weight),
        a=nn.Linear(3, 8),
        head=nn.Linear(3, 5),
    )
    check(net)


def test_linear_on_a_tensor_that_is_not_contiguous():
    def body(m, x):
        y = m.a(x).flatten(2).transpose(1, 2)
        return m.c(F.relu(m.b(y)).mean(1))

    graph = check(Net(body, a=conv(3, 8), b=nn.Linear(8, 10), c=nn.Linear(10, 5)))
    assert [group.name for group in graph.groups] == ["a", "b"]


def test_prelu_loses_its_channels_too():
    net = Net(
        lambda m, x: m.head(m.act(m.a(x)).mean((2, 3))),
        a=conv(3, 8),
        act=nn.PReLU(8),
        head=nn.Linear(8, 5),
    )
    nn.init.uniform_(net.act.weight, -1, 1)
    (group,) = check(net).groups
    assert group.layers == ("a", "act")
