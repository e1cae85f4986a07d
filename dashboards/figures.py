"""Figures of a study: pure functions from stored rows to Plotly figures."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any, TypedDict

import plotly.graph_objects as go

from automl_prune.report import hypervolume_curve
from dashboards.points import CLASSES, classify, cost_of, dense_cost, latency_hardware, thinned
from dashboards.style import LIGHT, styled
from dashboards.wording import milliseconds, short_count

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

    from automl_prune.records import StudyFacts
    from automl_prune.report import ResultRow
    from dashboards.points import Axis, PointClass, Split
    from dashboards.style import Theme

MOST_DRAWN = 1500
"""Points of one class that a figure draws; a denser crowd is thinned out."""


class _Look(TypedDict):
    label: str
    symbol: str
    size: int
    line: float


LOOKS: dict[PointClass, _Look] = {
    "infeasible": {"label": "beyond the limits", "symbol": "x-thin", "size": 8, "line": 1.8},
    "stopped": {"label": "stopped early", "symbol": "triangle-down", "size": 8, "line": 0},
    "dominated": {"label": "dominated", "symbol": "circle-open", "size": 8, "line": 1.6},
    "uniform": {"label": "uniform pruning", "symbol": "square", "size": 9, "line": 0},
    "front": {"label": "front of the search", "symbol": "circle", "size": 11, "line": 0},
}
"""In the order of drawing: what matters most comes last, on top."""
assert set(LOOKS) == set(CLASSES)


def front_figure(
    rows: Sequence[ResultRow],
    facts: StudyFacts,
    *,
    theme: Theme = LIGHT,
    axis: Axis = "macs",
    split: Split = "select",
    fits: Callable[[ResultRow], bool] | None = None,
    chosen: Sequence[int] = (),
    most_drawn: int = MOST_DRAWN,
    title: str | None = None,
) -> go.Figure:
    """Accuracy against cost: dense model, uniform baseline, and every trial.

    Args:
        rows: of a study.
        facts: of the study.
        theme: colours.
        axis: cost on the horizontal axis.
        split: that the accuracy of ``rows`` was measured on. The dense model's is known on
            ``select`` only, so beside ``test`` it is left out.
        fits: points for which this is False are greyed out; None: none are.
        chosen: numbers of trials to circle.
        most_drawn: points of one class that are drawn; a denser crowd is thinned.
        title: None: says what is on the axes; empty: no title.

    A point's ``customdata`` starts with the number of its trial.
    """
    points = classify(rows, facts, axis)
    figure = go.Figure(chosen_trace(rows, facts, chosen=chosen, axis=axis, theme=theme))
    _add_front_line(figure, points.uniform_front, axis, facts, theme.uniform, "dot")
    _add_front_line(figure, points.by_class["front"], axis, facts, theme.front, "solid")
    for name, look in LOOKS.items():
        members = points.by_class[name]
        if not members:
            continue
        drawn = thinned(members, axis, limit=most_drawn, keep=chosen)
        fitting = [row for row in drawn if fits is None or fits(row)]
        figure.add_trace(_scatter(fitting, len(members), axis, facts, look, getattr(theme, name)))
        if len(fitting) < len(drawn):
            greyed = [row for row in drawn if fits is not None and not fits(row)]
            trace = _scatter(greyed, len(greyed), axis, facts, look, theme.faded)
            figure.add_trace(trace.update(showlegend=False))
    if split == "select":
        _add_dense(figure, facts, axis, theme)
    names = {"macs": "MACs", "params": "parameters", "latency": "latency"}
    return styled(
        figure,
        theme,
        title=f"Accuracy against {names[axis]}" if title is None else title,
        x=_axis_label(axis, rows, facts),
        y=f"accuracy on {split}, %",
    )


def _axis_label(axis: Axis, rows: Sequence[ResultRow], facts: StudyFacts) -> str:
    if axis == "latency":
        where = latency_hardware(rows, facts)
        return f"latency, ms{f' ({where})' if where else ''}"
    noun = "MACs" if axis == "macs" else "parameters"
    return f"{noun}, % of the dense model's {short_count(dense_cost(facts, axis) or 0.0)}"


def _position(row: ResultRow, axis: Axis, facts: StudyFacts) -> float:
    cost = cost_of(row, axis) or 0.0
    return cost if axis == "latency" else 100.0 * cost / (dense_cost(facts, axis) or 1.0)


def _add_front_line(
    figure: go.Figure,
    members: Sequence[ResultRow],
    axis: Axis,
    facts: StudyFacts,
    color: str,
    dash: str,
) -> None:
    """A staircase: the best accuracy within each budget, which is what a front promises."""
    if len(members) > 1:
        figure.add_trace(
            go.Scatter(
                x=[_position(row, axis, facts) for row in members],
                y=[row.accuracy for row in members],
                mode="lines",
                line={"color": color, "width": 1.6, "dash": dash, "shape": "hv"},
                hoverinfo="skip",
                showlegend=False,
            )
        )


def _scatter(
    members: Sequence[ResultRow],
    total: int,
    axis: Axis,
    facts: StudyFacts,
    look: _Look,
    color: str,
) -> go.Scatter:
    return go.Scatter(
        x=[_position(row, axis, facts) for row in members],
        y=[row.accuracy for row in members],
        customdata=[[row.number, describe(row)] for row in members],
        mode="markers",
        name=f"{look['label']} ({total:,})",
        marker={
            "color": color,
            "symbol": look["symbol"],
            "size": look["size"],
            "line": {"color": color, "width": look["line"]},
        },
        hovertemplate="%{customdata[1]}<extra></extra>",
    )


def describe(row: ResultRow) -> str:
    """What a point says when a pointer rests on it."""
    kind = "uniform pruning" if row.kind == "baseline" else "search"
    lines = [f"<b>trial {row.number}</b> · {kind}", f"accuracy {row.accuracy:.2f} %"]
    if row.macs is not None and row.macs_ratio is not None:
        lines.append(f"{short_count(row.macs)} MACs, {row.macs_ratio:.1%} of dense")
    if row.params is not None:
        lines.append(f"{short_count(row.params)} parameters")
    if row.latency_ms is not None:
        lines.append(f"latency {milliseconds(row.latency_ms)} ms")
    if row.state == "pruned":
        lines.append("stopped early")
    if not row.feasible:
        lines.append("beyond the study's limits")
    return "<br>".join(lines)


def _add_dense(figure: go.Figure, facts: StudyFacts, axis: Axis, theme: Theme) -> None:
    cost = dense_cost(facts, axis)
    figure.add_hline(
        y=facts.dense_accuracy, line={"color": theme.soft, "width": 1, "dash": "dash"}
    )
    if cost is None:
        return
    lines = [
        "<b>dense model</b>",
        f"accuracy {facts.dense_accuracy:.2f} %",
        f"{short_count(facts.dense_macs)} MACs",
        f"{short_count(facts.dense_params)} parameters",
    ]
    if facts.dense_latency is not None:
        lines.append(f"latency {milliseconds(facts.dense_latency.median_ms)} ms")
    figure.add_trace(
        go.Scatter(
            x=[cost if axis == "latency" else 100.0],
            y=[facts.dense_accuracy],
            customdata=[[None, "<br>".join(lines)]],
            mode="markers",
            name="dense model",
            marker={"color": theme.ink, "symbol": "star", "size": 15},
            hovertemplate="%{customdata[1]}<extra></extra>",
        )
    )


def chosen_trace(
    rows: Sequence[ResultRow],
    facts: StudyFacts,
    *,
    chosen: Sequence[int],
    axis: Axis = "macs",
    theme: Theme = LIGHT,
) -> go.Scatter:
    """Circles around chosen trials; the first trace of the front's figure, drawn on top."""
    members = [
        row
        for row in rows
        if row.number in chosen and row.accuracy is not None and cost_of(row, axis) is not None
    ]
    return go.Scatter(
        x=[_position(row, axis, facts) for row in members],
        y=[row.accuracy for row in members],
        customdata=[[row.number, describe(row)] for row in members],
        text=[f"<b>{row.number}</b>" for row in members],
        textposition="top center",
        textfont={"color": theme.chosen, "size": 13},
        mode="markers+text",
        cliponaxis=False,
        name="chosen",
        showlegend=False,
        zorder=10,
        marker={
            "color": "rgba(0,0,0,0)",
            "size": 19,
            "line": {"color": theme.chosen, "width": 3},
        },
        hovertemplate="%{customdata[1]}<extra></extra>",
    )


def hypervolume_figure(
    rows: Sequence[ResultRow],
    facts: StudyFacts,
    *,
    theme: Theme = LIGHT,
    most_drawn: int = MOST_DRAWN,
    title: str = "Hypervolume of the front so far",
) -> go.Figure:
    """Share of the box (chance..100 % accuracy, 0..dense MACs) that the front covers, over trials.

    Args:
        rows: of a study.
        facts: of the study.
        theme: colours.
        most_drawn: points of one line; only steps where it moves are drawn beyond that.
        title: empty: none.
    """
    figure = go.Figure()
    lines: tuple[tuple[str, Collection[Any], str, str], ...] = (
        ("uniform pruning", ("baseline",), theme.uniform, "dot"),
        ("search", ("search",), theme.front, "solid"),
    )
    for name, kinds, color, dash in lines:
        curve = hypervolume_curve(rows, facts, kinds=tuple(kinds))
        if not any(volume for _, volume in curve):
            continue
        drawn = curve if len(curve) <= most_drawn else _moves(curve)
        figure.add_trace(
            go.Scatter(
                x=[count for count, _ in drawn],
                y=[volume for _, volume in drawn],
                mode="lines",
                name=name,
                line={"color": color, "shape": "hv", "width": 2.4, "dash": dash},
                hovertemplate=f"{name}<br>after %{{x}} trials: %{{y:.4f}}<extra></extra>",
            )
        )
    figure = styled(
        figure,
        theme,
        title=title,
        x="finished trials",
        y="hypervolume, share of the box",
        height=360,
    )
    return figure.update_yaxes(rangemode="tozero")


def _moves(curve: Sequence[tuple[int, float]]) -> list[tuple[int, float]]:
    """The first and last point, and every one where the height changes."""
    kept = [curve[0]]
    kept += [now for before, now in pairwise(curve) if now[1] != before[1]]
    if kept[-1] != curve[-1]:
        kept.append(curve[-1])
    return kept
