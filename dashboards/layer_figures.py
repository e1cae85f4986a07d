"""Figures of groups and of single trials: what is kept where, and how a trial got there."""

from __future__ import annotations

from typing import TYPE_CHECKING

import plotly.graph_objects as go
from plotly.colors import sample_colorscale

from dashboards.style import LIGHT, SEQUENCE, series_colors, styled

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from automl_prune.records import GroupRow, StudyFacts, TrialCurves
    from automl_prune.report import ResultRow
    from dashboards.style import Theme

Kept = dict[str, int]
"""Kept units by group."""

FEW_LINES = 6
"""So many groups get a line of their own colour; more are coloured by depth."""
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
                "title": {"text": "channels kept, %", "side": "right"},
                "thickness": 14,
                "outlinewidth": 0,
                "tickfont": {"color": theme.soft},
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


def trajectory_figure(
    curves: TrialCurves,
    facts: StudyFacts,
    *,
    theme: Theme = LIGHT,
    title: str = "Keep ratios during the inner loop",
) -> go.Figure:
    """Keep ratio of every group over the inner loop of one trial, and its expected MACs.

    Few groups get a colour each; more are coloured by depth in the network.
    """
    order = [group.name for group in facts.groups if group.name in curves.ratios]
    order += [name for name in curves.ratios if name not in order]
    figure = go.Figure()
    few = len(order) <= FEW_LINES
    depths = [index / max(len(order) - 1, 1) for index in range(len(order))]
    colors = series_colors(theme) if few else sample_colorscale("Viridis", depths) if order else []
    for index, name in enumerate(order):
        figure.add_trace(
            go.Scatter(
                x=list(curves.ratio_steps),
                y=[100.0 * ratio for ratio in curves.ratios[name]],
                mode="lines",
                name=name,
                showlegend=few,
                line={"color": colors[index], "width": 1.8},
                hovertemplate=f"<b>{name}</b><br>step %{{x}}: %{{y:.1f}} % kept<extra></extra>",
            )
        )
    figure.add_trace(
        go.Scatter(
            x=list(curves.ratio_steps),
            y=[100.0 * share for share in curves.macs_ratio],
            mode="lines",
            name="MACs of the whole model",
            line={"color": theme.ink, "width": 3.5, "dash": "dash"},
            hovertemplate="<b>MACs</b><br>step %{x}: %{y:.1f} % of dense<extra></extra>",
        )
    )
    if not few:
        _add_depth_bar(figure, len(order), theme)
    figure = styled(
        figure, theme, title=title, x="weight step", y="kept, % of the dense model", height=400
    )
    return figure.update_yaxes(range=[0, 103])


def _add_depth_bar(figure: go.Figure, count: int, theme: Theme) -> None:
    """A colour bar for lines that are coloured by their place in the network."""
    figure.add_trace(
        go.Scatter(
            x=[None],
            y=[None],
            mode="markers",
            showlegend=False,
            hoverinfo="skip",
            marker={
                "color": [0],
                "cmin": 0,
                "cmax": 1,
                "colorscale": "Viridis",
                "showscale": True,
                "colorbar": {
                    "title": {"text": f"{count} groups", "side": "top"},
                    "tickvals": [0, 1],
                    "ticktext": ["first<br>layer", "last<br>layer"],
                    "thickness": 12,
                    "len": 0.8,
                    "outlinewidth": 0,
                    "tickfont": {"color": theme.soft},
                },
            },
        )
    )


def loss_figure(
    curves: TrialCurves, *, theme: Theme = LIGHT, title: str = "Losses, inner loop to fine-tuning"
) -> go.Figure:
    """Losses of one trial: inner loop on ``train`` and ``search``, then fine-tuning."""
    figure = go.Figure()
    last = curves.inner_loss[-1][0] if curves.inner_loss else 0
    parts = (
        ("inner loop, train", list(curves.inner_loss), theme.front, "solid"),
        (
            "inner loop, search",
            list(zip(curves.ratio_steps, curves.search_loss, strict=False)),
            theme.uniform,
            "dot",
        ),
        (
            "fine-tuning, train",
            [(last + step, loss) for step, loss in curves.finetune_loss],
            theme.chosen,
            "solid",
        ),
    )
    for name, points, color, dash in parts:
        if points:
            figure.add_trace(
                go.Scatter(
                    x=[step for step, _ in points],
                    y=[loss for _, loss in points],
                    mode="lines",
                    name=name,
                    line={"color": color, "width": 2, "dash": dash},
                    hovertemplate=f"{name}<br>step %{{x}}: %{{y:.4g}}<extra></extra>",
                )
            )
    if curves.finetune_loss and curves.inner_loss:
        figure.add_vline(x=last, line={"color": theme.soft, "width": 1, "dash": "dash"})
    figure = styled(figure, theme, title=title, x="weight step", y="loss", height=400)
    return figure.update_yaxes(rangemode="tozero")


def channels_figure(
    kept: Mapping[int, Kept],
    facts: StudyFacts,
    *,
    theme: Theme = LIGHT,
    title: str = "Channels per group",
) -> go.Figure:
    """Channels that one or a few trials keep in every group, against the dense model.

    Args:
        kept: kept units by trial number, in the order of drawing.
        facts: of the study.
        theme: colours.
        title: empty: none.
    """
    groups = prunable(facts)
    names = short_names(groups)
    dense = [group.units * group.channels_per_unit for group in groups]
    figure = go.Figure(
        go.Bar(
            y=list(range(len(groups))),
            x=dense,
            orientation="h",
            name="dense model",
            marker={"color": theme.grid},
            width=0.86,
            customdata=[group.name for group in groups],
            hovertemplate="<b>%{customdata}</b><br>dense: %{x} channels<extra></extra>",
        )
    )
    thickness = 0.62 / max(len(kept), 1)
    for index, (number, units) in enumerate(kept.items()):
        shift = (index - (len(kept) - 1) / 2) * thickness
        figure.add_trace(
            go.Bar(
                y=[row + shift for row in range(len(groups))],
                x=[units.get(g.name, g.units) * g.channels_per_unit for g in groups],
                orientation="h",
                name=f"trial {number}",
                width=thickness,
                marker={"color": series_colors(theme)[index % len(series_colors(theme))]},
                customdata=[[g.name, f"{kept_share(units, g):.0f}"] for g in groups],
                hovertemplate=f"<b>%{{customdata[0]}}</b><br>trial {number}: %{{x}} channels, "
                "%{customdata[1]} %<extra></extra>",
            )
        )
    figure = styled(
        figure,
        theme,
        title=title,
        x="channels",
        y="",
        height=max(280, 120 + (18 + 5 * max(len(kept) - 1, 0)) * len(groups)),
    )
    figure.update_yaxes(
        tickvals=list(range(len(groups))),
        ticktext=names,
        range=[len(groups) - 0.5, -0.5],
        showgrid=False,
        tickfont={"size": 11},
    )
    return figure.update_layout(barmode="overlay", bargap=0)
