"""The cost scale: half the MACs at λ = 1, whatever the loss is measured in."""

import copy

import pytest
import torch

from automl_prune.config import StudyConfig
from automl_prune.inner import InnerLoop, measure_cost_scale


@pytest.fixture(scope="module")
def long_config(tiny_config):
    """Steps enough for the ratios to arrive."""
    content = tiny_config.model_dump(mode="json")
    content["inner"].update(steps=100, refresh_every=20)
    return StudyConfig.model_validate(content)


def measure(bench, config, **changes):
    arguments = {"low_G": bench.low_G, "high_G": bench.high_G, "device": "cpu"} | changes
    return measure_cost_scale(
        bench.dense, bench.graph, bench.cost, bench.data, config, **arguments
    )


def test_measuring_leaves_the_dense_model_alone_and_repeats(tiny_bench):
    before = copy.deepcopy(tiny_bench.dense.state_dict())
    assert measure(tiny_bench, tiny_bench.config) == tiny_bench.facts.cost_scale
    assert not any(module.training for module in tiny_bench.dense.modules())
    assert not any(parameter.requires_grad for parameter in tiny_bench.dense.parameters())
    for name, tensor in tiny_bench.dense.state_dict().items():
        assert torch.equal(tensor, before[name]), name


def test_one_ends_near_half_the_macs_and_other_values_on_their_sides(tiny_bench, long_config):
    scale = measure(tiny_bench, long_config)

    def end(trade_off):
        loop = InnerLoop(
            copy.deepcopy(tiny_bench.dense).requires_grad_(True),
            tiny_bench.graph,
            tiny_bench.cost,
            tiny_bench.data,
            long_config,
            start_G=torch.full_like(tiny_bench.low_G, 0.7),
            low_G=tiny_bench.low_G,
            high_G=tiny_bench.high_G,
            trade_off=trade_off,
            cost_scale=scale,
            seed=1,
            device="cpu",
            fixed=False,
        )
        loop.run(loop.total_steps)
        return loop.macs_ratio

    high, middle, low = end(0.1), end(1.0), end(5.0)
    assert 0.3 < middle < 0.75
    assert high > middle + 0.1
    assert low < middle - 0.1


def test_nothing_to_remove_is_no_trouble(tiny_bench):
    assert measure(tiny_bench, tiny_bench.config, low_G=tiny_bench.high_G) == 1.0
