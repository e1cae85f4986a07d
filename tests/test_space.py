import dataclasses
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_up_trials import made_up_config, made_up_facts, made_up_latency, made_up_record

from automl_prune.errors import ConfigError
from automl_prune.space import TRADE_OFF, Space, constraint_values, objective_values
from automl_prune.study import Assignment


def bounded(*bounds):
    facts = made_up_facts(len(bounds))
    groups = tuple(
        dataclasses.replace(group, low=low, high=high)
        for group, (low, high) in zip(facts.groups, bounds, strict=True)
    )
    return dataclasses.replace(facts, groups=groups)


def space(*bounds, **search):
    config = made_up_config(search={"ratio": [0.3, 0.9], "tradeoff": [0.25, 4.0], **search})
    return Space.of(config, bounded(*bounds))


def assignment(**ratios):
    return Assignment(number=0, kind="search", ratios=ratios, trade_off=1.0, seed=1, token="t")


def test_every_group_that_can_vary_has_a_parameter():
    found = space((0.1, 1.0), (0.5, 0.6), (1.0, 1.0))
    assert list(found.ranges) == ["ratio/l0", "ratio/l1", TRADE_OFF]
    assert (found.ranges["ratio/l0"].low, found.ranges["ratio/l0"].high) == (0.3, 0.9)
    assert (found.ranges["ratio/l1"].low, found.ranges["ratio/l1"].high) == (0.5, 0.6)
    assert found.ranges[TRADE_OFF].log
    assert found.held == {}, "a group that is kept whole is left out"


def test_a_group_out_of_the_searched_range_is_held_at_its_nearest_bound():
    found = space((0.95, 0.98), (0.1, 0.2), (0.5, 0.5))
    assert found.held == {"l0": 0.95, "l1": 0.2, "l2": 0.5}
    assert list(found.ranges) == [TRADE_OFF]
    assert found.baseline(0)[0] == found.held


def test_baselines_are_uniform_and_spread_over_the_range():
    found = space((0.1, 1.0), (0.1, 1.0), baselines=4)
    ratios = [found.baseline(number)[0] for number in range(4)]
    assert [r["l0"] for r in ratios] == pytest.approx([0.3, 0.5, 0.7, 0.9])
    assert all(r["l0"] == r["l1"] for r in ratios)
    assert found.baseline(0)[1] == pytest.approx(1.0)


def test_one_baseline_is_in_the_middle():
    assert space((0.1, 1.0), baselines=1).baseline(0)[0]["l0"] == pytest.approx(0.6)


@given(
    st.lists(st.tuples(st.floats(0.05, 1.0), st.floats(0.05, 1.0)), min_size=1, max_size=5),
    st.integers(1, 7),
)
def test_baselines_keep_every_bound_and_are_parameters_that_optuna_takes(pairs, count):
    bounds = [tuple(sorted(pair)) for pair in pairs]
    found = space(*bounds, baselines=count)
    for number in range(count):
        ratios, trade_off = found.baseline(number)
        params = found.to_params(ratios, trade_off)
        assert found.from_params(params) == (ratios, trade_off)
        for index, (low, high) in enumerate(bounds):
            assert low <= ratios.get(f"l{index}", 1.0) <= high


def test_a_value_out_of_its_range_is_refused():
    found = space((0.1, 1.0))
    with pytest.raises(ValueError, match=r"ratio/l0 is 0\.95, allowed 0\.3 to 0\.9"):
        found.to_params({"l0": 0.95}, 1.0)
    with pytest.raises(ValueError, match="ratio/l0 is missing"):
        found.to_params({}, 1.0)
    with pytest.raises(ValueError, match="tradeoff is nan"):
        found.to_params({"l0": 0.5}, math.nan)


def test_objectives_are_accuracy_and_the_cost_that_was_asked_for():
    record = made_up_record(assignment(l0=0.5), latency=made_up_latency(2.5))
    assert objective_values(made_up_config(), record) == (record.accuracy, record.macs)
    by_latency = made_up_config(search={"objective": "latency"})
    assert objective_values(by_latency, record) == (record.accuracy, 2.5)
    with pytest.raises(ConfigError, match="measure_latency"):
        objective_values(by_latency, dataclasses.replace(record, latency=None))


def test_constraints_are_positive_exactly_beyond_a_limit():
    limits = {
        "min_accuracy": 90.0,
        "max_macs": 250_000,
        "max_macs_ratio": 0.5,
        "max_latency_ms": 2.0,
    }
    config, facts = made_up_config(search={"limits": limits}), made_up_facts()
    record = made_up_record(
        assignment(l0=0.5), accuracy=90.0, macs=250_001, latency=made_up_latency(3.0)
    )
    values = constraint_values(config, facts, record)
    assert values["min_accuracy"] == 0.0
    assert values["max_macs"] > 0
    assert values["max_macs_ratio"] == pytest.approx(-0.249999)
    assert values["max_latency_ms"] == 1.0
    assert constraint_values(made_up_config(), facts, record) == {}
