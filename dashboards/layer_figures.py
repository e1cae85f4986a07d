"""Figures of the front's groups: what is kept where, what always, what never."""

from __future__ import annotations

from typing import TYPE_CHECKING

import plotly.graph_objects as go

from dashboards.style import LIGHT, SEQUENCE, styled

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from automl_prune.records import GroupRow, StudyFacts
    from automl_prune.report import ResultRow
    from dashboards.style import Theme

Kept = dict[str, int]
"""Kept units by group."""

MOST_COLUMNS = 60
"""Trials that the heat map shows; of a longer front they are taken evenly along it."""


def prunable(facts: StudyFacts) -> list[GroupRow]:
    """Groups that may lose channels, first layer first."""
    return [group for group in facts.groups if group.low < 1.0]


def kept_share(kept: Mapping[str, int], group: GroupRow) -> float:
    """Percent of a group's channels that a model keeps."""
    return 100.0 * kept.get(group.name, group.units) / group.units


def short_names(groups: Sequence[GroupRow], longest: int = 26) -> list[str]:
    """Group names for an axis; a long one keeps its end, which tells it from its neighbours."""
    return [
        name if len(name := group.name) <= longest else "…" + name[-longest + 1 :]
        for group in groups
    ]


def evenly(rows: Sequence[ResultRow], most: int = MOST_COLUMNS) -> list[ResultRow]:
    """At most ``most`` rows, the first and the last among them."""
    if len(rows) <= most:
        return list(rows)
    return [rows[round(i * (len(rows) - 1) / (most - 1))] for i in range(most)]


def keep_figure(
    rows: Sequence[ResultRow],
    kept: Mapping[int, Kept],
    facts: StudyFacts,
    *,
    theme: Theme = LIGHT,
    title: str = "What the models on the front keep",
) -> go.Figure:
    """Kept channels of every group along the front, by rising MACs: a heat map.

    Args:
        rows: the front, by rising MACs.
        kept: kept units of each of these trials; trials that are not in it are left out.
        facts: of the study.
        theme: colours.
        title: empty: none.

    Each cell's ``customdata`` starts with the number of its trial.
    """
    shown = [row for row in evenly(rows) if row.number in kept]
    groups = prunable(facts)
    figure = go.Figure(
        go.Heatmap(
            z=[[kept_share(kept[row.number], group) for row in shown] for group in groups],
            x=list(range(len(shown))),
            y=list(range(len(groups))),
            customdata=[
                [
                    [
                        row.number,
                        group.name,
                        _channels_text(kept[row.number], group),
                        f"{row.macs_ratio or 0:.1%}",
                        f"{row.accuracy:.2f}",
                    ]
                    for row in shown
                ]
                for group in groups
            ],
            zmin=0,
            zmax=100,
            colorscale=SEQUENCE,
            xgap=1,
            ygap=1,
            colorbar={
                "title": {
                    "text": "channels kept, %",
                    "side": "right",
                    "font": {"color": theme.soft, "size": 13},
                },
                "thickness": 14,
                "outlinewidth": 0,
                "tickfont": {"color": theme.soft, "size": 12},
            },
            hovertemplate="<b>%{customdata[1]}</b><br>%{customdata[2]} channels, %{z:.0f} %"
            "<br>trial %{customdata[0]}: %{customdata[3]} of the MACs, "
            "%{customdata[4]} %<extra></extra>",
        )
    )
    figure = styled(
        figure,
        theme,
        title=title,
        x="models on the front: MACs, % of the dense model",
        y="",
        height=max(280, 130 + 19 * len(groups)),
    )
    step = max(1, -(-len(shown) // 14))
    figure.update_xaxes(
        tickvals=list(range(0, len(shown), step)),
        ticktext=[f"{100 * (row.macs_ratio or 0):.0f}" for row in shown[::step]],
        showgrid=False,
    )
    figure.update_yaxes(
        tickvals=list(range(len(groups))),
        ticktext=short_names(groups),
        autorange="reversed",
        showgrid=False,
        tickfont={"size": 11},
    )
    return figure.update_layout(margin={"t": 50 if title else 20})


def _channels_text(kept: Mapping[str, int], group: GroupRow) -> str:
    channels = kept.get(group.name, group.units) * group.channels_per_unit
    return f"{channels} of {group.units * group.channels_per_unit}"


def spread_figure(
    rows: Sequence[ResultRow],
    kept: Mapping[int, Kept],
    facts: StudyFacts,
    *,
    theme: Theme = LIGHT,
    title: str = "Groups that the front always keeps, and always thins",
) -> go.Figure:
    """Lowest, mean and highest kept share of every group over the front.

    Args:
        rows: the front.
        kept: kept units of its trials.
        facts: of the study.
        theme: colours.
        title: empty: none.
    """
    groups = prunable(facts)
    shares = {
        group.name: [kept_share(kept[row.number], group) for row in rows if row.number in kept]
        or [100.0]
        for group in groups
    }
    figure = go.Figure()
    xs: list[float | None] = []
    ys: list[float | None] = []
    for index, group in enumerate(groups):
        xs += [min(shares[group.name]), max(shares[group.name]), None]
        ys += [index, index, None]
    figure.add_trace(
        go.Scatter(
            x=xs,
            y=ys,
            mode="lines",
            line={"color": theme.dominated, "width": 5},
            name="lowest to highest",
            hoverinfo="skip",
        )
    )
    figure.add_trace(
        go.Scatter(
            x=[sum(shares[group.name]) / len(shares[group.name]) for group in groups],
            y=list(range(len(groups))),
            customdata=[
                [group.name, min(shares[group.name]), max(shares[group.name])] for group in groups
            ],
            mode="markers",
            marker={"color": theme.front, "size": 11},
            name="mean over the front",
            hovertemplate="<b>%{customdata[0]}</b><br>mean %{x:.0f} % kept<br>"
            "%{customdata[1]:.0f} to %{customdata[2]:.0f} %<extra></extra>",
        )
    )
    figure = styled(
        figure,
        theme,
        title=title,
        x="channels kept, %",
        y="",
        height=max(280, 130 + 19 * len(groups)),
    )
    figure.update_yaxes(
        tickvals=list(range(len(groups))),
        ticktext=short_names(groups),
        range=[len(groups) - 0.5, -0.5],
        tickfont={"size": 11},
    )
    return figure.update_xaxes(range=[0, 103])
