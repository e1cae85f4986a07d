"""For every net of the zoo: masked model = pruned model, and the cost is exact.

One wrong kept index must show: each net is also pruned with a single unit exchanged.
"""

import copy
import warnings

import pytest
import torch
import torchvision
from torch.utils.flop_counter import FlopCounterMode

import automl_prune.models
from automl_prune.graph import CostModel, count_macs, trace_coupling
from automl_prune.mask import masked_forward
from automl_prune.prune import prune_model

TOLERANCE = 1e-4
DOUBLE_TOLERANCE = 1e-9
"""In float64, where one wrong channel among a thousand stands far above rounding."""
BUILT_IN = ["digits_net", "resnet20", "resnet32", "resnet44", "resnet56", "resnet110", "vgg16_bn"]
TORCHVISION = [
    "resnet18",
    "resnet50",
    "resnext50_32x4d",
    "wide_resnet50_2",
    "vgg16_bn",
    "mobilenet_v2",
    "mobilenet_v3_small",
    "efficientnet_b0",
    "mnasnet1_0",
    "regnet_y_400mf",
    "densenet121",
    "googlenet",
    "inception_v3",
    "squeezenet1_1",
    "shufflenet_v2_x1_0",
    "convnext_tiny",
]
ZOO = BUILT_IN + [f"torchvision:{name}" for name in TORCHVISION]


def build(name):
    if name.startswith("torchvision:"):
        name = name.removeprefix("torchvision:")
        kwargs = {"weights": None, "num_classes": 10}
        if name in ("googlenet", "inception_v3"):
            kwargs |= {"aux_logits": False, "init_weights": False}
        side = 96 if name == "inception_v3" else 64
        return getattr(torchvision.models, name)(**kwargs), (3, side, side)
    shape = (1, 8, 8) if name == "digits_net" else (3, 32, 32)
    return getattr(automl_prune.models, name)(num_classes=10), shape


@pytest.fixture(scope="module", params=ZOO)
def traced(request):
    """Model with randomised statistics, shape, graph, cost, a kept set and images."""
    name = request.param
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model, shape = build(name)
    for module in model.modules():
        if isinstance(getattr(module, "layer_scale", None), torch.nn.Parameter):
            torch.nn.init.ones_(module.layer_scale)  # ConvNeXt starts at 1e-6: nothing would show
    with torch.no_grad():
        model.train()(torch.randn(4, *shape))
        for module in model.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                for tensor in (module.weight, module.running_var):
                    tensor.mul_(torch.empty_like(tensor).uniform_(0.8, 1.25))
                for tensor in (module.bias, module.running_mean):
                    tensor.add_(torch.randn_like(tensor) * 0.1)
    model.eval()
    graph = trace_coupling(model, shape)
    generator = torch.Generator().manual_seed(1)
    keep_U = torch.zeros(graph.num_units, dtype=torch.bool)
    for group in graph.groups:
        count = max(1, group.num_units // 2)
        order = torch.randperm(group.num_units, generator=generator)
        keep_U[group.first_unit + order[:count]] = True
    return model, shape, graph, CostModel(graph), keep_U, torch.randn(2, *shape)


@torch.no_grad()
def test_masked_model_equals_pruned_model(traced):
    model, shape, graph, cost, keep_U, images_BCHW = traced
    masked = masked_forward(model, graph, keep_U, images_BCHW)
    scale = masked.abs().max()
    pruned = prune_model(model, graph, keep_U)
    assert (pruned(images_BCHW) - masked).abs().max() <= TOLERANCE * scale
    assert (model(images_BCHW) - masked).abs().max() > 1e-2 * scale, "the mask did nothing"

    counts_G = torch.tensor([float(keep_U[group.units].sum()) for group in graph.groups])
    counted = count_macs(pruned, shape)
    assert int(cost.macs(counts_G)) == counted
    with FlopCounterMode(display=False) as flops:
        pruned(images_BCHW[:1])
    assert flops.get_total_flops() == 2 * counted
    assert cost.dense_macs == count_macs(model, shape)


@torch.no_grad()
def test_one_wrong_kept_index_shows(traced):
    model, _, graph, _, keep_U, images_BCHW = traced
    model, images_BCHW = copy.deepcopy(model).double(), images_BCHW[:1].double()
    masked = masked_forward(model, graph, keep_U, images_BCHW)
    right = prune_model(model, graph, keep_U)
    assert (right(images_BCHW) - masked).abs().max() <= DOUBLE_TOLERANCE * masked.abs().max()
    group = graph.groups[len(graph.groups) // 2]
    kept = keep_U[group.units].nonzero()[0] + group.first_unit
    dropped = (~keep_U[group.units]).nonzero()[0] + group.first_unit
    wrong_U = keep_U.clone()
    wrong_U[kept], wrong_U[dropped] = False, True
    wrong = prune_model(model, graph, wrong_U)
    assert (wrong(images_BCHW) - masked).abs().max() > DOUBLE_TOLERANCE * masked.abs().max()


def test_at_least_half_of_the_macs_can_go(traced):
    _, _, graph, cost, _, _ = traced
    counts_G = (0.1 * cost.dense_counts_G).round().clamp(min=1)
    assert float(cost.macs(counts_G)) <= 0.5 * cost.dense_macs
    assert all(fixed.reason for fixed in graph.fixed)
    assert graph.fixed[-1].reason == "output of the model" or len(graph.fixed) > 1
