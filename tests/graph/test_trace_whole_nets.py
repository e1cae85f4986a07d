"""Tracing of whole nets: errors, the model untouched, and Torch-Pruning as oracle."""

import warnings

import pytest
import torch
import torchvision
from torch import nn

from automl_prune.errors import TraceError
from automl_prune.graph import trace_coupling


class Crashing(nn.Module):
    def forward(self, x):
        raise RuntimeError("out of luck")


def test_crash_names_the_module_and_the_message():
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Sequential(nn.ReLU(), Crashing()))
    with pytest.raises(TraceError, match=r"out of luck") as caught:
        trace_coupling(net, (3, 8, 8))
    assert "1.1" in str(caught.value)


def test_wrong_input_shape_names_the_layer():
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(10, 2))
    with pytest.raises(TraceError, match=r"\(3, 8, 8\)") as caught:
        trace_coupling(net, (3, 8, 8))
    assert "2" in str(caught.value)


class Texter(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, x):
        self.conv(x)
        return "a cat"


def test_output_without_tensor_is_refused():
    with pytest.raises(TraceError, match="str"):
        trace_coupling(Texter(), (3, 8, 8))


def test_model_is_left_as_it_was():
    net = torchvision.models.resnet18(weights=None, num_classes=10)
    net.train()
    net.layer1.eval()
    modes = {name: module.training for name, module in net.named_modules()}
    state = {name: value.clone() for name, value in net.state_dict().items()}
    identities = [id(parameter) for parameter in net.parameters()]
    random_state = torch.get_rng_state()
    trace_coupling(net, (3, 32, 32))
    assert {name: module.training for name, module in net.named_modules()} == modes
    after = net.state_dict()
    assert after.keys() == state.keys()
    assert all(torch.equal(after[name], value) for name, value in state.items())
    assert [id(parameter) for parameter in net.parameters()] == identities
    assert torch.equal(torch.get_rng_state(), random_state)
    assert all(not m._forward_hooks and not m._forward_pre_hooks for m in net.modules())
    assert all(parameter.grad is None for parameter in net.parameters())


def oracle_sets(model, shape):
    """Sets of convolutions and linear layers that lose outputs together, by Torch-Pruning."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import torch_pruning as tp

        model.eval()
        images_BCHW = torch.randn(1, *shape)
        dependencies = tp.DependencyGraph().build_dependency(model, example_inputs=images_BCHW)
        head = [m for m in model.modules() if isinstance(m, nn.Linear)][-1]
        names = {module: name for name, module in model.named_modules()}
        found = set()
        for group in dependencies.get_all_groups(
            ignored_layers=[head], root_module_types=[nn.Conv2d, nn.Linear]
        ):
            members = set()
            for dependency, _ in group:
                module, handler = dependency.target.module, dependency.handler
                if isinstance(module, nn.Conv2d | nn.Linear) and "out" in handler.__name__:
                    members.add(names[module])
            found.add(frozenset(members))
        return found


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2", "vgg16_bn"])
def test_same_coupled_layers_as_torch_pruning(name):
    torch.manual_seed(0)
    model = getattr(torchvision.models, name)(weights=None, num_classes=10)
    graph = trace_coupling(model, (3, 64, 64))
    ours = {
        frozenset(n for n in group.layers if graph.layers[n].kind != "norm")
        for group in graph.groups
    }
    assert ours == oracle_sets(model, (3, 64, 64))
