"""Rules of single operations, on nets that are nothing but the operation."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from automl_prune.graph.forward_pass import run_flow


class Book:
    """Issues plain numbers and notes what it hears."""

    def __init__(self):
        self.number, self.joined, self.fixed = 100, set(), {}

    def is_depthwise(self, layer, inputs, groups):
        return groups > 1 and groups == inputs

    def issue(self, layer, count):
        self.number += count
        return torch.arange(self.number - count, self.number)

    def anonymous(self, reason):
        return int(self.issue("", 1))

    def join(self, first, second):
        self.joined |= {
            tuple(sorted(p)) for p in zip(first.tolist(), second.tolist(), strict=True)
        }

    def fix(self, ids, reason):
        for number in torch.unique(ids).tolist():
            self.fixed.setdefault(number, reason)


class After(nn.Module):
    """A 1x1 convolution to six channels, then one function."""

    def __init__(self, function):
        super().__init__()
        self.conv = nn.Conv2d(2, 6, 1)
        self.function = function

    def forward(self, x):
        return self.function(self.conv(x))


def flow_of(function, channels=6):
    book = Book()
    flow = run_flow(After(function), (2, 4, 4), book)
    return flow, book, flow.visits["conv"].out_ids


def output_ids(flow):
    return list(flow.ids.values())[-1][1]


@pytest.mark.parametrize(
    ("function", "order"),
    [
        (lambda x: x.flip(1), [5, 4, 3, 2, 1, 0]),
        (lambda x: torch.cat([x[:, 3:], x[:, :3]], 1), [3, 4, 5, 0, 1, 2]),
        (lambda x: x.view(1, 2, 3, 4, 4).transpose(1, 2).reshape(1, 6, 4, 4), [0, 3, 1, 4, 2, 5]),
        (lambda x: torch.stack(x.split(2, 1), 1).flatten(1, 2), [0, 1, 2, 3, 4, 5]),
    ],
)
def test_movement_moves_ids(function, order):
    flow, _, ids = flow_of(function)
    assert output_ids(flow)[0, :, 0, 0].tolist() == ids[torch.tensor(order)].tolist()


@settings(max_examples=25, deadline=None)
@given(st.lists(st.sampled_from(["flip", "roll", "swap", "shuffle", "split"]), max_size=5))
def test_any_program_of_movements_moves_ids_as_it_moves_values(program):
    steps = {
        "flip": lambda x: x.flip(1),
        "roll": lambda x: x.roll(2, 1),
        "swap": lambda x: x.permute(0, 1, 3, 2).contiguous(),
        "shuffle": lambda x: x.view(1, 3, 2, 4, 4).transpose(1, 2).reshape(1, 6, 4, 4),
        "split": lambda x: torch.cat(list(x.split([1, 2, 3], 1))[::-1], 1),
    }

    def run(x):
        for name in program:
            x = steps[name](x)
        return x

    flow, _, ids = flow_of(lambda x: run(x) * 1.0)
    expected = run(ids.view(1, -1, 1, 1).expand(1, 6, 4, 4))
    assert torch.equal(output_ids(flow), expected)


def test_addition_joins_position_by_position():
    _, book, ids = flow_of(lambda x: x + x.flip(1))
    assert book.joined == {tuple(sorted((int(ids[i]), int(ids[5 - i])))) for i in range(6)}


def test_a_map_over_channels_is_fixed_and_not_joined():
    _, book, ids = flow_of(lambda x: x * x[:, :1].sigmoid())
    assert "broadcast over channels" in book.fixed[int(ids[0])]
    assert book.joined == set()


@pytest.mark.parametrize(
    "function",
    [lambda x: x.mean(1), lambda x: x.softmax(1), lambda x: x.amax(1, keepdim=True)],
)
def test_reductions_over_channels_fix_them(function):
    _, book, ids = flow_of(function)
    assert "over channels" in book.fixed[int(ids[3])]


def test_an_operation_without_a_rule_fixes_and_says_so():
    _, book, ids = flow_of(lambda x: torch.linalg.det(x))
    assert "has no rule" in book.fixed[int(ids[0])]


def test_padding_of_channels_brings_ids_of_its_own_and_fixes():
    flow, book, ids = flow_of(lambda x: nn.functional.pad(x, (0, 0, 0, 0, 1, 1)))
    padded = output_ids(flow)[0, [0, -1], 0, 0].tolist()
    assert not set(padded) & set(ids.tolist())
    assert "constant padding" in book.fixed[int(ids[0])]


def test_spatial_padding_and_pooling_keep_ids():
    flow, book, ids = flow_of(
        lambda x: nn.functional.max_pool2d(nn.functional.pad(x, (1, 1, 1, 1)), 2)
    )
    assert output_ids(flow)[0, :, 0, 0].tolist() == ids.tolist()
    assert book.joined == set()
