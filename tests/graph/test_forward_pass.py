"""One pass leaves the model as it was, and says what it could not run."""

import pytest
import torch
from handmade_nets import Net, conv
from torch import nn

from automl_prune.errors import TraceError
from automl_prune.graph.forward_pass import run_flow
from automl_prune.graph.union_find import UnionFind


def test_model_is_left_as_it_was():
    net = nn.Sequential(conv(3, 4), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(256, 5)).train()
    net[1].eval()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    run_flow(net, (3, 8, 8), UnionFind())
    assert [module.training for module in net] == [True, False, True, True]
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in net.modules())


def test_failure_names_operation_and_module():
    net = Net(lambda m, x: m.b(m.a(x)), a=conv(3, 4), b=conv(5, 4))
    with pytest.raises(
        TraceError, match=r"RuntimeError in b, last operation convolution"
    ) as caught:
        run_flow(net, (3, 8, 8), UnionFind())
    assert "(3, 8, 8)" in str(caught.value)


def test_output_that_does_not_depend_on_the_input():
    with pytest.raises(TraceError, match="no tensor depends on its input"):
        run_flow(Net(lambda m, x: torch.zeros(2)), (3, 8, 8), UnionFind())
