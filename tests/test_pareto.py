import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from automl_prune.pareto import front, hypervolume, knee

COARSE = st.tuples(st.integers(0, 6).map(float), st.integers(0, 6).map(float))
NUMBER = st.one_of(COARSE, st.tuples(st.floats(), st.floats()))
POINTS = st.lists(NUMBER, max_size=14)


def columns(points):
    return [p[0] for p in points], [p[1] for p in points]


def brute_force_front(points):
    def beats(a, b):
        return a[0] >= b[0] and a[1] <= b[1] and a != b

    finite = [i for i, p in enumerate(points) if all(map(math.isfinite, p))]
    chosen = []
    for i in finite:
        dominated = any(beats(points[j], points[i]) for j in finite)
        repeated = any(points[j] == points[i] for j in finite if j < i)
        if not dominated and not repeated:
            chosen.append(i)
    return sorted(chosen, key=lambda i: points[i][1])


@given(POINTS)
def test_front_is_what_comparing_all_pairs_gives(points):
    assert front(*columns(points)) == brute_force_front(points)


@given(POINTS)
def test_along_the_front_cost_and_accuracy_rise(points):
    chosen = [points[i] for i in front(*columns(points))]
    for (accuracy, cost), (next_accuracy, next_cost) in itertools.pairwise(chosen):
        assert next_cost > cost
        assert next_accuracy > accuracy


def test_of_equal_points_the_first_stays():
    assert front([5.0, 5.0, 5.0], [1.0, 1.0, 2.0]) == [0]


def test_points_that_are_not_finite_are_never_on_the_front():
    assert front([math.nan, 99.0, math.inf, 50.0], [1.0, math.nan, 1.0, 2.0]) == [3]
    assert front([99.0], [-math.inf]) == []
    assert front([], []) == []


def brute_force_hypervolume(points, chance, dense):
    """Sum over the cells of the grid that the coordinates themselves draw."""
    inside = [(a, c) for a, c in points if a > chance and c < dense]
    accuracies = sorted({chance, 100.0, *(a for a, _ in inside)})
    costs = sorted({0.0, dense, *(c for _, c in inside)})
    area = 0.0
    for low, high in itertools.pairwise(accuracies):
        for left, right in itertools.pairwise(costs):
            if any(a >= high and c <= left for a, c in inside):
                area += (high - low) * (right - left)
    return area / ((100.0 - chance) * dense)


@given(
    st.lists(st.tuples(st.floats(0, 100), st.floats(0, 1500)), max_size=10),
    st.sampled_from([0.0, 10.0, 50.0]),
)
def test_hypervolume_is_the_sum_of_grid_cells(points, chance):
    found = hypervolume(*columns(points), chance_accuracy=chance, dense_cost=1000.0)
    assert found == pytest.approx(brute_force_hypervolume(points, chance, 1000.0), abs=1e-9)
    assert -1e-12 <= found <= 1 + 1e-12


@pytest.mark.parametrize(
    ("points", "expected"),
    [
        ([], 0.0),
        ([(100.0, 0.0)], 1.0),
        ([(55.0, 50.0)], 0.25),
        ([(10.0, 1.0), (5.0, 1.0)], 0.0),  # chance and below
        ([(90.0, 100.0), (90.0, 200.0)], 0.0),  # dense cost and above
        ([(55.0, 50.0), (math.nan, 1.0)], 0.25),
    ],
)
def test_hypervolume_of_known_cases(points, expected):
    found = hypervolume(*columns(points), chance_accuracy=10.0, dense_cost=100.0)
    assert found == pytest.approx(expected)


@given(st.lists(COARSE, min_size=1, max_size=8), COARSE)
def test_another_point_never_lowers_the_hypervolume(points, extra):
    box = {"chance_accuracy": 1.0, "dense_cost": 7.0}
    assert (
        hypervolume(*columns([*points, extra]), **box)
        >= hypervolume(*columns(points), **box) - 1e-12
    )


BOX = {"dense_accuracy": 9.0, "dense_cost": 7.0, "worth": 4.0}


@given(st.lists(COARSE, min_size=1, max_size=12))
def test_knee_is_the_front_point_farthest_above_the_line_between_the_fixed_ends(points):
    chosen = front(*columns(points))
    found = knee(*columns(points), **BOX)
    assert found in chosen
    start, end = np.array([0.0, 9.0 - 4.0]), np.array([7.0, 9.0])
    scale = np.array([7.0, 4.0])
    along = (end - start) / scale
    offsets = [(np.array([cost, accuracy]) - start) / scale for accuracy, cost in points]
    distances = [(along[0] * v[1] - along[1] * v[0]) / math.sqrt(2) for v in offsets]
    assert distances[found] == pytest.approx(max(distances))


def test_knee_of_a_known_bend():
    box = {"dense_accuracy": 92.0, "dense_cost": 100.0, "worth": 10.0}
    assert knee([50.0, 88.0, 90.0, 91.0], [10.0, 20.0, 60.0, 100.0], **box) == 1
    assert knee([50.0, 80.0, 90.0, 91.0], [10.0, 20.0, 60.0, 100.0], **box) == 2


def test_knee_of_nothing_is_refused():
    with pytest.raises(ValueError, match="no finite point"):
        knee([math.nan], [1.0], **BOX)
