"""Ids through random programs of data movement, against what the same program does to numbers."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from automl_prune.graph import trace_coupling
from automl_prune.graph.forward_pass import run_flow
from automl_prune.graph.union_find import UnionFind

CHANNELS = 12
STEPS = {
    "shuffle": lambda x: x.view(1, 3, -1, *x.shape[2:]).transpose(1, 2).flatten(1, 2),
    "halves": lambda x: torch.cat(x.chunk(2, 1)[::-1], 1),
    "cut": lambda x: x[:, ::2] if x.shape[1] > 6 else x,
    "double": lambda x: torch.cat([x, x], 1) if x.shape[1] < 24 else x,
    "flip": lambda x: x.flip(1),
    "roll": lambda x: x.roll(5, 1),
    "last": lambda x: x.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2),
    "split": lambda x: torch.cat([x.split([1, x.shape[1] - 1], 1)[i] for i in (1, 0)], 1),
    "index": lambda x: x.index_select(1, torch.arange(x.shape[1] - 1, -1, -1)),
}


class Program(nn.Module):
    def __init__(self, steps):
        super().__init__()
        self.steps = steps
        self.first = nn.Conv2d(3, CHANNELS, 1)
        self.last = nn.Conv2d(self.move(torch.zeros(1, CHANNELS, 2, 2)).shape[1], 4, 1)

    def move(self, x: Tensor) -> Tensor:
        for step in self.steps:
            x = STEPS[step](x)
        return x

    def forward(self, x):
        return self.last(self.move(self.first(x)))


@settings(max_examples=40, deadline=None)
@given(st.lists(st.sampled_from(sorted(STEPS)), max_size=7))
def test_ids_go_where_the_numbers_go(steps):
    program = Program(steps)
    flow = run_flow(program, (3, 2, 2), UnionFind())
    numbers = torch.arange(CHANNELS).view(1, -1, 1, 1).expand(1, CHANNELS, 2, 2)
    expected = program.move(numbers)[0, :, 0, 0]
    issued = flow.visits["first"].out_ids
    assert torch.equal(flow.visits["last"].in_ids, issued[expected])


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_memory_layout_and_dtype_change_no_group(layout, dtype):
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3),
        nn.BatchNorm2d(8),
        nn.Conv2d(8, 6, 3),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(6, 5),
    )
    graph = trace_coupling(net.to(dtype=dtype, memory_format=layout), (3, 8, 8))
    assert [group.name for group in graph.groups] == ["0", "2"]
    assert [fixed.reason for fixed in graph.fixed] == ["output of the model"]
