"""What a study may propose, and what counts as feasible: from its config and its facts."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from automl_prune.config import trade_off_for
from automl_prune.errors import ConfigError

if TYPE_CHECKING:
    from automl_prune.config import StudyConfig
    from automl_prune.records import GroupRow, StudyFacts, TrialRecord
    from automl_prune.storage.tables import DataRow

TRADE_OFF = "tradeoff"
"""Name of the Optuna parameter λ."""
RATIO_PREFIX = "ratio/"
"""Optuna parameters of the starting keep ratios are named ``ratio/<group>``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Range:
    """Where one parameter may lie."""

    low: float
    high: float
    log: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Space:
    """The search space of a study."""

    ranges: dict[str, Range]
    """By the name of the Optuna parameter; only what can vary."""
    held: dict[str, float]
    """Keep ratio of the groups that cannot vary, by group name; dense groups are left out."""
    ratio_range: tuple[float, float]
    trade_off_range: tuple[float, float]
    smallest: float
    """MACs with every group at its lowest keep ratio, as a share of the dense model's."""
    num_baselines: int

    @classmethod
    def of(cls, config: StudyConfig, facts: StudyFacts) -> Space:
        """The space of a study: ``search.ratio`` within every group's own bounds."""
        ranges: dict[str, Range] = {}
        held: dict[str, float] = {}
        for group in facts.groups:
            low, high = _group_range(group, config.search.ratio)
            if low < high:
                ranges[RATIO_PREFIX + group.name] = Range(low=low, high=high)
            elif low < 1.0:
                held[group.name] = low
        low, high = config.search.tradeoff
        ranges[TRADE_OFF] = Range(low=low, high=high, log=True)
        return cls(
            ranges=ranges,
            held=held,
            ratio_range=config.search.ratio,
            trade_off_range=config.search.tradeoff,
            smallest=facts.min_macs / facts.dense_macs,
            num_baselines=config.search.baselines,
        )

    @property
    def useful_trade_offs(self) -> tuple[float, float]:
        """The range of λ, up to where it stands for the smallest model that there is."""
        low, high = self.trade_off_range
        return low, max(low, min(high, trade_off_for(self.smallest)))

    def baseline(self, number: int) -> tuple[dict[str, float], float]:
        """Uniform keep ratios of baseline trial ``number``, and its trade-off.

        Spread evenly over ``search.ratio``, ends included, clipped into every group's bounds.
        The trade-off has no effect on a baseline; it is the middle of its range on the log scale.
        """
        low, high = self.ratio_range
        count = self.num_baselines
        ratio = low + (high - low) * (number / (count - 1) if count > 1 else 0.5)
        ratios = dict(self.held)
        for name, allowed in self.ranges.items():
            if name != TRADE_OFF:
                group = name.removeprefix(RATIO_PREFIX)
                ratios[group] = min(max(ratio, allowed.low), allowed.high)
        low, high = self.trade_off_range
        return ratios, min(max(math.sqrt(low * high), low), high)

    def to_params(self, ratios: dict[str, float], trade_off: float) -> dict[str, float]:
        """As Optuna parameters.

        Raises:
            ValueError: a value lies outside its range; Optuna would only warn.
        """
        params = {TRADE_OFF: trade_off}
        for group, ratio in ratios.items():
            if RATIO_PREFIX + group in self.ranges:
                params[RATIO_PREFIX + group] = ratio
        for name, allowed in self.ranges.items():
            if name not in params:
                raise ValueError(f"{name} is missing")
            if not allowed.low <= params[name] <= allowed.high:
                raise ValueError(
                    f"{name} is {params[name]:g}, allowed {allowed.low:g} to {allowed.high:g}"
                )
        return params

    def from_params(self, params: dict[str, float]) -> tuple[dict[str, float], float]:
        """Inverse of :meth:`to_params`: keep ratio per group, and the trade-off."""
        ratios = dict(self.held)
        for name, value in params.items():
            if name != TRADE_OFF:
                ratios[name.removeprefix(RATIO_PREFIX)] = value
        return ratios, params[TRADE_OFF]


def _group_range(group: GroupRow, asked: tuple[float, float]) -> tuple[float, float]:
    low, high = max(asked[0], group.low), min(asked[1], group.high)
    if low <= high:
        return low, high
    nearest = group.low if group.low > asked[1] else group.high
    return nearest, nearest


def objective_values(config: StudyConfig, record: TrialRecord) -> tuple[float, float]:
    """The two objectives: accuracy (up), and MACs or latency (down).

    Raises:
        ConfigError: latency is the objective and was not measured.
    """
    if config.search.objective == "macs":
        return record.accuracy, float(record.macs)
    if record.latency is None:
        raise ConfigError(
            "search.objective: found 'latency', but the trial has no latency; "
            "set compute.measure_latency = true"
        )
    return record.accuracy, record.latency.median_ms


def objectives_of_row(config: StudyConfig, row: DataRow) -> tuple[float, float]:
    """The same from a row of the results table, of a complete trial."""
    second = row.macs if config.search.objective == "macs" else row.latency_ms
    return float(row.accuracy), float(second)


def constraint_values(
    config: StudyConfig, facts: StudyFacts, record: TrialRecord
) -> dict[str, float]:
    """How far a trial is beyond each limit of the study; feasible where all are <= 0."""
    limits, values = config.search.limits, {}
    if limits.min_accuracy is not None:
        values["min_accuracy"] = limits.min_accuracy - record.accuracy
    if limits.max_macs is not None:
        values["max_macs"] = (record.macs - limits.max_macs) / facts.dense_macs
    if limits.max_macs_ratio is not None:
        values["max_macs_ratio"] = record.macs / facts.dense_macs - limits.max_macs_ratio
    if limits.max_latency_ms is not None and record.latency is not None:
        values["max_latency_ms"] = record.latency.median_ms - limits.max_latency_ms
    return values
