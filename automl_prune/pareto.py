"""Fronts of accuracy (up) against cost (down): non-dominated sets, knee, hypervolume."""

from __future__ import annotations

from typing import TYPE_CHECKING

import moocore
import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence


def front(accuracy_N: Sequence[float], cost_N: Sequence[float]) -> list[int]:
    """Indices of the non-dominated points, by rising cost.

    A point is dominated if another is at least as good in both and better in one. Of equal
    points the first stays. Points with NaN or infinite values are never on the front.

    Args:
        accuracy_N: larger is better.
        cost_N: smaller is better; same length.
    """
    accuracy, cost = np.asarray(accuracy_N, float), np.asarray(cost_N, float)
    usable = np.flatnonzero(np.isfinite(accuracy) & np.isfinite(cost))
    order = usable[np.lexsort((usable, -accuracy[usable], cost[usable]))]
    best, chosen = -np.inf, []
    for index in order:
        if accuracy[index] > best:
            best = accuracy[index]
            chosen.append(int(index))
    return chosen


def hypervolume(
    accuracy_N: Sequence[float],
    cost_N: Sequence[float],
    *,
    chance_accuracy: float,
    dense_cost: float,
) -> float:
    """Share of the box (chance..100 % accuracy) x (0..dense cost) that the points dominate.

    Args:
        accuracy_N: percent.
        cost_N: same unit as ``dense_cost``; same length.
        chance_accuracy: percent; points at or below it count for nothing.
        dense_cost: cost of the dense model; points at or above it count for nothing.

    Returns:
        A number in [0, 1]; 0 for no points.
    """
    chosen = front(accuracy_N, cost_N)
    if not chosen:
        return 0.0
    points = np.array([[100.0 - accuracy_N[i], cost_N[i] / dense_cost] for i in chosen])
    reference = np.array([100.0 - chance_accuracy, 1.0])
    return float(moocore.hypervolume(points, ref=reference) / reference[0])


def knee(
    accuracy_N: Sequence[float],
    cost_N: Sequence[float],
    *,
    dense_accuracy: float,
    dense_cost: float,
    worth: float,
) -> int:
    """Index of the front point farthest above the line from (0, dense - worth) to the dense model.

    The point farthest from the line between two ends is a knee after Das (1999, "On
    characterizing the knee of the Pareto curve based on normal-boundary intersection"). There the
    ends are the front's own; here they are fixed, which is ours: with the front's own, one useless
    model at the small end decides which of the others is the knee. Of equal points the one of the
    lowest cost.

    Args:
        accuracy_N: larger is better.
        cost_N: smaller is better; same length.
        dense_accuracy: of the dense model.
        dense_cost: of the dense model, same unit as ``cost_N``, > 0.
        worth: accuracy that the whole cost of the dense model is worth, > 0.

    Raises:
        ValueError: there is no finite point.
    """
    chosen = front(accuracy_N, cost_N)
    if not chosen:
        raise ValueError("no finite point to take a knee from")
    accuracy = np.asarray(accuracy_N, float)[chosen]
    cost = np.asarray(cost_N, float)[chosen]
    above = (accuracy - dense_accuracy) / worth - cost / dense_cost
    return chosen[int(np.argmax(above))]
