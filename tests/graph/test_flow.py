import copy

import pytest
import torch
from torch import nn

from automl_prune.errors import TraceError
from automl_prune.graph import trace_coupling
from automl_prune.graph.flow import compressed
from automl_prune.models import digits_net


def test_ids_that_do_not_vary_take_no_room():
    ids = torch.arange(3).view(1, 3, 1, 1).expand(1, 3, 4, 5).contiguous()
    small = compressed(ids)
    assert torch.equal(small, ids)
    assert small.stride()[2:] == (0, 0)
    assert small.stride(1) != 0


def test_a_pass_leaves_the_model_as_it_was():
    model = digits_net(num_classes=10).train()
    model.bn1.eval()
    before = copy.deepcopy(model.state_dict())
    trace_coupling(model, (1, 8, 8))
    assert model.training
    assert not model.bn1.training
    assert all(torch.equal(model.state_dict()[name], t) for name, t in before.items())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


class Broken(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Conv2d(5, 4, 1))

    def forward(self, x):
        return self.inner(x)


def test_a_model_that_does_not_run_names_the_module():
    with pytest.raises(TraceError, match=r"RuntimeError in inner\.1"):
        trace_coupling(Broken(), (3, 8, 8))


def test_an_output_that_does_not_depend_on_the_input_is_refused():
    class Constant(nn.Module):
        def forward(self, x):
            return torch.zeros(1, 3)

    with pytest.raises(TraceError, match="depends on its input"):
        trace_coupling(nn.Sequential(Constant()), (3, 8, 8))
