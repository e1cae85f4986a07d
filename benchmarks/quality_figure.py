"""Fronts of the methods that ``quality.py`` compared, one panel per setting.

    python benchmarks/quality_figure.py quality.html digits.json fashion.json cifar10.json

A line is the test accuracy of the model that is best on ``select`` among those with at most so
many MACs, averaged over the seeds; it begins where every seed has a model.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from contest import Point
from plotly.subplots import make_subplots
from quality import best_at, tested_accuracy

if TYPE_CHECKING:
    import plotly.graph_objects as go

SHARES = np.geomspace(0.01, 1.0, 400)
LINES = {
    "ours": ("#D55E00", "solid"),
    "uniform": ("#0072B2", "solid"),
    "dms": ("#009E73", "solid"),
    "gradient only": ("#CC79A7", "solid"),
    "fastnas": ("#E69F00", "solid"),
    "tpe ratios": ("#56B4E9", "solid"),
    "random ratios": ("#56B4E9", "dash"),
    "nsga2 ratios": ("#56B4E9", "dot"),
    "torch-pruning global": ("#7f7f7f", "solid"),
    "torch-pruning uniform": ("#7f7f7f", "dash"),
}
"""Colour (of Okabe and Ito) and dash per method."""


def curve(seeds: list[list[Point]]) -> np.ndarray:
    """Mean test accuracy at every share of :data:`SHARES`; nan where a seed has no model."""
    rows = []
    for points in seeds:
        best = [best_at(points, float(share)) for share in SHARES]
        rows.append([np.nan if i is None else tested_accuracy(points[i]) for i in best])
    return np.mean(rows, axis=0)


def figure(settings: list[dict]) -> go.Figure:
    """One panel per setting, accuracy over the share of the dense MACs on a log scale."""
    titles = [f"{s['setting']['study']}, {s['setting']['trials']} trials" for s in settings]
    fig = make_subplots(rows=1, cols=len(settings), subplot_titles=titles)
    shown = set()
    for column, content in enumerate(settings, start=1):
        by_method: dict[str, list[list[Point]]] = {}
        for key, run in content["runs"].items():
            if "points" in run:
                points = [Point(**point) for point in run["points"]]
                by_method.setdefault(key.partition("/")[0], []).append(points)
        for method in [m for m in LINES if m in by_method]:
            colour, dash = LINES[method]
            fig.add_scatter(
                row=1,
                col=column,
                x=SHARES,
                y=curve(by_method[method]),
                name=method,
                legendgroup=method,
                showlegend=method not in shown,
                mode="lines",
                line={"color": colour, "dash": dash, "width": 3.5 if method == "ours" else 1.6},
            )
            shown.add(method)
    fig.update_xaxes(
        type="log",
        title="share of the dense MACs",
        tickvals=[0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1],
        ticktext=["1 %", "2 %", "5 %", "10 %", "20 %", "50 %", "100 %"],
    )
    fig.update_yaxes(title="accuracy on test, %", col=1)
    fig.update_layout(
        template="plotly_white",
        legend={"orientation": "h", "y": -0.22},
        margin={"t": 40, "r": 20, "b": 20, "l": 60},
    )
    return fig


def main() -> None:
    """Write the page."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("page", type=Path, help="HTML file to write")
    parser.add_argument("results", type=Path, nargs="+", help="JSON files of quality.py")
    arguments = parser.parse_args()
    page = figure([json.loads(path.read_text()) for path in arguments.results])
    page.write_html(arguments.page, config={"displayModeBar": False})


if __name__ == "__main__":
    main()
