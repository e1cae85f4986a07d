import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.stats import spearmanr

from dashboards.importance import (
    TRADE_OFF,
    importance_figure,
    influences,
    rank_correlation,
)

VALUES = arrays(np.float64, 9, elements=st.integers(0, 5).map(float))


@given(VALUES, VALUES)
def test_rank_correlation_is_scipys(one, other):
    found = rank_correlation(one, other)
    if len(set(one)) == 1 or len(set(other)) == 1:
        assert found == 0.0
    else:
        assert found == pytest.approx(spearmanr(one, other).statistic)


def test_the_group_that_decides_accuracy_is_found(big_study):
    found, count = influences(big_study, big_study.rows(), big_study.facts)
    assert count == 195
    names = [item.name for item in found]
    assert names == [*(group.name for group in big_study.facts.groups), TRADE_OFF]
    strongest = max(found, key=lambda item: abs(item.accuracy))
    assert strongest.name == "stage0.conv"
    assert strongest.accuracy > 0.7
    assert abs(found[-1].accuracy) < 0.3
    assert all(item.macs > 0.5 for item in found[:-1])


def test_too_few_trials_say_nothing(stored_study):
    rows = stored_study.rows()[:6]
    assert influences(stored_study, rows, stored_study.facts)[0] == []


def test_bars_are_sorted_by_strength(big_study):
    found, _ = influences(big_study, big_study.rows(), big_study.facts)
    accuracy, macs = importance_figure(found).data
    strength = [max(abs(a), abs(m)) for a, m in zip(accuracy.x, macs.x, strict=True)]
    assert strength == sorted(strength, reverse=True)
