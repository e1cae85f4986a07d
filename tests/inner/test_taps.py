"""The gradient by a mask, read off the input of the masked layer."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from automl_prune.graph import trace_coupling
from automl_prune.inner.compact import CompactExecution
from automl_prune.inner.execution import MaskedExecution, WeightRule
from automl_prune.inner.taps import tapped

CALLS = {
    "conv": (lambda: nn.Conv2d(4, 3, 3), (2, 4, 5, 5)),
    "grouped": (lambda: nn.Conv2d(4, 6, 3, groups=2), (2, 4, 5, 5)),
    "linear": (lambda: nn.Linear(4, 3), (2, 4)),
    "linear over places": (lambda: nn.Linear(4, 3), (2, 7, 4)),
}


@pytest.mark.parametrize("call", CALLS)
def test_the_gradient_is_that_of_a_mask_on_the_input(call):
    build, shape = CALLS[call]
    torch.manual_seed(0)
    layer, x = build().double(), torch.randn(shape, dtype=torch.float64)
    channels = 1 if isinstance(layer, nn.Conv2d) else -1
    mask = (torch.rand(4, dtype=torch.float64) + 0.1).requires_grad_(True)

    def on_channels(factor, like):
        return factor.view(-1, *(1,) * (like.dim() - 2)) if channels == 1 else factor

    masked = x * on_channels(mask, x)
    (expected,) = torch.autograd.grad(layer(masked).square().sum(), mask)
    weight = layer.weight.detach()
    per_group = mask.detach().view(getattr(layer, "groups", 1), 1, -1)
    rows = per_group.expand(-1, weight.shape[0] // per_group.shape[0], -1).reshape(
        weight.shape[0], -1
    )
    folded = weight * rows.view(*rows.shape, *(1,) * (weight.dim() - 2))
    with tapped({layer: mask}):
        output = torch.func.functional_call(layer, {"weight": folded}, (x,))
        (gradient,) = torch.autograd.grad(output.square().sum(), mask)
    torch.testing.assert_close(gradient, expected)
    assert not layer._forward_pre_hooks


class FunctionalHead(nn.Module):
    """Uses the weight of a layer without calling the layer."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(1, 8, 3)
        self.middle = nn.Conv2d(8, 8, 3)
        self.head = nn.Linear(8, 10)

    def forward(self, x):
        x = F.relu(self.middle(F.relu(self.stem(x))))
        return F.linear(x.mean((2, 3)), self.head.weight, self.head.bias)


def test_a_layer_whose_weight_is_used_without_calling_it_still_has_its_gradient():
    torch.manual_seed(0)
    model = FunctionalHead().double()
    graph = trace_coupling(model, (1, 8, 8))
    momenta = {name: torch.zeros_like(p) for name, p in model.named_parameters()}
    images, labels = torch.randn(4, 1, 8, 8), torch.randint(10, (4,))
    mask = torch.full((graph.num_units,), 0.7)
    gradients = [
        form(model, graph, F.cross_entropy, momenta, WeightRule()).mask_gradient(
            images, labels, mask
        )[1]
        for form in (MaskedExecution, CompactExecution)
    ]
    assert float(gradients[0][8:].abs().max()) > 0  # the head's inputs
    torch.testing.assert_close(*gradients)
