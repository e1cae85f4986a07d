import pytest
from hypothesis import given
from hypothesis import strategies as st
from invented import invent_facts, row

from automl_prune.errors import LimitError
from automl_prune.report import pick
from dashboards.limits import Limits, best_within

FACTS = invent_facts()
ROWS = st.lists(
    st.tuples(st.integers(500, 990), st.integers(1, 100), st.booleans(), st.booleans()),
    min_size=1,
    max_size=12,
).map(
    lambda items: [
        row(i, a / 10, m * 10_000, feasible=ok, kind="search" if search else "baseline")
        for i, (a, m, ok, search) in enumerate(items)
    ]
)
NAMES = {
    "max_macs": st.integers(10_000, 1_000_000),
    "max_params": st.integers(500, 50_000),
    "max_latency_ms": st.integers(1, 100).map(lambda v: v / 10),
    "max_drop": st.integers(0, 450).map(lambda v: v / 10),
}


@pytest.mark.parametrize("name", NAMES)
@given(data=st.data())
def test_a_single_limit_names_what_pick_gives(name, data):
    rows, value = data.draw(ROWS), data.draw(NAMES[name])
    best = best_within(rows, FACTS, Limits(**{name: value}))
    expected, refusal = picked(rows, name, value)
    assert best.row == expected
    if expected is None:
        assert best.why == refusal
    else:
        assert best.options == f"--{name.replace('_', '-')} {value:.10g}"


def picked(rows, name, value):
    try:
        return pick(rows, FACTS, **{name: value}), ""
    except (LimitError, LookupError) as error:
        return None, str(error)


@given(rows=ROWS, macs=NAMES["max_macs"], drop=NAMES["max_drop"])
def test_several_limits_give_the_most_accurate_that_keeps_all(rows, macs, drop):
    best = best_within(rows, FACTS, Limits(max_macs=macs, max_drop=drop))
    fitting = [
        r
        for r in rows
        if r.usable and r.kind == "search" and r.macs <= macs and 95.0 - r.accuracy <= drop
    ]
    if fitting:
        assert best.row.accuracy == max(r.accuracy for r in fitting)
        assert best.row in fitting
        assert best.options == f"--trial {best.row.number}"
    else:
        assert best.row is None
        assert "loosen one" in best.why


def test_without_limits_it_is_the_knee():
    rows = [row(0, 60.0, 100_000), row(1, 93.0, 200_000), row(2, 94.0, 900_000)]
    best = best_within(rows, FACTS, Limits())
    assert (best.row.number, best.options) == (1, "--knee")


def test_an_empty_study_says_so():
    assert "nothing to pick from" in best_within([], FACTS, Limits()).why


def test_what_fits():
    one = row(0, 90.0, 500_000)
    assert Limits().fits(one, FACTS, "Test CPU")
    assert Limits(max_macs=500_000, max_params=25_000, max_latency_ms=5.0, max_drop=5.0).fits(
        one, FACTS, "Test CPU"
    )
    for limits in (
        Limits(max_macs=499_999),
        Limits(max_params=24_999),
        Limits(max_latency_ms=4.9),
        Limits(max_drop=4.9),
    ):
        assert not limits.fits(one, FACTS, "Test CPU")
    assert not Limits(max_latency_ms=50.0).fits(one, FACTS, "Other CPU")
    assert not Limits().fits(row(1, None, None, state="failed"), FACTS, None)
