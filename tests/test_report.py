import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_up_trials import made_up_facts, made_up_latency

from automl_prune.errors import LimitError, StudyNotFoundError
from automl_prune.pareto import hypervolume
from automl_prune.report import (
    FEWEST_TO_COMPARE,
    ResultRow,
    chance_accuracy,
    compare_with_uniform,
    hypervolume_curve,
    pareto_rows,
    pick,
)

FACTS = made_up_facts(dense_latency=made_up_latency(8.0, "CPU"))


def row(number, accuracy=90.0, macs=500_000, **fields):
    content = {
        "number": number,
        "kind": "search",
        "state": "complete",
        "finish_order": number + 1,
        "finished_at": 0.0,
        "seconds": 1.0,
        "trade_off": 0.5,
        "accuracy": accuracy,
        "loss": 1.0,
        "macs": macs,
        "macs_ratio": macs / 1e6,
        "params": macs // 100,
        "latency_ms": macs / 1e5,
        "latency_hardware": "CPU",
        "feasible": True,
        "error": None,
    }
    return ResultRow(**{**content, **fields})


FAILED = dataclasses.replace(
    row(90),
    state="failed",
    error="boom",
    accuracy=None,
    macs=None,
    macs_ratio=None,
    feasible=False,
)

points = st.lists(
    st.tuples(
        st.integers(0, 40).map(lambda v: 60 + v / 2),
        st.integers(1, 30).map(lambda v: v * 30_000),
        st.sampled_from(["search", "search", "baseline"]),
        st.booleans() | st.just(True),
    ),
    min_size=1,
    max_size=25,
)


def rows_of(drawn):
    return [
        row(n, accuracy, macs, kind=kind, feasible=feasible, params=(n * 7919) % 5000)
        for n, (accuracy, macs, kind, feasible) in enumerate(drawn)
    ]


def candidates(rows):
    return [r for r in rows if r.usable and r.kind == "search"]


@given(points)
def test_the_front_is_what_nothing_dominates(drawn):
    rows = rows_of(drawn)
    usable = candidates(rows)
    found = pareto_rows(rows)
    expected = {
        (r.accuracy, r.macs)
        for r in usable
        if not any(
            (o.accuracy >= r.accuracy and o.macs <= r.macs)
            and (o.accuracy, o.macs) != (r.accuracy, r.macs)
            for o in usable
        )
    }
    assert {(r.accuracy, r.macs) for r in found} == expected
    assert [r.macs for r in found] == sorted(r.macs for r in found)


@given(points, st.integers(0, 1_000_000))
def test_a_pick_by_macs_is_the_best_that_fits(drawn, limit):
    usable = candidates(rows := rows_of(drawn))
    fitting = [r for r in usable if r.macs <= limit]
    if not usable:
        with pytest.raises(StudyNotFoundError, match="nothing to pick from"):
            pick(rows, FACTS, max_macs=limit)
    elif not fitting:
        nearest = min(r.macs for r in usable)
        with pytest.raises(LimitError, match=f"the nearest has {nearest:,} "):
            pick(rows, FACTS, max_macs=limit)
    else:
        found = pick(rows, FACTS, max_macs=limit)
        best = max(fitting, key=lambda r: (r.accuracy, -r.macs, -r.number))
        assert found == best


@given(points, st.integers(0, 5000))
def test_a_pick_by_parameters_is_the_best_that_fits(drawn, limit):
    rows = rows_of(drawn)
    fitting = [r for r in candidates(rows) if r.params <= limit]
    if fitting:
        best = max(fitting, key=lambda r: (r.accuracy, -r.params, -r.macs, -r.number))
        assert pick(rows, FACTS, max_params=limit) == best


@given(points, st.integers(0, 80).map(lambda v: v / 2))
def test_a_pick_by_drop_is_the_smallest_that_loses_little_enough(drawn, drop):
    rows = rows_of(drawn)
    usable = candidates(rows)
    fitting = [r for r in usable if 95.0 - r.accuracy <= drop]
    if fitting:
        best = min(fitting, key=lambda r: (r.macs, -r.accuracy, r.number))
        assert pick(rows, FACTS, max_drop=drop) == best
    elif usable:
        least = min(95.0 - r.accuracy for r in usable)
        with pytest.raises(LimitError, match=f"the nearest loses {least:.2f}"):
            pick(rows, FACTS, max_drop=drop)


def test_a_drop_of_exactly_the_limit_is_allowed():
    facts = dataclasses.replace(FACTS, dense_accuracy=91.1)
    assert pick([row(0, 91.1 - 0.3)], facts, max_drop=0.3).number == 0


@given(points)
def test_the_knee_is_the_one_that_gains_most(drawn):
    rows = rows_of(drawn)
    usable = candidates(rows)
    worth = 0.1 * (95.0 - chance_accuracy(FACTS))

    def gain(r):
        return r.accuracy / worth - r.macs / 1e6

    if usable:
        found = pick(rows, FACTS, knee=True)
        assert gain(found) == pytest.approx(max(gain(r) for r in usable))
        assert found in pareto_rows(rows)


DIGITS_FRONT = [  # a front that was really found
    (38.94, 2_292),
    (72.81, 2_338),
    (79.26, 2_734),
    (80.18, 3_526),
    (80.65, 6_586),
    (87.79, 9_970),
    (89.63, 10_654),
    (89.86, 13_426),
    (91.24, 16_702),
    (91.94, 18_034),
    (92.63, 23_470),
    (93.78, 30_634),
]


def test_the_knee_of_a_front_does_not_hang_on_its_useless_end():
    facts = made_up_facts(dense_accuracy=94.01, dense_macs=36_944, class_names=tuple("0123456789"))
    rows = [row(i, *point) for i, point in enumerate(DIGITS_FRONT)]
    assert pick(rows, facts, knee=True).accuracy == 91.94
    assert pick(rows[3:], facts, knee=True).accuracy == 91.94


def test_the_knee_of_a_metric_below_chance_is_no_division_by_nothing():
    facts = made_up_facts(dense_accuracy=3.0)
    assert pick([row(0, 1.0, 100_000), row(1, 2.9, 200_000)], facts, knee=True).number == 1


@given(points, st.integers(0, 1000).map(lambda v: v / 100))
def test_a_pick_by_latency_is_the_best_that_fits(drawn, limit):
    rows = rows_of(drawn)
    usable = candidates(rows)
    fitting = [r for r in usable if r.latency_ms <= limit]
    if fitting:
        best = max(fitting, key=lambda r: (r.accuracy, -r.latency_ms, -r.macs, -r.number))
        assert pick(rows, FACTS, max_latency_ms=limit) == best
    elif usable:
        with pytest.raises(LimitError, match="the nearest has"):
            pick(rows, FACTS, max_latency_ms=limit)


def test_a_trial_is_picked_whatever_it_is_but_failed():
    rows = [row(0, kind="baseline"), row(1, feasible=False), FAILED]
    assert pick(rows, FACTS, trial=0).number == 0
    assert pick(rows, FACTS, trial=1).number == 1
    with pytest.raises(StudyNotFoundError, match=r"trial 90 failed and has no model: boom"):
        pick(rows, FACTS, trial=90)
    with pytest.raises(StudyNotFoundError, match=r"no finished trial 7 .* finished are 0 to 90"):
        pick(rows, FACTS, trial=7)
    with pytest.raises(StudyNotFoundError, match="none has finished"):
        pick([], FACTS, trial=0)


def test_latencies_of_other_hardware_are_not_compared():
    rows = [
        row(0, 99.0, latency_ms=0.1, latency_hardware="GPU"),
        row(1, 90.0, latency_ms=3.0),
        row(2, 91.0, latency_ms=5.0),
        row(3, 99.0, latency_ms=None),
    ]
    assert pick(rows, FACTS, max_latency_ms=4.0).number == 1
    assert pick(rows, FACTS, max_latency_ms=6.0).number == 2
    with pytest.raises(LimitError, match=r"at most 1 ms on CPU; the nearest has 3 \(trial 1"):
        pick(rows, FACTS, max_latency_ms=1.0)
    with pytest.raises(
        LimitError, match=r"no latency was measured on CPU; .* GPU, not comparable"
    ):
        pick(rows[:1], FACTS, max_latency_ms=1.0)


def spread(kind, first, gain, count=4):
    return [
        row(first + i, 70.0 + 5 * i + gain, 200_000 * (i + 1) - 50_000, kind=kind)
        for i in range(count)
    ]


def test_a_search_that_is_better_everywhere_beats_uniform_pruning():
    rows = spread("baseline", 0, 0.0) + spread("search", 4, 3.0)
    found = compare_with_uniform(rows, FACTS)
    assert found.num_trials == 4
    assert found.hv_search > found.hv_uniform
    assert found.num_dominated == 4
    assert found.sentence.startswith("the search beats uniform pruning by ")


def test_a_search_that_is_worse_everywhere_does_not():
    rows = spread("baseline", 0, 3.0) + spread("search", 4, 0.0)
    found = compare_with_uniform(rows, FACTS)
    assert found.hv_search < found.hv_uniform
    assert found.num_dominated == 0
    assert found.sentence.startswith("uniform pruning is ahead of the search by ")


def test_equal_trials_are_level():
    rows = spread("baseline", 0, 0.0) + spread("search", 4, 0.0)
    assert compare_with_uniform(rows, FACTS).sentence.startswith("the search and uniform pruning")


def test_more_trials_alone_do_not_win():
    """Ten copies of the same front are drawn from at equal numbers: no better than one."""
    rows = spread("baseline", 0, 0.0)
    for copy in range(10):
        rows += spread("search", 4 + 4 * copy, 0.0)
    found = compare_with_uniform(rows, FACTS)
    assert found.hv_search < found.hv_uniform
    assert found.hv_search_all == pytest.approx(found.hv_uniform)
    assert compare_with_uniform(rows, FACTS) == found


def test_too_few_trials_say_nothing():
    rows = spread("baseline", 0, 0.0)[:2] + spread("search", 4, 3.0)
    found = compare_with_uniform(rows, FACTS)
    assert found.hv_search is None
    assert "too few trials" in found.sentence
    assert f"at least {FEWEST_TO_COMPARE}" in found.sentence
    assert compare_with_uniform([], FACTS).hv_search_all is None


@given(points)
def test_the_hypervolume_curve_is_the_hypervolume_of_what_has_finished(drawn):
    rows = [*rows_of(drawn), FAILED]
    curve = hypervolume_curve(rows, FACTS, kinds=("search",))
    assert [count for count, _ in curve] == list(range(1, len(rows) + 1))
    for count, value in curve:
        done = candidates(sorted(rows, key=lambda r: r.finish_order)[:count])
        assert value == pytest.approx(
            hypervolume(
                [r.accuracy for r in done],
                [r.macs for r in done],
                chance_accuracy=chance_accuracy(FACTS),
                dense_cost=1e6,
            )
        )


def test_guessing_is_as_good_as_there_are_classes():
    assert chance_accuracy(FACTS) == 10.0


def test_a_front_of_latencies_leaves_out_what_was_not_measured():
    rows = [
        row(0, accuracy=80.0, macs=100, latency_ms=3.0),
        row(1, accuracy=90.0, macs=200, latency_ms=2.0),
        row(2, accuracy=95.0, macs=300, latency_ms=4.0),
        row(3, accuracy=99.0, macs=50, latency_ms=None),
    ]
    assert [r.number for r in pareto_rows(rows, objective="latency")] == [1, 2]
    assert [r.number for r in pareto_rows(rows)] == [3]
