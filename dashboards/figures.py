"""Plotly figures of a study: pure functions from stored rows, records and curves."""

from __future__ import annotations

from typing import TYPE_CHECKING

import plotly.graph_objects as go

from automl_prune.report import hypervolume_curve, pareto_rows

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from automl_prune.records import StudyFacts, TrialCurves, TrialRecord
    from automl_prune.report import ResultRow

# Okabe and Ito's palette: told apart by colour-blind readers too.
BLACK, ORANGE, SKY, GREEN, YELLOW, BLUE, VERMILION, PURPLE = (
    "#000000",
    "#E69F00",
    "#56B4E9",
    "#009E73",
    "#F0E442",
    "#0072B2",
    "#D55E00",
    "#CC79A7",
)
GREY = "#9AA0A6"
LINES = (BLUE, VERMILION, GREEN, ORANGE, PURPLE, SKY, BLACK, GREY)
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, sans-serif"

STYLES = {
    "front": {"name": "found front", "color": BLUE, "symbol": "circle", "size": 10},
    "dominated": {"name": "dominated", "color": SKY, "symbol": "circle-open", "size": 8},
    "uniform": {"name": "uniform baseline", "color": ORANGE, "symbol": "square", "size": 9},
    "stopped": {"name": "stopped early", "color": GREY, "symbol": "x", "size": 8},
    "infeasible": {"name": "beyond the limits", "color": VERMILION, "symbol": "cross", "size": 8},
}


def classify(rows: Sequence[ResultRow]) -> dict[str, list[ResultRow]]:
    """Every trial with an accuracy, in exactly one of the classes of ``STYLES``."""
    on_front = {row.number for row in pareto_rows(rows)}
    classes: dict[str, list[ResultRow]] = {name: [] for name in STYLES}
    for row in rows:
        if row.accuracy is None or row.macs is None:
            continue
        if row.kind == "baseline":
            name = "uniform"
        elif row.state == "pruned":
            name = "stopped"
        elif not row.feasible:
            name = "infeasible"
        else:
            name = "front" if row.number in on_front else "dominated"
        classes[name].append(row)
    return classes


def pareto_figure(rows: Sequence[ResultRow], facts: StudyFacts) -> go.Figure:
    """Accuracy on ``select`` against MACs, with the dense model and the uniform baseline."""
    figure = go.Figure()
    for name, members in classify(rows).items():
        if not members:
            continue
        style = STYLES[name]
        ordered = sorted(members, key=lambda row: (row.macs or 0, row.number))
        figure.add_trace(
            go.Scatter(
                x=[(row.macs or 0) / facts.dense_macs * 100 for row in ordered],
                y=[row.accuracy for row in ordered],
                mode="lines+markers" if name in ("front", "uniform") else "markers",
                name=str(style["name"]),
                marker={
                    "color": style["color"],
                    "symbol": style["symbol"],
                    "size": style["size"],
                    "line": {"width": 1.5, "color": style["color"]},
                },
                line={
                    "color": style["color"],
                    "width": 2,
                    "dash": "dot" if name == "uniform" else "solid",
                },
                text=[describe(row) for row in ordered],
                customdata=[row.number for row in ordered],
                hovertemplate="%{text}<extra></extra>",
            )
        )
    figure.add_trace(
        go.Scatter(
            x=[100.0],
            y=[facts.dense_accuracy],
            mode="markers",
            name="dense model",
            marker={"color": BLACK, "symbol": "star", "size": 14},
            text=[
                f"dense model<br>accuracy {facts.dense_accuracy:.2f} %"
                f"<br>{facts.dense_macs:,} MACs<br>{facts.dense_params:,} parameters"
            ],
            hovertemplate="%{text}<extra></extra>",
        )
    )
    return _styled(
        figure,
        title="Accuracy against MACs",
        x="MACs, % of the dense model",
        y="accuracy on select, %",
    )


def describe(row: ResultRow) -> str:
    """What a point says when one hovers over it."""
    lines = [f"trial {row.number} ({row.kind})", f"accuracy {row.accuracy:.2f} %"]
    if row.macs is not None and row.macs_ratio is not None:
        lines.append(f"{row.macs:,} MACs ({row.macs_ratio:.1%})")
    if row.params is not None:
        lines.append(f"{row.params:,} parameters")
    if row.latency_ms is not None:
        lines.append(f"latency {row.latency_ms:.2f} ms")
    return "<br>".join(lines)


def keep_ratio_figure(records: Mapping[int, TrialRecord], facts: StudyFacts) -> go.Figure:
    """Kept share of every group's units for the given trials, by rising MACs: a heat map."""
    ordered = sorted(records.items(), key=lambda item: item[1].macs)
    groups = [group for group in facts.groups if group.low < group.high]
    shares = [
        [100.0 * record.kept_units[group.name] / group.units for _, record in ordered]
        for group in groups
    ]
    labels = [f"{r.macs / facts.dense_macs:.0%}<br>#{number}" for number, r in ordered]
    figure = go.Figure(
        go.Heatmap(
            z=shares,
            x=labels,
            y=[group.name for group in groups],
            zmin=0,
            zmax=100,
            colorscale="Cividis",
            colorbar={"title": {"text": "kept, %"}},
            hovertemplate="%{y}<br>%{z:.0f} % kept<br>trial at %{x}<extra></extra>",
        )
    )
    figure.update_yaxes(autorange="reversed")
    figure = _styled(
        figure,
        title="What the front keeps",
        x="MACs of the dense model, trial",
        y="group",
    )
    return figure.update_layout(height=max(320, 120 + 20 * len(groups)))


def ratio_figure(curves: TrialCurves, *, trial: int) -> go.Figure:
    """Keep ratio of every group over the inner loop of one trial, and its expected MACs."""
    figure = go.Figure()
    for index, (group, ratios) in enumerate(curves.ratios.items()):
        figure.add_trace(
            go.Scatter(
                x=list(curves.ratio_steps),
                y=[100 * ratio for ratio in ratios],
                mode="lines",
                name=group,
                line={
                    "color": LINES[index % len(LINES)],
                    "dash": ("solid", "dash", "dot")[index // len(LINES) % 3],
                },
                hovertemplate=f"{group}<br>step %{{x}}: %{{y:.1f}} %<extra></extra>",
            )
        )
    figure.add_trace(
        go.Scatter(
            x=list(curves.ratio_steps),
            y=[100 * share for share in curves.macs_ratio],
            mode="lines",
            name="MACs",
            line={"color": BLACK, "width": 4},
            hovertemplate="MACs<br>step %{x}: %{y:.1f} %<extra></extra>",
        )
    )
    return _styled(
        figure,
        title=f"Inner loop of trial {trial}: channels leave and come back",
        x="weight step",
        y="kept, %",
    )


def loss_figure(curves: TrialCurves, *, trial: int) -> go.Figure:
    """Losses of one trial: inner loop on ``train`` and ``search``, then fine-tuning."""
    figure = go.Figure()
    last = curves.inner_loss[-1][0] if curves.inner_loss else 0
    parts = (
        ("inner loop, train", list(curves.inner_loss), BLUE),
        (
            "inner loop, search",
            list(zip(curves.ratio_steps, curves.search_loss, strict=False)),
            ORANGE,
        ),
        ("fine-tuning, train", [(last + s, loss) for s, loss in curves.finetune_loss], GREEN),
    )
    for name, points, colour in parts:
        figure.add_trace(
            go.Scatter(
                x=[step for step, _ in points],
                y=[loss for _, loss in points],
                mode="lines",
                name=name,
                line={"color": colour},
            )
        )
    return _styled(figure, title=f"Losses of trial {trial}", x="weight step", y="loss")


def hypervolume_figure(rows: Sequence[ResultRow], facts: StudyFacts) -> go.Figure:
    """Hypervolume of the front so far over finished trials."""
    figure = go.Figure()
    curve = hypervolume_curve(rows, facts)
    figure.add_trace(
        go.Scatter(
            x=[count for count, _ in curve],
            y=[volume for _, volume in curve],
            mode="lines+markers",
            line={"color": BLUE, "shape": "hv"},
            marker={"size": 5},
            name="all trials",
            hovertemplate="%{x} trials: %{y:.4f}<extra></extra>",
        )
    )
    return _styled(
        figure, title="Hypervolume of the front", x="finished trials", y="hypervolume, share"
    )


def _styled(figure: go.Figure, *, title: str, x: str, y: str) -> go.Figure:
    return figure.update_layout(
        template="plotly_white",
        title={"text": title, "x": 0, "xanchor": "left", "font": {"size": 17}},
        font={"family": FONT, "size": 13},
        xaxis={"title": {"text": x}, "automargin": True},
        yaxis={"title": {"text": y}, "automargin": True},
        legend={"orientation": "h", "y": -0.22, "x": 0},
        margin={"l": 20, "r": 20, "t": 50, "b": 20},
        height=460,
        hoverlabel={"align": "left"},
    )
