"""Operations that write in place, and operations without a rule."""

import torch
from handmade_nets import Net, check, conv, reasons
from torch import nn

from automl_prune.graph.rules import tensors_in


def test_write_into_part_of_a_buffer_is_seen():
    def body(m, x):
        y = m.a(x)
        buffer = torch.zeros(x.shape[0], 8, 8, 8)
        buffer[:, :4] = y.sum(1, keepdim=True)
        buffer[:, 4:] = y.amax(1, keepdim=True)
        return m.head(m.b(buffer).mean((2, 3)))

    graph = check(Net(body, a=conv(3, 6), b=conv(8, 6), head=nn.Linear(6, 5)))
    assert [group.name for group in graph.groups] == ["b"]


def test_operation_without_a_rule_is_named_with_its_place():
    net = Net(
        lambda m, x: m.head(torch.linalg.matrix_exp(m.a(x)).mean((2, 3))),
        a=conv(3, 6),
        head=nn.Linear(6, 5),
    )
    graph = check(net)
    assert not graph.groups
    (reason,) = reasons(graph, "a")
    assert "matrix_exp" in reason
    assert "has no rule" in reason


def test_tensors_in_finds_all_in_order():
    first, second = torch.zeros(1), torch.ones(1)
    assert [id(t) for t in tensors_in({"a": [first, 3], "b": ((second,), None)})] == [
        id(first),
        id(second),
    ]
