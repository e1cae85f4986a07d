import copy
from collections import defaultdict

import pytest
import torch

from automl_prune.errors import ModelError
from automl_prune.graph import trace_coupling
from automl_prune.models import digits_net, resnet20
from automl_prune.models.zoo import ChannelPad
from automl_prune.prune import LayerWidths, layer_widths, narrow_to, prune_model


def half(graph):
    keep_U = torch.zeros(graph.num_units, dtype=torch.bool)
    for group in graph.groups:
        keep_U[group.first_unit : group.first_unit + group.num_units // 2] = True
    return keep_U


@pytest.fixture(scope="module")
def resnet():
    torch.manual_seed(0)
    model = resnet20(num_classes=10).eval()
    return model, trace_coupling(model, (3, 32, 32))


def test_same_classes_same_names_smaller_tensors(resnet):
    model, graph = resnet
    before = copy.deepcopy(model.state_dict())
    pruned = prune_model(model, graph, half(graph))
    assert [(n, type(m)) for n, m in pruned.named_modules()] == [
        (n, type(m)) for n, m in model.named_modules()
    ]
    assert list(pruned.state_dict()) == list(before)
    smaller = sum(p.numel() for p in pruned.parameters())
    assert smaller < 0.3 * sum(p.numel() for p in model.parameters())
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name]), f"{name} of the original changed"


def test_a_pruned_model_is_rebuilt_from_widths_and_weights(resnet):
    model, graph = resnet
    pruned = prune_model(model, graph, half(graph)).eval()
    again = resnet20(num_classes=10)
    narrow_to(again, layer_widths(pruned))
    again.load_state_dict(pruned.state_dict())
    images = torch.randn(2, 3, 32, 32)
    assert torch.equal(again.eval()(images), pruned(images))


class CountingPad(ChannelPad):
    """A channel pad with tensors and a dictionary of its own."""

    def __init__(self, pad):
        super().__init__(pad.pad_before, pad.pad_after, stride=pad.stride)
        self.scale = torch.nn.Parameter(torch.ones(1))
        self.calls = defaultdict(int)


def test_a_channel_pad_s_own_things_are_copied():
    model = resnet20(num_classes=10)
    name, pad = next((n, m) for n, m in model.named_modules() if isinstance(m, ChannelPad))
    model.set_submodule(name, CountingPad(pad))
    graph = trace_coupling(model, (3, 32, 32))
    copied = prune_model(model, graph, half(graph)).get_submodule(name)
    assert copied.scale is not model.get_submodule(name).scale
    copied.calls["forward"] += 1
    assert not model.get_submodule(name).calls


@pytest.mark.parametrize("tied", [False, True])
def test_nothing_is_shared_with_the_original(tied):
    model = digits_net(num_classes=10, in_channels=1)
    graph = trace_coupling(model, (1, 8, 8))
    if tied:
        norm = next(m for m in model.modules() if isinstance(m, torch.nn.BatchNorm2d))
        model.unused = torch.nn.BatchNorm2d(norm.num_features)
        model.unused.weight = norm.weight
    pruned = prune_model(model, graph, half(graph))
    places = {tensor.data_ptr() for tensor in model.state_dict().values()}
    assert not places & {tensor.data_ptr() for tensor in pruned.state_dict().values()}


def test_pruned_models_can_be_trained(resnet):
    model, graph = resnet
    pruned = prune_model(model, graph, half(graph)).train()
    pruned(torch.randn(2, 3, 32, 32)).sum().backward()
    assert all(p.grad is not None and p.grad.shape == p.shape for p in pruned.parameters())


def test_a_group_is_never_emptied(resnet):
    model, graph = resnet
    keep_U = half(graph)
    keep_U[graph.groups[1].units] = False
    with pytest.raises(ValueError, match=graph.groups[1].name):
        prune_model(model, graph, keep_U)


def test_a_kept_set_of_another_net_is_refused(resnet):
    model, graph = resnet
    with pytest.raises(ValueError, match=str(graph.num_units)):
        prune_model(model, graph, torch.ones(3, dtype=torch.bool))


def test_widths_of_another_builder_are_refused():
    model = digits_net(num_classes=10)
    with pytest.raises(ModelError, match="the builder does not give"):
        narrow_to(model, {"conv1": LayerWidths(inputs=1, outputs=9999)})
