import copy
import json

import pytest
import torch

from automl_prune.config import StudyConfig
from automl_prune.errors import ModelError
from automl_prune.graph import trace_coupling
from automl_prune.inner import InnerLoop
from automl_prune.inner.alternate import _compact_pays
from automl_prune.inner.rank import rank_units
from automl_prune.inner.rounding import round_to_units
from automl_prune.models import digits_net, resnet20


def make_loop(bench, *, start=0.6, trade_off=0.3, fixed=False, seed=7, dtype=None, **changes):
    content = bench.config.model_dump(mode="json")
    execution = changes.pop("execution", "compact")
    for section in ("groups", "data"):
        content[section].update(changes.pop(section, {}))
    content["inner"].update({"steps": 20, "refresh_every": 4, "ratio_lr": 0.1, **changes})
    model = copy.deepcopy(bench.dense).requires_grad_(True)
    start_G = torch.full_like(bench.low_G, start) if isinstance(start, float) else start
    return InnerLoop(
        model.to(dtype) if dtype else model,
        bench.graph,
        bench.cost,
        bench.data,
        StudyConfig.model_validate(content),
        start_G=start_G,
        low_G=bench.low_G,
        high_G=bench.high_G,
        trade_off=trade_off,
        cost_scale=bench.facts.cost_scale,
        seed=seed,
        device="cpu",
        fixed=fixed,
        execution=execution,
    )


def ran(bench, **kwargs):
    loop = make_loop(bench, **kwargs)
    loop.run(loop.total_steps)
    return loop


def assert_same_state(first, second):
    assert first["values"] == second["values"]
    assert first["tensors"].keys() == second["tensors"].keys()
    for name, tensor in first["tensors"].items():
        assert torch.equal(tensor, second["tensors"][name]), name


def through_files(state):
    """As a checkpoint would carry it."""
    return {
        "tensors": {name: tensor.clone() for name, tensor in state["tensors"].items()},
        "values": json.loads(json.dumps(state["values"])),
    }


@pytest.mark.parametrize("execution", ["masked", "compact"])
@pytest.mark.parametrize("stop", [0, 1, 4, 7, 19])
def test_interrupted_and_resumed_is_undisturbed_to_the_bit(tiny_bench, execution, stop):
    whole = ran(tiny_bench, execution=execution, hold_draw=3)
    first = make_loop(tiny_bench, execution=execution, hold_draw=3)
    first.run(stop)
    second = make_loop(tiny_bench, execution=execution, hold_draw=3)
    second.load_state_dict(through_files(first.state_dict()))
    second.run(second.total_steps)
    assert_same_state(whole.state_dict(), second.state_dict())
    assert torch.equal(whole.result().keep_U, second.result().keep_U)
    assert whole.result().search_loss == second.result().search_loss


def test_a_resumed_baseline_is_undisturbed_to_the_bit(tiny_bench):
    whole = ran(tiny_bench, fixed=True)
    first = make_loop(tiny_bench, fixed=True)
    first.run(9)
    second = make_loop(tiny_bench, fixed=True)
    second.load_state_dict(through_files(first.state_dict()))
    second.run(second.total_steps)
    assert_same_state(whole.state_dict(), second.state_dict())


@pytest.mark.parametrize(
    ("batch_size", "fraction", "images"),
    [(64, 0.5, 32), (64, 0.1, 16), (64, 1.0, 64), (8, 0.5, 8)],
)
def test_a_ratio_step_sees_its_share_of_a_batch(tiny_bench, batch_size, fraction, images):
    loop = make_loop(
        tiny_bench, ratio_batch_fraction=fraction, data={"batch_size": batch_size}, steps=8
    )
    seen = {"train": set(), "search": set()}

    def noting(split, step):
        def noted(images_BCHW, *rest):
            seen[split].add(len(images_BCHW))
            return step(images_BCHW, *rest)

        return noted

    execution = loop._execution
    execution.train_step = noting("train", execution.train_step)
    execution.mask_gradient = noting("search", execution.mask_gradient)
    loop.run(loop.total_steps)
    loop.result()
    assert seen == {"train": {batch_size}, "search": {images}}


def test_running_in_pieces_changes_nothing(tiny_bench):
    pieces = make_loop(tiny_bench)
    for until in (1, 5, 6, 20):
        pieces.run(until)
    assert_same_state(ran(tiny_bench).state_dict(), pieces.state_dict())


@pytest.mark.parametrize("start", [0.3, 0.9])
def test_fifty_steps_of_both_forms_agree_in_float64(tiny_bench, start):
    kwargs = {"steps": 50, "refresh_every": 10, "dtype": torch.float64, "start": start}
    kwargs["trade_off"] = 2.0 if start == 0.9 else 0.3
    masked = ran(tiny_bench, execution="masked", **kwargs)
    compact = ran(tiny_bench, execution="compact", **kwargs)
    expected, found = masked.state_dict()["tensors"], compact.state_dict()["tensors"]
    for name, tensor in expected.items():
        difference = (tensor.double() - found[name].double()).abs()
        assert not difference.numel() or float(difference.max()) <= 1e-9, name
    ratios = expected["noted_ratios"]
    assert float((ratios[-1] - ratios[0]).abs().max()) > 0.1  # windows did move
    assert (ratios.diff(dim=0) > 0).any()
    assert (ratios.diff(dim=0) < 0).any()


def test_the_same_seed_gives_the_same_bits_and_another_does_not(tiny_bench):
    first, again, other = ran(tiny_bench), ran(tiny_bench), ran(tiny_bench, seed=8)
    assert_same_state(first.state_dict(), again.state_dict())
    assert not torch.equal(first.result().ratios_G, other.result().ratios_G)


def test_the_process_s_generator_is_left_alone(tiny_bench):
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    ran(tiny_bench).result()
    assert torch.equal(torch.rand(3), expected)


def test_steps_are_counted(tiny_bench):
    result = ran(tiny_bench, steps=21, weight_steps_per_ratio_step=4).result()
    assert (result.weight_steps, result.num_ratio_steps) == (21, 5)
    assert result.ratio_steps == (4, 8, 12, 16, 20, 21)
    num_rows = len(result.ratio_steps)
    assert len(result.macs_ratio) == len(result.search_loss) == num_rows
    assert {len(row) for row in result.ratios} == {num_rows}
    assert [step for step, _ in result.inner_loss] == list(range(1, 22))


def test_curves_are_what_the_ratios_cost(tiny_bench):
    result = ran(tiny_bench).result()
    for at, macs_ratio in enumerate(result.macs_ratio):
        ratios = torch.tensor([row[at] for row in result.ratios], dtype=torch.float64)
        macs = float(tiny_bench.cost.macs(ratios * tiny_bench.cost.dense_counts_G))
        assert macs_ratio == pytest.approx(macs / tiny_bench.cost.dense_macs)


def test_a_result_can_be_asked_for_twice(tiny_bench):
    loop = ran(tiny_bench)
    first, second = loop.result(), loop.result()
    assert first.search_loss == second.search_loss
    assert torch.equal(first.keep_U, second.keep_U)


def test_the_kept_units_are_the_best_ranked_and_cost_what_the_ratios_do(tiny_bench):
    loop = ran(tiny_bench, groups={"channel_multiple": 4})
    result = loop.result()
    kept = torch.tensor([int(result.keep_U[g.units].sum()) for g in tiny_bench.graph.groups])
    assert torch.all(kept % 4 == 0)
    wanted = result.macs_ratio[-1] * tiny_bench.cost.dense_macs
    assert float(tiny_bench.cost.macs(kept.double())) <= wanted
    larger = torch.minimum(kept + 4, tiny_bench.cost.dense_counts_G)
    assert float(tiny_bench.cost.macs(larger.double())) > wanted
    rank_U = loop.state_dict()["tensors"]["rank"]
    for index, group in enumerate(tiny_bench.graph.groups):
        assert torch.equal(result.keep_U[group.units], rank_U[group.units] < kept[index])


def test_ratios_stay_within_their_bounds(tiny_bench):
    for trade_off in (0.0, 30.0):
        result = ran(tiny_bench, trade_off=trade_off).result()
        ratios = torch.tensor(result.ratios)
        assert float(ratios.max()) <= 1.0
        assert torch.all(ratios.min(dim=1).values >= tiny_bench.low_G - 1e-6)
        assert all(result.keep_U[g.units].any() for g in tiny_bench.graph.groups)


def test_a_group_kept_whole_does_not_move(tiny_bench):
    bench = copy.copy(tiny_bench)
    bench.low_G, bench.high_G = tiny_bench.low_G.clone(), tiny_bench.high_G.clone()
    bench.low_G[1] = 1.0
    start = torch.full_like(bench.low_G, 0.6)
    start[1] = 1.0
    result = ran(bench, start=start, trade_off=3.0).result()
    assert set(result.ratios[1]) == {1.0}
    assert result.keep_U[tiny_bench.graph.groups[1].units].all()


def test_a_baseline_trains_the_largest_units_and_nothing_else(tiny_bench):
    loop = make_loop(tiny_bench, fixed=True, start=0.5)
    before = copy.deepcopy(loop.model.state_dict())
    loop.run(loop.total_steps)
    result = loop.result()
    assert (result.weight_steps, result.num_ratio_steps) == (30, 0)
    assert result.ratios_G.tolist() == [0.5] * len(tiny_bench.graph.groups)
    counts = round_to_units(result.ratios_G, tiny_bench.graph, 1)
    rank = rank_units(tiny_bench.dense, tiny_bench.graph)
    for index, group in enumerate(tiny_bench.graph.groups):
        assert torch.equal(result.keep_U[group.units], rank[group.units] < counts[index])
    for name, layer in tiny_bench.graph.layers.items():
        removed = ~torch.cat([result.keep_U, torch.ones(1, dtype=torch.bool)])[layer.out_units]
        weight = loop.model.state_dict()[f"{name}.weight"]
        assert torch.equal(weight[removed], before[f"{name}.weight"][removed]), name
        assert not torch.equal(weight[~removed], before[f"{name}.weight"][~removed]), name


def test_a_budget_is_kept_and_filled(tiny_bench):
    cost = tiny_bench.cost
    result = ran(tiny_bench, budget_ratio=0.5, trade_off=1.0, start=0.9).result()
    counts = torch.tensor([int(result.keep_U[g.units].sum()) for g in tiny_bench.graph.groups])
    assert float(cost.macs(counts.double())) <= 0.5 * cost.dense_macs
    for index, group in enumerate(tiny_bench.graph.groups):
        larger = counts.double()
        larger[index] += 1
        full = counts[index] == group.num_units
        assert full or float(cost.macs(larger)) > 0.5 * cost.dense_macs


def test_progress_tells_every_step(tiny_bench):
    seen = []
    loop = make_loop(tiny_bench)
    loop.run(loop.total_steps, seen.append)
    assert [progress.step for progress in seen] == list(range(1, 21))
    assert seen[-1].macs_ratio == pytest.approx(loop.result().macs_ratio[-1])
    assert seen[-1].mean_ratio == pytest.approx(float(loop.result().ratios_G.mean()))


@pytest.mark.parametrize("fixed", [True, False])
def test_a_loss_that_is_not_finite_is_a_clear_error(tiny_bench, fixed):
    bench = copy.copy(tiny_bench)
    bench.data = copy.copy(tiny_bench.data)
    bench.data.loss = lambda logits, labels: logits.sum() * torch.inf
    with pytest.raises(ModelError, match=r"no longer finite at step \d+; lower inner"):
        ran(bench, fixed=fixed)


def test_the_compact_form_is_taken_where_it_pays(tiny_bench):
    def taken(**kwargs):
        return type(make_loop(tiny_bench, execution="auto", **kwargs)._execution).__name__

    assert taken() == "MaskedExecution", "tiny layers"
    assert taken(fixed=True) == "CompactExecution", "nothing is drawn, so nothing is gathered"


@pytest.mark.parametrize(
    ("model", "shape", "pays"),
    [(digits_net(), (1, 8, 8), False), (resnet20(), (3, 32, 32), True)],
)
def test_layers_with_much_work_pay(model, shape, pays):
    graph = trace_coupling(model, shape)
    assert _compact_pays(graph, torch.device("cpu"), 64, held=False) is pays
