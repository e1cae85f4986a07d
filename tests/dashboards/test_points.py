import dataclasses

from hypothesis import given
from hypothesis import strategies as st
from invented import invent_facts, latency, row

from automl_prune.tested import OnTest
from dashboards.points import (
    CLASSES,
    classify,
    cost_of,
    dense_cost,
    latency_hardware,
    on_test,
    thinned,
)

FACTS = invent_facts()


def test_every_trial_with_an_accuracy_is_in_exactly_one_class():
    rows = [
        row(0, 90.0, 500_000, kind="baseline"),
        row(1, 80.0, 300_000, kind="baseline"),
        row(2, 91.0, 400_000),
        row(3, 85.0, 450_000),
        row(4, 70.0, 100_000, state="pruned"),
        row(5, 94.0, 900_000, feasible=False),
        row(6, None, None, state="failed"),
        row(7, 94.0, 950_000, feasible=False, kind="baseline"),
    ]
    points = classify(rows, FACTS)
    numbers = {name: [r.number for r in points.by_class[name]] for name in CLASSES}
    assert numbers == {
        "front": [2],
        "dominated": [3],
        "uniform": [1, 0],
        "stopped": [4],
        "infeasible": [5, 7],
    }
    assert [r.number for r in points.uniform_front] == [1, 0]
    assert points.hidden == 0


def test_the_front_depends_on_the_axis():
    rows = [row(0, 90.0, 500_000, params=10), row(1, 85.0, 400_000, params=20)]
    assert [r.number for r in classify(rows, FACTS, "macs").by_class["front"]] == [1, 0]
    assert [r.number for r in classify(rows, FACTS, "params").by_class["front"]] == [0]


def test_latencies_of_other_hardware_are_left_out_and_counted():
    rows = [row(0, 90.0, 500_000), row(1, 91.0, 400_000, latency_hardware="Other CPU")]
    points = classify(rows, FACTS, "latency")
    assert [r.number for r in points.by_class["front"]] == [0]
    assert points.hidden == 1
    assert classify(rows, FACTS, "macs").hidden == 0


def test_without_a_dense_latency_most_trials_decide_the_hardware():
    facts = dataclasses.replace(FACTS, dense_latency=None)
    rows = [row(i, 90.0, 5, latency_hardware="B" if i else "A") for i in range(3)]
    assert latency_hardware(rows, facts) == "B"
    assert latency_hardware(rows, dataclasses.replace(FACTS, dense_latency=latency(1, "C"))) == "C"
    assert latency_hardware([], facts) is None
    assert dense_cost(facts, "latency") is None
    assert dense_cost(facts, "params") == facts.dense_params


@given(st.integers(1, 400), st.integers(20, 60))
def test_thinning_keeps_few_and_only_what_was_there(count, limit):
    rows = [row(i, float(i * 7919 % 101), i * 104729 % 9973) for i in range(count)]
    rows.sort(key=lambda r: r.macs)
    kept = thinned(rows, "macs", limit=limit, keep=(count - 1,))
    assert len(kept) <= limit + 1
    assert count - 1 in {r.number for r in kept}
    assert [r for r in rows if r in kept] == kept
    if count <= limit:
        assert kept == rows


def test_costs():
    one = row(0, 90.0, 500_000)
    assert (cost_of(one, "macs"), cost_of(one, "params")) == (500_000, 25_000)
    assert cost_of(one, "latency") == 5.0


def test_on_test_only_those_that_were_picked_stand():
    rows = [row(0, 90.0, 500_000), row(1, 85.0, 400_000), row(2, None, None, state="failed")]
    known = {0: OnTest(accuracy=88.5, num_images=100), 2: OnTest(accuracy=1.0, num_images=1)}
    assert [(r.number, r.accuracy, r.macs) for r in on_test(rows, known)] == [(0, 88.5, 500_000)]
    assert rows[0].accuracy == 90.0
