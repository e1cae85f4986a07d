"""The explorer's choice of trials: clicks, the number field, the trial's panel, comparison."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dash import ALL, ClientsideFunction, Dash, Input, Output, State, ctx, html, no_update
from dash.exceptions import PreventUpdate

from automl_prune.errors import StudyNotFoundError
from automl_prune.report import pick
from dashboards.front_callbacks import numbers_of
from dashboards.style import THEMES
from dashboards.trial_panel import (
    MOST_COMPARED,
    channels_panel,
    checked_files,
    comparison_panel,
    inner_loop_panel,
    trial_panel,
)

if TYPE_CHECKING:
    from dashboards.style import ThemeName
    from dashboards.view import Snapshot, Studies


def register_trial(app: Dash, studies: Studies) -> None:
    """Add the callbacks that choose and show trials to the app."""
    in_browser: Any = app.clientside_callback
    in_browser(
        ClientsideFunction("explorer", "choose"),
        Output("chosen", "data", allow_duplicate=True),
        Input("front", "clickData"),
        Input("go-to", "value"),
        Input({"kind": "open", "number": ALL}, "n_clicks"),
        State("finished", "data"),
        prevent_initial_call=True,
    )

    @app.callback(
        Output("chosen", "data"),
        Input("settled", "data"),
        State("chosen", "data"),
        prevent_initial_call=True,
    )
    def choose_first(finished: Any, chosen: Any) -> Any:
        """A page that was just opened, or a study just picked, shows the knee of the front."""
        if not finished or (chosen and chosen["study"] == finished[:2]):
            raise PreventUpdate
        number = _first_choice(studies, finished[0])
        return None if number is None else {"study": finished[:2], "numbers": [number]}

    @app.callback(
        Output("trial", "children"),
        Output("trial-heading", "children"),
        Input("chosen", "data"),
        State("finished", "data"),
    )
    def show_trial(chosen: Any, finished: Any) -> tuple[Any, Any]:
        """The answer to a click; figures follow when it is on the page."""
        if not finished:
            raise PreventUpdate
        numbers = numbers_of(chosen, finished)
        if not numbers:
            return "Click a point of the figure.", "Trial"
        view = studies.view(finished[0])
        row = view.snapshot().by_number.get(numbers[0])
        if row is None:
            return f"This study has no finished trial {numbers[0]}.", "Trial"
        panel = trial_panel(view.reader, row, shown_url=studies.storage.shown)
        return panel, f"Trial {row.number}"

    @app.callback(
        Output("trial-channels", "children"),
        Output("trial-curves", "children"),
        Input("trial-heading", "children"),
        Input("theme", "data"),
        State("chosen", "data"),
        State("finished", "data"),
    )
    def show_figures(
        _: Any, theme: ThemeName | None, chosen: Any, finished: Any
    ) -> tuple[Any, Any]:
        if theme is None or not finished:
            raise PreventUpdate
        view = studies.view(finished[0])
        numbers = numbers_of(chosen, finished)
        row = view.snapshot().by_number.get(numbers[0]) if numbers else None
        if row is None or row.state == "failed":
            return [], []
        colors = THEMES[theme]
        return channels_panel(view.reader, row, colors), inner_loop_panel(view.reader, row, colors)

    @app.callback(
        Output("check-result", "children"),
        Input("check", "n_clicks"),
        State("chosen", "data"),
        State("finished", "data"),
        prevent_initial_call=True,
    )
    def check(clicks: int | None, chosen: Any, finished: Any) -> str:
        numbers = numbers_of(chosen, finished)
        if not clicks or not numbers:
            raise PreventUpdate
        return checked_files(studies.view(finished[0]).reader, numbers[0])

    @app.callback(
        Output("compare", "options"),
        Output("compare", "value"),
        Input("settled", "data"),
        Input("compare-add", "n_clicks"),
        State("compare", "value"),
        State("chosen", "data"),
    )
    def offer(
        finished: Any, _: int | None, compared: list[int] | None, chosen: Any
    ) -> tuple[Any, Any]:
        if not finished:
            raise PreventUpdate
        snapshot = studies.view(finished[0]).snapshot()
        values = [number for number in compared or [] if number in snapshot.by_number]
        if ctx.triggered_id == "compare-add":
            values += [n for n in numbers_of(chosen, finished)[:1] if n not in values]
        return _options(snapshot, values), no_update if values == compared else values

    @app.callback(
        Output("comparison", "children"),
        Input("compare", "value"),
        Input("theme", "data"),
        State("finished", "data"),
    )
    def compare(numbers: list[int] | None, theme: ThemeName | None, finished: Any) -> Any:
        if not finished or theme is None:
            raise PreventUpdate
        if not numbers:
            return []
        view = studies.view(finished[0])
        shown = comparison_panel(
            view.reader, view.snapshot().by_number, numbers[:MOST_COMPARED], THEMES[theme]
        )
        if len(numbers) > MOST_COMPARED:
            shown.append(html.P(f"The first {MOST_COMPARED} are shown.", className="soft small"))
        return shown


def _first_choice(studies: Studies, name: str) -> int | None:
    """The knee of the front, so that a page that was just opened shows a model."""
    view = studies.view(name)
    try:
        return pick(view.snapshot().rows, view.reader.facts, knee=True).number
    except StudyNotFoundError:
        return None


MOST_OFFERED = 80
"""Trials in the list to compare: the front first, then the newest; any other by its number."""


def _options(snapshot: Snapshot, values: list[int]) -> list[dict[str, Any]]:
    front = [row.number for row in snapshot.front]
    newest = [row.number for row in reversed(snapshot.rows) if row.accuracy is not None]
    offered = list(dict.fromkeys([*values, *front, *newest]))[:MOST_OFFERED]
    return [
        {
            "value": number,
            "label": f"{number}: {row.accuracy:.2f} % at {row.macs_ratio or 0:.0%}",
        }
        for number in offered
        if (row := snapshot.by_number[number]).accuracy is not None
    ]
