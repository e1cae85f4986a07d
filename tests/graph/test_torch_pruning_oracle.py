"""The same coupled layers as Torch-Pruning finds, on nets that it handles."""

import warnings

import pytest
import torch
import torchvision

from automl_prune.graph import trace_coupling

tp = pytest.importorskip("torch_pruning")


def theirs(model, images_BCHW):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        graph = tp.DependencyGraph().build_dependency(model, example_inputs=images_BCHW)
    names = {module: name for name, module in model.named_modules()}
    (last,) = [name for name, m in model.named_modules() if isinstance(m, torch.nn.Linear)][-1:]
    found = set()
    for group in graph.get_all_groups():
        layers = frozenset(
            names[dep.target.module]
            for dep, _ in group
            if dep.target.module in names
            and isinstance(dep.target.module, torch.nn.Conv2d | torch.nn.Linear)
            and "out" in dep.handler.__name__
        )
        if last not in layers:
            found.add(layers)
    return found


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2", "vgg16_bn"])
def test_same_groups(name):
    kwargs = {"init_weights": False} if name == "vgg16_bn" else {}
    model = getattr(torchvision.models, name)(weights=None, **kwargs).eval()
    graph = trace_coupling(model, (3, 32, 32))
    ours = set()
    for group in graph.groups:
        kinds = ("conv", "linear", "depthwise")
        ours.add(frozenset(n for n in group.layers if graph.layers[n].kind in kinds))
    expected = theirs(model, torch.zeros(1, 3, 32, 32))
    # a depthwise layer has no output of its own to prune: compare the layers that produce
    depthwise = {n for n, layer in graph.layers.items() if layer.kind == "depthwise"}
    assert {g - depthwise for g in ours} == {g - depthwise for g in expected} - {frozenset()}
