"""Figures of single trials: channels per group, and how the trial got there."""

from __future__ import annotations

from typing import TYPE_CHECKING

import plotly.graph_objects as go
from plotly.colors import sample_colorscale

from dashboards.layer_figures import kept_share, prunable, short_names
from dashboards.style import LIGHT, series_colors, styled

if TYPE_CHECKING:
    from collections.abc import Mapping

    from automl_prune.records import StudyFacts, TrialCurves
    from dashboards.layer_figures import Kept
    from dashboards.style import Theme

FEW_LINES = 6
"""So many groups get a line of their own colour; more are coloured by depth."""


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
                    "title": {
                        "text": f"{count} groups, by depth",
                        "side": "right",
                        "font": {"color": theme.soft, "size": 13},
                    },
                    "tickvals": [0, 1],
                    "ticktext": ["first", "last"],
                    "thickness": 12,
                    "outlinewidth": 0,
                    "tickfont": {"color": theme.soft, "size": 12},
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
