"""What every hand-made net must hold: masked = pruned, and the cost is exact."""

import pytest
import torch

from automl_prune.graph import CostModel, count_macs, trace_coupling
from automl_prune.mask import masked_forward
from automl_prune.prune import prune_model


def random_keep(graph, seed=0):
    """Of every group a random set of a random size, at least one unit."""
    generator = torch.Generator().manual_seed(seed)
    keep_U = torch.zeros(graph.num_units, dtype=torch.bool)
    for group in graph.groups:
        count = int(torch.randint(1, group.num_units, (), generator=generator))
        order = torch.randperm(group.num_units, generator=generator)
        keep_U[group.first_unit + order[:count]] = True
    return keep_U


@pytest.fixture
def traced():
    """Trace a net; show on three random kept sets that its graph is right; give the graph."""

    @torch.no_grad()
    def trace_and_check(model, shape=(3, 8, 8)):
        model.eval()
        graph = trace_coupling(model, shape)
        cost = CostModel(graph)
        assert cost.dense_macs == count_macs(model, shape)
        images_BCHW = torch.randn(2, *shape, generator=torch.Generator().manual_seed(0))
        for seed in range(3 if graph.groups else 0):
            keep_U = random_keep(graph, seed)
            pruned = prune_model(model, graph, keep_U)
            masked = masked_forward(model, graph, keep_U, images_BCHW)
            scale = float(masked.abs().max())
            torch.testing.assert_close(
                pruned(images_BCHW), masked, rtol=0, atol=1e-4 * max(scale, 1e-6)
            )
            counts_G = torch.tensor([float(keep_U[g.units].sum()) for g in graph.groups])
            assert float(cost.macs(counts_G)) == count_macs(pruned, shape)
        return graph

    return trace_and_check
