"""Nets made by hand, and what must hold for each of them."""

import torch
from torch import nn

from automl_prune.graph import CostModel, count_macs, trace_coupling
from automl_prune.mask import masked_forward
from automl_prune.prune import prune_model


class Net(nn.Module):
    def __init__(self, body, **layers):
        super().__init__()
        torch.manual_seed(0)
        for name, layer in layers.items():
            setattr(self, name, layer)
        self.body = body

    def forward(self, x):
        return self.body(self, x)


def conv(inputs, outputs, **kwargs):
    return nn.Conv2d(inputs, outputs, 3, padding=1, **kwargs)


@torch.no_grad()
def check(model, shape=(3, 8, 8), draws=4):
    """Masked = pruned and exact cost, for kept sets of unequal sizes and for one unit each."""
    model.eval()
    graph = trace_coupling(model, shape)
    cost = CostModel(graph)
    assert cost.dense_macs == count_macs(model, shape)
    images_BCHW = torch.randn(2, *shape, generator=torch.Generator().manual_seed(0))
    generator = torch.Generator().manual_seed(5)
    for draw in range(draws if graph.groups else 0):
        keep_U = torch.zeros(graph.num_units, dtype=torch.bool)
        for group in graph.groups:
            count = int(torch.randint(1, group.num_units, (), generator=generator))
            order = torch.randperm(group.num_units, generator=generator)
            keep_U[group.first_unit + order[: count if draw else 1]] = True
        pruned = prune_model(model, graph, keep_U)
        masked = masked_forward(model, graph, keep_U, images_BCHW)
        atol = 1e-4 * max(float(masked.abs().max()), 1e-6)
        torch.testing.assert_close(pruned(images_BCHW), masked, rtol=0, atol=atol)
        counts_G = torch.tensor([float(keep_U[g.units].sum()) for g in graph.groups])
        assert float(cost.macs(counts_G)) == count_macs(pruned, shape)
    return graph


def reasons(graph, layer):
    return [fixed.reason for fixed in graph.fixed if fixed.layer == layer]
