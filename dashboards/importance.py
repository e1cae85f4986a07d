"""Which parameters of the search move accuracy and MACs: rank correlations, cheap and signed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import plotly.graph_objects as go

from automl_prune.records import TrialRecord
from dashboards.layer_figures import evenly, prunable
from dashboards.style import LIGHT, styled

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from automl_prune.reading import StudyReader
    from automl_prune.records import StudyFacts
    from automl_prune.report import ResultRow
    from dashboards.style import Theme

FEWEST = 8
"""Trials below which a correlation says nothing."""
MOST = 400
"""Trials that are read; of more, this many are taken evenly."""
TRADE_OFF = "λ (trade-off)"


@dataclass(frozen=True, slots=True, kw_only=True)
class Influence:
    """Spearman's rank correlation of one parameter, in [-1, 1]."""

    name: str
    accuracy: float
    macs: float


def influences(
    study: StudyReader, rows: Sequence[ResultRow], facts: StudyFacts
) -> tuple[list[Influence], int]:
    """Influence of every starting keep ratio and of λ, and the number of trials it is drawn from.

    Search trials that are complete count, beyond the limits or not. Too few trials: no influences.
    """
    complete = [row for row in rows if row.kind == "search" and row.state == "complete"]
    chosen = evenly(complete, MOST)
    records = [
        record
        for record in study.records([row.number for row in chosen]).values()
        if isinstance(record, TrialRecord)
    ]
    if len(records) < FEWEST:
        return [], len(records)
    accuracy = np.array([record.accuracy for record in records])
    macs = np.array([float(record.macs) for record in records])
    columns = {
        group.name: np.array([record.start_ratios.get(group.name, 1.0) for record in records])
        for group in prunable(facts)
    }
    columns[TRADE_OFF] = np.array([record.trade_off for record in records])
    found = [
        Influence(
            name=name,
            accuracy=rank_correlation(values, accuracy),
            macs=rank_correlation(values, macs),
        )
        for name, values in columns.items()
    ]
    return found, len(records)


def rank_correlation(one_N: NDArray[np.float64], other_N: NDArray[np.float64]) -> float:
    """Spearman's rank correlation; 0 where one of them does not vary."""
    ranks = [_ranks(values) for values in (one_N, other_N)]
    deviations = [values - values.mean() for values in ranks]
    scale = float(np.sqrt((deviations[0] ** 2).sum() * (deviations[1] ** 2).sum()))
    return float((deviations[0] * deviations[1]).sum()) / scale if scale else 0.0


def _ranks(values_N: NDArray[np.float64]) -> NDArray[np.float64]:
    """Ranks from 0; equal values share their mean rank."""
    _, inverse, counts = np.unique(values_N, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    means: NDArray[np.float64] = last - (counts + 1) / 2.0
    return means[inverse]


def importance_figure(
    found: Sequence[Influence], *, theme: Theme = LIGHT, title: str = ""
) -> go.Figure:
    """Influences as bars, the strongest first."""
    ordered = sorted(found, key=lambda item: -max(abs(item.accuracy), abs(item.macs)))
    figure = go.Figure()
    for name, values, color in (
        ("on accuracy", [item.accuracy for item in ordered], theme.front),
        ("on MACs", [item.macs for item in ordered], theme.uniform),
    ):
        figure.add_trace(
            go.Bar(
                y=[item.name for item in ordered],
                x=values,
                orientation="h",
                name=name,
                marker={"color": color},
                hovertemplate=f"<b>%{{y}}</b><br>{name}: %{{x:+.2f}}<extra></extra>",
            )
        )
    figure = styled(
        figure,
        theme,
        title=title,
        x="rank correlation of the starting value, -1 to 1",
        y="",
        height=max(300, 120 + 26 * len(ordered)),
    )
    figure.update_yaxes(autorange="reversed", tickfont={"size": 11})
    return figure.update_xaxes(range=[-1.02, 1.02], zeroline=True)
