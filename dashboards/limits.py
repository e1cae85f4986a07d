"""Limits on what a model may cost and lose, and the best model within them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from automl_prune.errors import AutoMLPruneError
from automl_prune.report import pick
from dashboards.points import latency_hardware

if TYPE_CHECKING:
    from collections.abc import Sequence

    from automl_prune.records import StudyFacts
    from automl_prune.report import ResultRow


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """None: no limit."""

    max_macs: float | None = None
    max_params: float | None = None
    max_latency_ms: float | None = None
    max_drop: float | None = None
    """Points of accuracy that a model may lose against the dense one."""

    def given(self) -> dict[str, float]:
        """Those that are set, by the name of their option on the command line."""
        named = {
            "--max-macs": self.max_macs,
            "--max-params": self.max_params,
            "--max-latency-ms": self.max_latency_ms,
            "--max-drop": self.max_drop,
        }
        return {name: value for name, value in named.items() if value is not None}

    def fits(self, row: ResultRow, facts: StudyFacts, hardware: str | None) -> bool:
        """Whether a trial keeps all limits.

        Args:
            row: the trial; one that failed fits nothing.
            facts: of the study.
            hardware: latencies measured elsewhere do not fit a latency limit.
        """
        if row.accuracy is None or row.macs is None:
            return False
        if self.max_macs is not None and row.macs > self.max_macs:
            return False
        if self.max_params is not None and (row.params is None or row.params > self.max_params):
            return False
        if self.max_latency_ms is not None and (
            row.latency_ms is None
            or row.latency_hardware != hardware
            or row.latency_ms > self.max_latency_ms
        ):
            return False
        # The same comparison as `pick --max-drop` makes, to the last bit.
        return (
            self.max_drop is None
            or row.accuracy >= facts.dense_accuracy - self.max_drop
            or facts.dense_accuracy - row.accuracy <= self.max_drop
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Best:
    """The best model within limits, or why there is none."""

    row: ResultRow | None
    why: str
    """By what it was chosen; or what is nearest, if nothing fits."""
    options: str
    """Of ``automl-prune pick``, to get the same model; empty if there is none."""


def best_within(rows: Sequence[ResultRow], facts: StudyFacts, limits: Limits) -> Best:
    """The most accurate model within cost limits; within a drop alone, the one of fewest MACs.

    Without limits it is the knee of the front. With a single limit it is what ``pick`` gives.
    """
    given = limits.given()
    if len(given) < 2:
        return _picked(rows, facts, limits)
    hardware = latency_hardware(rows, facts)
    fitting = [
        row
        for row in rows
        if row.usable and row.kind == "search" and limits.fits(row, facts, hardware)
    ]
    if not fitting:
        return Best(
            row=None, why="no model keeps all these limits at once; loosen one", options=""
        )
    row = min(fitting, key=lambda r: (-(r.accuracy or 0.0), r.macs or 0, r.number))
    return Best(
        row=row,
        why=f"most accurate of {len(fitting):,} models within the limits",
        options=f"--trial {row.number}",
    )


def _picked(rows: Sequence[ResultRow], facts: StudyFacts, limits: Limits) -> Best:
    ((name, value),) = limits.given().items() or [("--knee", 0.0)]
    if name == "--knee":
        why, options = "knee of the front", "--knee"
    else:
        reason = "fewest MACs" if name == "--max-drop" else "most accurate"
        why, options = f"{reason} within the limit", f"{name} {value:.10g}"
    try:
        row = pick(
            rows,
            facts,
            max_macs=limits.max_macs,
            max_params=limits.max_params,
            max_latency_ms=limits.max_latency_ms,
            max_drop=limits.max_drop,
            knee=name == "--knee",
        )
    except AutoMLPruneError as error:  # nothing fits, or nothing is finished yet
        return Best(row=None, why=str(error), options="")
    return Best(row=row, why=why, options=options)
