"""The explorer's page, before anything is filled in."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dash import dcc, html

from dashboards.pages import theme_css
from dashboards.trial_panel import GRAPH_CONFIG

if TYPE_CHECKING:
    from collections.abc import Sequence

LOOK_EVERY_MS = 3000
SLIDERS: tuple[tuple[str, str], ...] = (
    ("macs", "MACs at most"),
    ("params", "Parameters at most"),
    ("latency", "Latency at most"),
    ("drop", "Accuracy lost at most"),
)
LARGEST_DROP = 20.0
"""End of the slider; there it means no limit."""
TABLE_FILTERS = {
    "front": "front",
    "complete": "complete",
    "uniform": "uniform",
    "infeasible": "beyond the limits",
    "stopped": "stopped early",
    "failed": "failed",
    "all": "all",
}

# Chosen before the first paint, so that nobody who reads in the dark is flashed at.
_THEME_SCRIPT = """
(function () {
  var kept = null;
  try { kept = localStorage.getItem("automl-prune-theme"); } catch (error) { kept = null; }
  var dark = window.matchMedia("(prefers-color-scheme: dark)").matches;
  document.documentElement.dataset.theme = kept || (dark ? "dark" : "light");
})();
"""


def index_page() -> str:
    """The document that Dash fills."""
    return (
        '<!DOCTYPE html>\n<html lang="en"><head>{%metas%}<title>{%title%}</title>'
        '<link rel="icon" href="data:,">'
        f"<style>{theme_css()}</style><script>{_THEME_SCRIPT}</script>"
        "{%css%}</head><body>{%app_entry%}<footer>{%config%}{%scripts%}{%renderer%}</footer>"
        "</body></html>"
    )


def page(names: Sequence[str], shown_url: str) -> html.Div:
    """Everything with its place and id.

    Args:
        names: of the studies in the storage.
        shown_url: of the storage, without its password.
    """
    return html.Div(
        [
            dcc.Location(id="url", refresh=False),
            dcc.Store(id="theme"),
            dcc.Store(id="finished"),
            dcc.Store(id="settled"),
            dcc.Store(id="chosen"),
            dcc.Store(id="page", data=0),
            dcc.Interval(id="tick", interval=LOOK_EVERY_MS),
            html.A("Skip to the trial", href="#trial-card", className="skip"),
            _head(names, shown_url),
            html.Div(id="problem", role="alert", className="problem"),
            html.Div(id="verdict"),
            html.Dl(id="numbers", className="tiles"),
            html.Div([_front_card(), _limits_card()], className="main"),
            _trial_card(),
            _compare_card(),
            _study_card(),
            _table_card(),
        ],
        className="explorer",
    )


def _head(names: Sequence[str], shown_url: str) -> html.Header:
    return html.Header(
        [
            html.Div(
                [html.H1("Pareto explorer"), html.Span(shown_url, className="soft small mono")],
                className="brand",
            ),
            html.Div(
                [
                    html.Label("Study", htmlFor="study", className="visually-hidden"),
                    dcc.Dropdown(
                        id="study",
                        options=list(names),
                        clearable=False,
                        placeholder="Choose a study",
                        className="study",
                    ),
                    html.Span(id="live", className="live", role="status"),
                    html.A("Optuna dashboard", href="../dashboard", className="button"),
                    html.Button("◐ Theme", id="theme-button", type="button"),
                ],
                className="tools",
            ),
        ],
        className="top",
    )


def _labelled_by(element: str) -> Any:
    return {"aria-labelledby": element}


def _radio(name: str, label: str, options: dict[str, str], value: str) -> html.Div:
    return html.Div(
        [
            html.Span(label, className="soft small", id=f"{name}-label"),
            dcc.RadioItems(
                id=name,
                options=[{"label": text, "value": key} for key, text in options.items()],
                value=value,
                inline=True,
                className="choices",
            ),
        ],
        className="radio",
        role="radiogroup",
        **_labelled_by(f"{name}-label"),
    )


def _front_card() -> html.Section:
    return html.Section(
        [
            html.Div(
                [
                    html.H2("Accuracy against cost"),
                    _radio(
                        "axis",
                        "Across:",
                        {"macs": "MACs", "params": "parameters", "latency": "latency"},
                        "macs",
                    ),
                    _radio("split", "Up:", {"select": "select", "test": "test"}, "select"),
                    html.Div(
                        [
                            html.Button("PNG", id="save-png", type="button"),
                            html.Button("SVG", id="save-svg", type="button"),
                        ],
                        className="buttons",
                    ),
                ],
                className="cardhead",
            ),
            dcc.Graph(
                id="front",
                config=GRAPH_CONFIG,
                style={"height": "480px"},
                figure={
                    "data": [],
                    "layout": {
                        "paper_bgcolor": "rgba(0,0,0,0)",
                        "plot_bgcolor": "rgba(0,0,0,0)",
                        "xaxis": {"visible": False},
                        "yaxis": {"visible": False},
                    },
                },
            ),
            html.P(id="front-note", className="soft small"),
        ],
        className="card",
    )


def _slider(name: str, label: str) -> html.Div:
    end = LARGEST_DROP if name == "drop" else 100
    return html.Div(
        [
            html.Div(
                [
                    html.Span(label, id=f"limit-{name}-label"),
                    html.Output("no limit", id=f"limit-{name}-value", className="mono"),
                ],
                className="sliderhead",
            ),
            dcc.Slider(
                id=f"limit-{name}",
                min=0,
                max=end,
                step=0.1 if name == "drop" else 1,
                value=end,
                marks=None,
                updatemode="mouseup",
                allow_direct_input=False,
            ),
        ],
        className="slider",
        id=f"limit-{name}-box",
    )


def _limits_card() -> html.Section:
    return html.Section(
        [
            html.Div(
                [
                    html.H2("Within these limits"),
                    html.Button("Reset", id="limits-reset", type="button"),
                ],
                className="cardhead",
            ),
            *(_slider(name, label) for name, label in SLIDERS),
            html.Div(id="best", className="best", role="status"),
        ],
        className="card",
    )


def _trial_card() -> html.Section:
    return html.Section(
        [
            html.Div(
                [
                    html.H2("Trial", id="trial-heading"),
                    html.Div(
                        [
                            html.Label("Go to trial", htmlFor="go-to", className="soft small"),
                            dcc.Input(
                                id="go-to", type="number", min=0, step=1, debounce=True, value=None
                            ),
                            html.Button("Compare it", id="compare-add", type="button"),
                        ],
                        className="buttons",
                    ),
                ],
                className="cardhead",
            ),
            html.Div(
                [
                    html.Div("Click a point of the figure.", id="trial", role="status"),
                    html.Div(id="trial-channels"),
                ],
                className="columns",
            ),
            dcc.Loading(html.Div(id="trial-curves"), delay_show=400, type="dot"),
        ],
        className="card",
        id="trial-card",
    )


def _compare_card() -> html.Section:
    return html.Section(
        [
            html.H2("Side by side"),
            html.P(
                "Choose two trials or more, here or with “Compare it” above.", className="lead"
            ),
            html.Label("Trials to compare", htmlFor="compare", className="visually-hidden"),
            dcc.Dropdown(id="compare", multi=True, placeholder="Trials", options=[]),
            html.Div(id="comparison"),
        ],
        className="card",
    )


def _study_card() -> html.Section:
    tabs = {
        "keep": "Channels along the front",
        "progress": "Progress",
        "importance": "Importance of parameters",
    }
    return html.Section(
        [
            dcc.Tabs(
                id="tab",
                value="keep",
                children=[dcc.Tab(label=text, value=key) for key, text in tabs.items()],
            ),
            dcc.Loading(html.Div(id="tab-content"), delay_show=400, type="dot"),
        ],
        className="card",
    )


def _table_card() -> html.Section:
    return html.Section(
        [
            html.Div(
                [
                    html.H2("Trials"),
                    _radio("filter", "Show:", TABLE_FILTERS, "front"),
                    html.A("CSV of all trials", id="csv", className="button", download=""),
                ],
                className="cardhead",
            ),
            html.Div(id="table"),
            html.Div(
                [
                    html.Button("Back", id="page-back", type="button"),
                    html.Span(id="page-text", className="soft small"),
                    html.Button("Next", id="page-next", type="button"),
                ],
                className="buttons pager",
            ),
        ],
        className="card",
    )
