import pytest
from made_up_trials import made_up_config, made_up_facts

from automl_prune.config import expected_macs_ratio
from automl_prune.space import Space
from automl_prune.sweep import swept_ratios, swept_trade_off


@pytest.fixture
def space():
    return Space.of(made_up_config(search={"tradeoff": [0.1, 10.0]}), made_up_facts())


@pytest.mark.parametrize("planned", [1, 3, 8, 19, 31, 200])
def test_a_sweep_stays_in_its_range_and_reaches_both_ends(space, planned):
    found = [swept_trade_off(space, index, planned) for index in range(planned)]
    assert all(0.1 <= trade_off <= 10.0 for trade_off in found)
    assert len(set(found)) == planned
    if planned >= 8:
        assert min(found) < 0.2
        assert max(found) > 5.0


def test_the_sweep_ends_at_the_smallest_model_that_there_is():
    facts = made_up_facts(min_macs=300_000, dense_macs=1_000_000)
    space = Space.of(made_up_config(search={"tradeoff": [0.1, 100.0]}), facts)
    found = [swept_trade_off(space, index, 40) for index in range(40)]
    assert 0.3 <= expected_macs_ratio(max(found)) < 0.35
    assert min(found) < 0.15


def test_more_trials_than_were_planned_go_on_between_the_earlier_ones(space):
    found = [swept_trade_off(space, index, 8) for index in range(24)]
    assert len(set(found)) == 24


def test_ratios_start_at_the_width_that_gives_the_expected_macs(space):
    ratios = swept_ratios(space, 1.0, {}, 1.0)
    assert set(ratios) == {"l0", "l1", "l2"}
    assert all(r**2 == pytest.approx(expected_macs_ratio(1.0)) for r in ratios.values())


def test_ratios_keep_the_proportions_of_the_parent(space):
    kept = {"l0": 0.8, "l1": 0.4, "l2": 0.6}
    ratios = swept_ratios(space, 3.0, kept, 0.5)
    shrink = (0.25 / 0.5) ** 0.5
    assert ratios == pytest.approx({name: share * shrink for name, share in kept.items()})


def test_ratios_never_leave_their_range_and_never_grow(space):
    assert swept_ratios(space, 10.0, {"l0": 0.1, "l1": 1.0, "l2": 1.0}, 1.0)["l0"] == 0.1
    assert swept_ratios(space, 0.1, {"l0": 0.5, "l1": 0.5, "l2": 0.5}, 0.2)["l0"] == 0.5
