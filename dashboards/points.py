"""Trials as points of a figure: the class each is in, its place on an axis, which are drawn."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

from automl_prune.pareto import front

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from automl_prune.records import StudyFacts
    from automl_prune.report import ResultRow
    from automl_prune.tested import OnTest

Axis = Literal["macs", "params", "latency"]
Split = Literal["select", "test"]
PointClass = Literal["front", "dominated", "uniform", "stopped", "infeasible"]
CLASSES: tuple[PointClass, ...] = get_args(PointClass)

GRID = (180, 120)
"""Cells of a figure's area; of a crowd of points of one class, one per cell is drawn."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Points:
    """The trials of a study on one cost axis; no trial is in two classes."""

    axis: Axis
    by_class: dict[PointClass, tuple[ResultRow, ...]]
    """By rising cost."""
    uniform_front: tuple[ResultRow, ...]
    """The front of the uniform trials alone, by rising cost."""
    hidden: int
    """Trials that have an accuracy but no cost on this axis that can be compared."""


def cost_of(row: ResultRow, axis: Axis) -> float | None:
    """What a trial costs: MACs, parameters or milliseconds."""
    if axis == "macs":
        return row.macs
    return row.params if axis == "params" else row.latency_ms


def dense_cost(facts: StudyFacts, axis: Axis) -> float | None:
    """The same of the dense model; None where it was not measured."""
    if axis == "macs":
        return float(facts.dense_macs)
    if axis == "params":
        return float(facts.dense_params)
    return None if facts.dense_latency is None else facts.dense_latency.median_ms


def latency_hardware(rows: Sequence[ResultRow], facts: StudyFacts) -> str | None:
    """The hardware whose latencies are shown: the dense model's, else that of most trials."""
    if facts.dense_latency is not None:
        return facts.dense_latency.hardware
    seen = [row.latency_hardware for row in rows if row.latency_hardware is not None]
    return max(sorted(set(seen)), key=seen.count) if seen else None


def classify(rows: Sequence[ResultRow], facts: StudyFacts, axis: Axis = "macs") -> Points:
    """Every trial that has an accuracy and a cost, in its class.

    Args:
        rows: of a study.
        facts: of the study.
        axis: what the front trades accuracy against; latencies of hardware other than
            :func:`latency_hardware` are left out.
    """
    hardware = latency_hardware(rows, facts) if axis == "latency" else None
    measured = [row for row in rows if row.accuracy is not None]
    placed = [
        row
        for row in measured
        if cost_of(row, axis) is not None
        and (axis != "latency" or row.latency_hardware == hardware)
    ]
    placed.sort(key=lambda row: (cost_of(row, axis) or 0.0, row.number))
    found = _front([row for row in placed if row.usable and row.kind == "search"], axis)
    on_front = {row.number for row in found}
    by_class: dict[PointClass, list[ResultRow]] = {name: [] for name in CLASSES}
    for row in placed:
        by_class[_class_of(row, on_front)].append(row)
    return Points(
        axis=axis,
        by_class={name: tuple(members) for name, members in by_class.items()},
        uniform_front=tuple(_front(by_class["uniform"], axis)),
        hidden=len(measured) - len(placed),
    )


def on_test(rows: Sequence[ResultRow], tested: Mapping[int, OnTest]) -> list[ResultRow]:
    """Rows whose model was measured on ``test``, with that accuracy in place of the other."""
    return [
        dataclasses.replace(row, accuracy=tested[row.number].accuracy)
        for row in rows
        if row.number in tested and row.accuracy is not None
    ]


def _front(rows: Sequence[ResultRow], axis: Axis) -> list[ResultRow]:
    chosen = front(
        [row.accuracy or 0.0 for row in rows], [cost_of(row, axis) or 0.0 for row in rows]
    )
    return [rows[index] for index in chosen]


def _class_of(row: ResultRow, on_front: Collection[int]) -> PointClass:
    if row.state == "pruned":
        return "stopped"
    if not row.feasible:
        return "infeasible"
    if row.kind == "baseline":
        return "uniform"
    return "front" if row.number in on_front else "dominated"


def thinned(
    rows: Sequence[ResultRow], axis: Axis, *, limit: int, keep: Collection[int] = ()
) -> list[ResultRow]:
    """At most about ``limit`` rows that look the same on a figure: one per cell of a fine grid.

    Args:
        rows: of one class.
        axis: of the figure.
        limit: no thinning below; beyond it the grid is made coarser until they are few enough.
        keep: numbers that stay whatever the crowd.
    """
    if len(rows) <= limit:
        return list(rows)
    costs = [cost_of(row, axis) or 0.0 for row in rows]
    accuracies = [row.accuracy or 0.0 for row in rows]
    left, bottom = min(costs), min(accuracies)
    width = (max(costs) - left) or 1.0
    height = (max(accuracies) - bottom) or 1.0
    columns, lines = GRID
    chosen: dict[tuple[int, int], ResultRow] = {}
    while True:
        for row, cost, accuracy in zip(rows, costs, accuracies, strict=True):
            cell = (
                int((cost - left) / width * columns),
                int((accuracy - bottom) / height * lines),
            )
            chosen.setdefault(cell, row)
        if len(chosen) <= limit or min(columns, lines) <= 2:
            break
        columns, lines = columns * 3 // 4, lines * 3 // 4
        chosen.clear()
    numbers = {row.number for row in chosen.values()} | set(keep)
    return [row for row in rows if row.number in numbers]
