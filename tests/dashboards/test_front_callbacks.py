import pytest
from invented import invent_facts

from dashboards.front_callbacks import limits_of, numbers_of
from dashboards.limits import Limits

FACTS = invent_facts()


def test_sliders_at_their_ends_are_no_limits():
    assert limits_of([100, 100, 100, 20], FACTS) == Limits()
    assert limits_of([None] * 4, FACTS) == Limits()


def test_sliders_are_shares_of_the_dense_model():
    limits = limits_of([40, 50, 30, 1.5], FACTS)
    assert limits == Limits(
        max_macs=400_000, max_params=25_000, max_latency_ms=pytest.approx(3.0), max_drop=1.5
    )


def test_chosen_trials_of_another_study_do_not_count():
    chosen = {"study": ["a", 1], "numbers": [4, 5]}
    assert numbers_of(chosen, ["a", 1, 30]) == [4, 5]
    assert numbers_of(chosen, ["a", 2, 30]) == []
    assert numbers_of(None, ["a", 1, 30]) == []
    assert numbers_of(chosen, None) == []
