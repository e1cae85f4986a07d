import copy
import itertools

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import nn

from automl_prune.filled import FilledModel
from automl_prune.graph import trace_coupling
from automl_prune.models import digits_net, resnet20, vgg16_bn
from automl_prune.prune import prune_model


class ConstantsNet(nn.Module):
    """Activations that are not zero at zero: what reads a filler would learn from it."""

    def __init__(self):
        super().__init__()
        self.first, self.norm = nn.Conv2d(3, 24, 3, padding=1), nn.BatchNorm2d(24)
        self.second = nn.Conv2d(24, 40, 3, padding=1)
        self.head = nn.Linear(40, 10)

    def forward(self, x_BCHW):
        x_BCHW = torch.sigmoid(self.norm(self.first(x_BCHW)))
        x_BCHW = F.softplus(self.second(x_BCHW))
        return self.head(x_BCHW.mean((2, 3)))


NETS = {
    "resnet20": resnet20,
    "vgg16_bn": lambda: vgg16_bn(width=0.25),
    "resnet18": lambda: torchvision.models.resnet18(num_classes=10),
    "mobilenet_v2": lambda: torchvision.models.mobilenet_v2(num_classes=10, dropout=0.0),
    "densenet121": lambda: torchvision.models.densenet121(num_classes=10),
    "constants": ConstantsNet,
}
SHAPE = (3, 32, 32)
LARGER = dict.fromkeys(["mobilenet_v2", "densenet121"], (3, 64, 64))
"""At 32 pixels their last layers have one position: four numbers are too few for batch norm."""


def kept(graph, share=0.6, seed=5):
    generator = torch.Generator().manual_seed(seed)
    keep_U = torch.rand(graph.num_units, generator=generator) < share
    for group in graph.groups:
        keep_U[group.units][0] = True
    return keep_U


def train(model, shape=SHAPE, steps=3):
    """SGD as fine-tuning does it, on noise."""
    model.train()
    optimizer = torch.optim.SGD(
        model.parameters(), lr=0.02, momentum=0.9, weight_decay=1e-2, nesterov=True
    )
    dtype = next(model.parameters()).dtype
    for number in range(steps):
        torch.manual_seed(number)
        images = torch.randn(4, *shape, dtype=dtype)
        optimizer.zero_grad()
        F.cross_entropy(model(images), torch.randint(10, (4,))).backward()
        optimizer.step()
    return model


@pytest.fixture(scope="module", params=NETS)
def setting(request):
    torch.manual_seed(0)
    model, shape = NETS[request.param]().double(), LARGER.get(request.param, SHAPE)
    graph = trace_coupling(model, shape)
    return model, graph, kept(graph), shape


def test_it_trains_to_what_the_pruned_model_trains_to(setting):
    model, graph, keep_U, shape = setting
    expected = train(prune_model(model, graph, keep_U), shape).state_dict()
    filled = FilledModel(copy.deepcopy(model), graph, keep_U)
    train(filled.model, shape)
    found = filled.pruned().state_dict()
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=0, atol=1e-9, msg=name)


def test_its_widths_are_multiples_of_eight_and_the_pruned_models_are_not(setting):
    model, graph, keep_U, _ = setting
    filled = FilledModel(copy.deepcopy(model), graph, keep_U)
    widths, pruned_widths = (
        [m.out_channels for m in net.modules() if isinstance(m, nn.Conv2d)]
        for net in (filled.model, prune_model(model, graph, keep_U))
    )
    assert all(w % 8 == 0 for w in widths)
    assert any(w % 8 for w in pruned_widths)
    assert all(p <= w < p + 8 for w, p in zip(widths, pruned_widths, strict=True))


def test_what_it_trains_can_be_looked_at_in_between():
    torch.manual_seed(0)
    model = resnet20().double()
    graph = trace_coupling(model, SHAPE)
    keep_U = kept(graph)
    filled = FilledModel(copy.deepcopy(model), graph, keep_U)
    looks = []
    for _ in range(2):
        train(filled.model)
        looks.append(filled.pruned())
    images = torch.randn(4, *SHAPE, dtype=torch.float64)
    with torch.no_grad():
        logits = [net.eval()(images) for net in (*looks, filled.model)]
    torch.testing.assert_close(logits[1], logits[2], rtol=0, atol=1e-10)
    assert not torch.allclose(logits[0], logits[1], rtol=0, atol=1e-3)


def tied():
    net = ConstantsNet()
    net.third = nn.Conv2d(24, 40, 3, padding=1)
    net.third.weight = net.second.weight
    net.forward = lambda x: net.head(
        (net.second(h := torch.sigmoid(net.norm(net.first(x)))) + net.third(h)).mean((2, 3))
    )
    return net


@pytest.mark.parametrize(
    ("build", "shape"),
    [(lambda: digits_net(width=0.5), (1, 8, 8)), (tied, SHAPE)],
    ids=["layers do little work", "modules share a parameter"],
)
def test_it_is_the_pruned_model_itself_where(build, shape):
    model = build()
    graph = trace_coupling(model, shape)
    filled = FilledModel(model, graph, kept(graph))
    assert filled.pruned() is filled.model
    expected = prune_model(model, graph, kept(graph))
    for one, other in itertools.zip_longest(filled.model.parameters(), expected.parameters()):
        assert torch.equal(one, other)
