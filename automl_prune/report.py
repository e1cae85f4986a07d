"""Reading a study's rows: fronts, picks, and whether the search beat uniform pruning."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from automl_prune.errors import LimitError, StudyNotFoundError
from automl_prune.pareto import front, hypervolume, knee

if TYPE_CHECKING:
    from collections.abc import Sequence

    from automl_prune.records import StudyFacts, TrialKind

RowState = Literal["complete", "pruned", "failed"]
FEWEST_TO_COMPARE = 3
"""Baseline and search trials below which nothing is said about who is ahead."""
SUBSETS = 200
"""Drawn to find the mean hypervolume of as many search trials as there are baselines."""

KNEE_SHARE = 0.1
"""Share of the dense model's accuracy above chance that all of its MACs are worth at the knee."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ResultRow:
    """One finished trial, as readers see it; numbers are None where the trial failed."""

    number: int
    kind: TrialKind
    state: RowState
    finish_order: int
    """1 for the trial that finished first."""
    finished_at: float
    """Seconds since 1970."""
    seconds: float | None
    """Computing time of the trial."""
    trade_off: float
    accuracy: float | None
    """Percent, on ``select``."""
    loss: float | None
    macs: int | None
    macs_ratio: float | None
    """MACs over those of the dense model."""
    params: int | None
    latency_ms: float | None
    latency_hardware: str | None
    """Latencies of different hardware are never compared."""
    feasible: bool
    """Whether it keeps the study's limits."""
    error: str | None
    """One line, of a failed trial."""

    @property
    def usable(self) -> bool:
        """Whether it can stand on a front: complete and feasible."""
        return self.state == "complete" and self.feasible

    @property
    def shown_state(self) -> str:
        """The state in words: nobody shall take a trial that was stopped for a pruned model."""
        return state_in_words(self.state)


def state_in_words(state: str) -> str:
    """What people are shown of a trial's state."""
    return "stopped early" if state == "pruned" else state


@dataclass(frozen=True, slots=True, kw_only=True)
class UniformComparison:
    """The search's front against that of the uniform baseline, at equal numbers of trials."""

    sentence: str
    num_trials: int
    """Trials on each side of the comparison."""
    hv_search: float | None
    """Mean hypervolume of so many search trials; None: too few trials."""
    hv_uniform: float | None
    """Hypervolume of so many uniform trials."""
    hv_search_all: float | None
    """Hypervolume of all search trials."""
    num_dominated: int
    """Uniform trials on their own front that some search trial dominates."""


def pareto_rows(
    rows: Sequence[ResultRow],
    *,
    kinds: Sequence[TrialKind] = ("search",),
    objective: Literal["macs", "latency"] = "macs",
) -> list[ResultRow]:
    """The front of accuracy against a cost, by rising cost.

    Args:
        rows: of a study.
        kinds: what counts; the found front leaves the uniform baseline out.
        objective: the cost, as ``search.objective`` names it; trials whose latency was not
            measured are not on a front of latencies.
    """
    usable = [row for row in rows if row.usable and row.kind in kinds]
    if objective == "latency":
        costs = [math.nan if row.latency_ms is None else row.latency_ms for row in usable]
    else:
        costs = [float(_macs(row)) for row in usable]
    chosen = front([_accuracy(row) for row in usable], costs)
    return [usable[index] for index in chosen]


def pick(
    rows: Sequence[ResultRow],
    facts: StudyFacts,
    *,
    trial: int | None = None,
    max_macs: float | None = None,
    max_params: float | None = None,
    max_latency_ms: float | None = None,
    max_drop: float | None = None,
    knee: bool | None = None,
) -> ResultRow:
    """One model, by exactly one of the ways to choose.

    Args:
        rows: of a study.
        facts: of the study.
        trial: this one, whatever its kind, feasible or not.
        max_macs: the most accurate with at most so many MACs.
        max_params: ... so many parameters.
        max_latency_ms: ... so many milliseconds, on the hardware of the dense model.
        max_drop: the fewest MACs that lose at most so many points against the dense model.
        knee: the knee of the front: the model that gains most, where all MACs of the dense model
            are worth ``KNEE_SHARE`` of its accuracy above chance.

    Ties go to the fewer MACs, then to the earlier trial. All but ``trial`` choose among feasible,
    complete search trials.

    Raises:
        LimitError: nothing satisfies the limit; the nearest reachable one is named.
        StudyNotFoundError: no such trial, one without a model, or nothing to choose from yet.
    """
    if trial is not None:
        return _by_number(rows, trial)
    usable = [row for row in rows if row.usable and row.kind == "search"]
    if not usable:
        raise StudyNotFoundError(
            f"nothing to pick from: the study has {len(rows)} finished trials, none of them a "
            "complete, feasible search trial; run `automl-prune search` first"
        )
    if max_macs is not None:
        return _best_below(usable, [float(_macs(r)) for r in usable], max_macs, "MACs")
    if max_params is not None:
        params = [float(r.params or 0) for r in usable]
        return _best_below(usable, params, max_params, "parameters")
    if max_latency_ms is not None:
        return _by_latency(usable, facts, max_latency_ms)
    if max_drop is not None:
        return _by_drop(usable, facts, max_drop)
    assert knee, "exactly one way to choose"
    return usable[_knee_of(usable, facts)]


def compare_with_uniform(rows: Sequence[ResultRow], facts: StudyFacts) -> UniformComparison:
    """Whether the search beat uniform pruning, by hypervolume at equal numbers of trials.

    The search has more trials than the baseline, so as many as the baseline has are drawn from
    them, again and again (seeded), and the mean is compared. If the baseline has more, it is the
    one that is drawn from. Trials that were stopped early count, with what they had reached.
    """
    search = [
        row for row in rows if row.kind == "search" and (row.usable or row.state == "pruned")
    ]
    uniform = [row for row in rows if row.usable and row.kind == "baseline"]
    count = min(len(search), len(uniform))
    dominated = sum(
        any(_dominates(row, other) for row in search)
        for other in pareto_rows(rows, kinds=("baseline",))
    )
    if count < FEWEST_TO_COMPARE:
        return UniformComparison(
            sentence=f"too few trials to compare the search with uniform pruning: {len(search)} "
            f"search and {len(uniform)} uniform trials, at least {FEWEST_TO_COMPARE} of each are "
            "needed",
            num_trials=count,
            hv_search=None,
            hv_uniform=None,
            hv_search_all=_hypervolume(search, facts) if search else None,
            num_dominated=dominated,
        )
    hv_search = _mean_hypervolume(search, count, facts)
    hv_uniform = _mean_hypervolume(uniform, count, facts)
    hv_all = _hypervolume(search, facts)
    difference = hv_search - hv_uniform
    if difference > 0:
        verdict = f"the search beats uniform pruning by {difference:.4f}"
    elif difference < 0:
        verdict = f"uniform pruning is ahead of the search by {-difference:.4f}"
    else:
        verdict = "the search and uniform pruning are level"
    return UniformComparison(
        sentence=f"{verdict} of hypervolume at {count} trials each ({hv_search:.4f} against "
        f"{hv_uniform:.4f}); all {len(search)} search trials together reach {hv_all:.4f} and "
        f"dominate {dominated} of the {len(pareto_rows(rows, kinds=('baseline',)))} models on "
        "the uniform front",
        num_trials=count,
        hv_search=hv_search,
        hv_uniform=hv_uniform,
        hv_search_all=hv_all,
        num_dominated=dominated,
    )


def hypervolume_curve(
    rows: Sequence[ResultRow],
    facts: StudyFacts,
    *,
    kinds: Sequence[TrialKind] = ("search", "baseline"),
) -> list[tuple[int, float]]:
    """(number of finished trials, hypervolume of the front so far), in the order of finishing.

    Args:
        rows: of a study.
        facts: of the study.
        kinds: what counts towards the front; every finished trial is counted all the same.
    """
    curve: list[tuple[int, float]] = []
    best: list[ResultRow] = []
    reached = 0.0
    for count, row in enumerate(sorted(rows, key=lambda r: r.finish_order), start=1):
        if row.usable and row.kind in kinds and not any(_covers(b, row) for b in best):
            best = [b for b in best if not _dominates(row, b)] + [row]
            reached = _hypervolume(best, facts)
        curve.append((count, reached))
    return curve


def chance_accuracy(facts: StudyFacts) -> float:
    """Percent that guessing gives."""
    return 100.0 / max(len(facts.class_names), 1)


def _by_number(rows: Sequence[ResultRow], number: int) -> ResultRow:
    for row in rows:
        if row.number == number:
            if row.state == "failed":
                raise StudyNotFoundError(
                    f"trial {number} failed and has no model: {row.error}; see "
                    f"`automl-prune show STUDY {number}`"
                )
            if row.state == "pruned":
                raise StudyNotFoundError(
                    f"trial {number} was stopped early, since others were clearly ahead, and has "
                    "no model; pick one of `automl-prune pareto STUDY`"
                )
            return row
    numbers = [row.number for row in rows]
    there = f"finished are {min(numbers)} to {max(numbers)}" if numbers else "none has finished"
    raise StudyNotFoundError(f"no finished trial {number} in this study; {there}")


def _best_below(
    rows: Sequence[ResultRow], cost: Sequence[float], limit: float, unit: str
) -> ResultRow:
    fitting = [(row, c) for row, c in zip(rows, cost, strict=True) if c <= limit]
    if not fitting:
        index = min(range(len(rows)), key=lambda i: (cost[i], -_accuracy(rows[i])))
        raise LimitError(
            f"no model with at most {limit:,.10g} {unit}; the nearest has {cost[index]:,.10g} "
            f"(trial {rows[index].number}, accuracy {_accuracy(rows[index]):.2f}). Raise the "
            "limit, or search on"
        )
    return min(fitting, key=lambda pair: (-_accuracy(pair[0]), pair[1], *_tie(pair[0])))[0]


def _by_latency(rows: Sequence[ResultRow], facts: StudyFacts, limit_ms: float) -> ResultRow:
    measured = [row for row in rows if row.latency_ms is not None]
    if facts.dense_latency is not None:
        hardware: str | None = facts.dense_latency.hardware
    else:
        hardware = measured[0].latency_hardware if measured else None
    comparable = [row for row in measured if row.latency_hardware == hardware]
    if not comparable:
        others = sorted({row.latency_hardware or "?" for row in measured})
        raise LimitError(
            f"no latency was measured on {hardware or 'any hardware'}"
            + (f"; there are latencies of {', '.join(others)}, not comparable" if others else "")
            + ". Choose by --max-macs, or search with compute.measure_latency = true"
        )
    return _best_below(
        comparable,
        [float(row.latency_ms or 0.0) for row in comparable],
        limit_ms,
        f"ms on {hardware}",
    )


def _by_drop(rows: Sequence[ResultRow], facts: StudyFacts, max_drop: float) -> ResultRow:
    lowest = facts.dense_accuracy - max_drop
    # A drop that is exactly the limit must not fail on the last bit of a subtraction.
    fitting = [r for r in rows if _accuracy(r) >= lowest or _drop(r, facts) <= max_drop]
    if not fitting:
        best = max(rows, key=lambda r: (_accuracy(r), -_macs(r)))
        raise LimitError(
            f"no model loses at most {max_drop:g} points against the dense model's "
            f"{facts.dense_accuracy:.2f}; the nearest loses {_drop(best, facts):.2f} (trial "
            f"{best.number}, {_macs(best):,} MACs). Allow more, or search on"
        )
    return min(fitting, key=lambda r: (_macs(r), -_accuracy(r), r.number))


def _knee_of(rows: Sequence[ResultRow], facts: StudyFacts) -> int:
    margin = max(facts.dense_accuracy - chance_accuracy(facts), 1.0)  # of an odd metric: a point
    return knee(
        [_accuracy(row) for row in rows],
        [_macs(row) for row in rows],
        dense_accuracy=facts.dense_accuracy,
        dense_cost=float(facts.dense_macs),
        worth=KNEE_SHARE * margin,
    )


def _mean_hypervolume(rows: Sequence[ResultRow], count: int, facts: StudyFacts) -> float:
    """Mean hypervolume of ``count`` of the rows: all of them, or the mean over drawn subsets."""
    if math.comb(len(rows), count) == 1:
        return _hypervolume(rows, facts)
    generator = np.random.default_rng([len(rows), count])
    ordered = sorted(rows, key=lambda row: row.number)
    total = 0.0
    for _ in range(SUBSETS):
        chosen = generator.choice(len(ordered), size=count, replace=False)
        total += _hypervolume([ordered[int(i)] for i in chosen], facts)
    return total / SUBSETS


def _hypervolume(rows: Sequence[ResultRow], facts: StudyFacts) -> float:
    return hypervolume(
        [_accuracy(row) for row in rows],
        [float(_macs(row)) for row in rows],
        chance_accuracy=chance_accuracy(facts),
        dense_cost=float(facts.dense_macs),
    )


def _accuracy(row: ResultRow) -> float:
    assert row.accuracy is not None
    return row.accuracy


def _macs(row: ResultRow) -> int:
    assert row.macs is not None
    return row.macs


def _drop(row: ResultRow, facts: StudyFacts) -> float:
    return facts.dense_accuracy - _accuracy(row)


def _tie(row: ResultRow) -> tuple[int, int]:
    return _macs(row), row.number


def _covers(one: ResultRow, other: ResultRow) -> bool:
    """At least as good in both."""
    return _accuracy(one) >= _accuracy(other) and _macs(one) <= _macs(other)


def _dominates(one: ResultRow, other: ResultRow) -> bool:
    return _covers(one, other) and not _covers(other, one)
