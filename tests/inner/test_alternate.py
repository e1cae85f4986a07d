import copy

import pytest
import torch

from automl_prune.inner import InnerLoop


def loop(bench, *, fixed=False, trade_off=0.3, start=0.6, steps=None, seed=5):
    config = bench.config
    if steps is not None:
        config = config.model_copy(
            update={"inner": config.inner.model_copy(update={"steps": steps})}
        )
    return InnerLoop(
        copy.deepcopy(bench.dense).requires_grad_(True),
        bench.graph,
        bench.cost,
        bench.data,
        config,
        start_G=torch.full_like(bench.low_G, start),
        low_G=bench.low_G,
        high_G=bench.high_G,
        trade_off=trade_off,
        cost_scale=bench.facts.cost_scale,
        seed=seed,
        device=torch.device("cpu"),
        fixed=fixed,
    )


def test_cost_pressure_lowers_the_macs(tiny_bench):
    ends = []
    for trade_off in (0.01, 3.0):
        run = loop(tiny_bench, trade_off=trade_off, steps=40)
        run.run(run.total_steps)
        ends.append(run.result().macs_ratio[-1])
    assert ends[1] < 0.5 * ends[0]


def test_ratios_stay_in_their_bounds(tiny_bench):
    run = loop(tiny_bench, trade_off=50.0, steps=40)
    run.run(run.total_steps)
    ratios_G = run.result().ratios_G
    assert torch.all(ratios_G >= tiny_bench.low_G)
    assert torch.all(ratios_G <= tiny_bench.high_G)


def test_stopping_in_between_changes_nothing(tiny_bench):
    whole = loop(tiny_bench)
    whole.run(whole.total_steps)
    first = loop(tiny_bench)
    first.run(5)
    second = loop(tiny_bench)
    second.load_state_dict(first.state_dict())
    second.run(second.total_steps)
    assert torch.equal(second.result().ratios_G, whole.result().ratios_G)
    assert torch.equal(second.result().keep_U, whole.result().keep_U)
    for name, tensor in whole.model.state_dict().items():
        assert torch.equal(second.model.state_dict()[name], tensor), name


def test_a_fixed_loop_holds_its_ratios_and_trains_longer(tiny_bench):
    run = loop(tiny_bench, fixed=True)
    assert run.total_steps > tiny_bench.config.inner.steps
    run.run(run.total_steps)
    result = run.result()
    assert torch.all(result.ratios_G == 0.6)
    assert result.num_ratio_steps == 0


def test_every_group_keeps_a_unit(tiny_bench):
    run = loop(tiny_bench, trade_off=50.0, steps=40)
    run.run(run.total_steps)
    keep_U = run.result().keep_U
    assert all(bool(keep_U[group.units].any()) for group in tiny_bench.graph.groups)


def test_progress_is_told_for_every_step(tiny_bench):
    seen = []
    run = loop(tiny_bench)
    run.run(run.total_steps, seen.append)
    assert [progress.step for progress in seen] == list(range(1, run.total_steps + 1))
    assert all(progress.loss > 0 for progress in seen)


@pytest.mark.parametrize("starts", [(0.4, 0.9)])
def test_other_starting_points_lead_to_other_models(tiny_bench, starts):
    kept = []
    for start in starts:
        run = loop(tiny_bench, start=start, trade_off=0.1)
        run.run(run.total_steps)
        kept.append(run.result().keep_U)
    assert not torch.equal(*kept)
