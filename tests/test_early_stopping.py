import pytest

from automl_prune.early_stopping import RUNG_SHARES, Rule, Rung, is_hopeless, rung_steps

RUNG = Rung(number=1, step=30, accuracy=80.0, macs=500)


def test_rungs_lie_where_a_trial_can_be_interrupted():
    assert rung_steps(120, 5) == {0: 0, 30: 1, 60: 2}
    assert rung_steps(300, 5) == {0: 0, 75: 1, 150: 2}
    assert all(step % 5 == 0 for step in rung_steps(17, 5))


def test_rungs_that_fall_together_or_on_the_end_are_left_out():
    assert rung_steps(4, 5) == {0: 0}
    assert rung_steps(0, 5) == {}
    assert len(rung_steps(1000, 5)) == len(RUNG_SHARES)


@pytest.mark.parametrize(
    ("finished", "stops"),
    [
        ([], False),
        ([(85.0, 500)], False),  # one is not enough
        ([(85.0, 500), (85.0, 400)], True),
        ([(85.0, 500), (84.9, 400)], False),  # not by the margin
        ([(85.0, 500), (99.0, 501)], False),  # larger models may be better
        ([(70.0, 100), (90.0, 400), (90.0, 450)], True),
    ],
)
def test_enough_must_be_ahead_by_the_margin_with_at_most_as_many_macs(finished, stops):
    assert is_hopeless(RUNG, finished, Rule(dominators=2, margin=5.0)) is stops
