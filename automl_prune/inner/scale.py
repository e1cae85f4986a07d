"""The scale s that makes λ dimensionless, measured by a loop that holds half of the MACs."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

from automl_prune.config import with_overrides
from automl_prune.graph.narrow import deep_copy
from automl_prune.inner.alternate import InnerLoop
from automl_prune.inner.loss import macs_gradient
from automl_prune.seeds import derive_seed

if TYPE_CHECKING:
    from torch import Tensor, nn

    from automl_prune.config import StudyConfig
    from automl_prune.data import Data
    from automl_prune.graph import CostModel, CouplingGraph

GAIN = 0.1
"""The price changes by this power of the error in MACs at every ratio step."""
FIRST_SHARE = 0.2
"""The first price, as a share of the one at which the dense weights' task gradient and the cost
gradient are equally long: weights that have adapted to the masks resist so much less."""
_HALVINGS = 40


def measure_cost_scale(
    model: nn.Module,
    graph: CouplingGraph,
    cost: CostModel,
    data: Data,
    config: StudyConfig,
    *,
    low_G: Tensor,
    high_G: Tensor,
    device: torch.device | str,
) -> float:
    """Measure s: the price at which the inner loop holds half of the removable MACs.

    One inner loop of the study runs with a price that rises while the model is larger than that
    and falls while it is smaller (integral control of the price's logarithm). s is the geometric
    mean of the prices of its second half. So λ = 1 leads every model to about half its MACs,
    however hard its task is; it is measured once per study, and never again while trials run.

    Args:
        model: the dense model on ``device``; not changed.
        graph: its coupling graph.
        cost: its cost.
        data: ``train`` and ``search`` are read.
        config: of the study.
        low_G: lowest keep ratios.
        high_G: highest keep ratios.
        device: where to compute.

    Returns:
        s in units of the loss; 1.0 where no channel can be removed.

    Raises:
        ModelError: the loss is not finite.
    """

    def macs_ratio(ratios_G: Tensor) -> float:
        return float(cost.macs(ratios_G * cost.dense_counts_G)) / cost.dense_macs

    if not graph.groups or not bool((high_G > low_G).any()):
        return 1.0
    target = (macs_ratio(low_G) + macs_ratio(high_G)) / 2
    below, above = 0.0, 1.0
    for _ in range(_HALVINGS):
        middle = (below + above) / 2
        small = macs_ratio(torch.lerp(low_G, high_G, middle)) <= target
        below, above = (middle, above) if small else (below, middle)
    start_G = torch.lerp(low_G, high_G, below)
    priced = with_overrides(config, ("inner.budget_ratio=none",))
    loop = InnerLoop(
        deep_copy(model).requires_grad_(True),
        graph,
        cost,
        data,
        priced,
        start_G=start_G,
        low_G=low_G,
        high_G=high_G,
        trade_off=0.0,
        cost_scale=1.0,
        seed=derive_seed(config.seed, "cost-scale"),
        device=device,
        fixed=False,
    )
    stride = config.inner.weight_steps_per_ratio_step
    loop.run(stride)
    by_cost_G, _ = macs_gradient(start_G, cost)
    loop.price = FIRST_SHARE * loop.gradient_norm / float(by_cost_G.norm())
    logs = []
    while loop.step < loop.total_steps:
        logs.append(math.log(loop.price))
        loop.run(loop.step + stride)
        loop.price *= (loop.macs_ratio / target) ** GAIN
    later = logs[len(logs) // 2 :]
    return math.exp(math.fsum(later) / len(later)) if later else 1.0
