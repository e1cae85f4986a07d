"""The upper half of the explorer: study picker, live state, front, limits, the best that fits."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from dash import ClientsideFunction, Dash, Input, Output, Patch, State, ctx, html, no_update
from dash.exceptions import PreventUpdate

from automl_prune.report import pareto_rows
from automl_prune.tested import measured_on_test
from dashboards.figures import chosen_trace, front_figure
from dashboards.layout import LARGEST_DROP, SLIDERS
from dashboards.limits import Limits, best_within
from dashboards.points import classify, latency_hardware, on_test
from dashboards.publish import key_numbers
from dashboards.style import THEMES
from dashboards.trial_panel import command_line
from dashboards.wording import milliseconds, percent_of, plural, sentence, short_count

if TYPE_CHECKING:
    from automl_prune.reading import StudyReader
    from automl_prune.records import StudyFacts
    from automl_prune.report import ResultRow
    from dashboards.points import Axis, Split
    from dashboards.style import ThemeName
    from dashboards.view import Snapshot, Studies

MOST_DRAWN = 500
"""Points of one class; fewer than on a page that is only looked at, so that clicks are quick."""
LIMIT_INPUTS = [Input(f"limit-{name}", "value") for name, _ in SLIDERS]


def register_front(app: Dash, studies: Studies) -> None:
    """Add the callbacks of the upper half to the app."""
    for function, output, inputs in (
        ("theme", Output("theme", "data"), [Input("theme-button", "n_clicks")]),
        (
            "study_of_url",
            Output("study", "value"),
            [Input("url", "search"), State("study", "options"), State("study", "value")],
        ),
        (
            "settle",
            Output("settled", "data"),
            [Input("front", "figure"), State("finished", "data"), State("settled", "data")],
        ),
        ("save_png", Output("save-png", "title"), [Input("save-png", "n_clicks")]),
        ("save_svg", Output("save-svg", "title"), [Input("save-svg", "n_clicks")]),
    ):
        in_browser: Any = app.clientside_callback
        in_browser(ClientsideFunction("explorer", function), output, *inputs)

    @app.callback(
        Output("finished", "data"),
        Output("live", "children"),
        Output("live", "className"),
        Output("study", "options"),
        Output("problem", "children"),
        Input("tick", "n_intervals"),
        Input("study", "value"),
        State("finished", "data"),
        State("study", "options"),
    )
    def look(_: int | None, name: str | None, before: Any, options: list[str]) -> tuple[Any, ...]:
        """Every few seconds, cheap queries only; rows are read when something finished."""
        names = studies.names()
        shown = no_update if names == options else names
        if name is None:
            return no_update, "no study" if not names else "", "live", shown, ""
        view = studies.view(name)
        count = view.finished()
        finished = [name, view.reader.study_id, count]
        alive = [worker for worker in view.reader.workers() if worker.alive]
        text = f"{count:,} of {max(view.reader.target(), count):,} trials"
        text += f" · {plural(len(alive), 'worker')}" if alive else " · no worker"
        return (
            no_update if finished == before else finished,
            text,
            "live on" if alive else "live",
            shown,
            "",
        )

    @app.callback(
        Output("front", "figure"),
        Output("front-note", "children"),
        Input("finished", "data"),
        Input("axis", "value"),
        Input("split", "value"),
        Input("theme", "data"),
        *LIMIT_INPUTS,
        State("chosen", "data"),
    )
    def draw_front(
        finished: Any, axis: Axis, split: Split, theme: ThemeName | None, *rest: Any
    ) -> tuple[Any, Any]:
        *values, chosen = rest
        if not finished or theme is None:
            raise PreventUpdate
        view = studies.view(finished[0])
        snapshot, facts = view.snapshot(), view.reader.facts
        limits = limits_of(values, facts)
        hardware = latency_hardware(snapshot.rows, facts)

        def fits(row: ResultRow) -> bool:
            return limits.fits(snapshot.by_number[row.number], facts, hardware)

        figure = front_figure(
            rows_on(split, snapshot, view.reader),
            facts,
            theme=THEMES[theme],
            axis=axis,
            split=split,
            fits=fits if limits.given() else None,
            chosen=numbers_of(chosen, finished),
            most_drawn=MOST_DRAWN,
            title="",
        ).update_layout(uirevision=f"{finished[0]}/{axis}/{split}", height=480)
        return figure, _front_note(snapshot, facts, axis, split)

    @app.callback(
        Output("front", "figure", allow_duplicate=True),
        Input("trial-heading", "children"),
        State("chosen", "data"),
        State("finished", "data"),
        State("axis", "value"),
        State("split", "value"),
        State("theme", "data"),
        prevent_initial_call=True,
    )
    def circle_chosen(
        _: Any, chosen: Any, finished: Any, axis: Axis, split: Split, theme: ThemeName | None
    ) -> Patch:
        """After the trial is shown: drawing the figure again is the slowest part of a click."""
        if not finished or theme is None:
            raise PreventUpdate
        view = studies.view(finished[0])
        trace = chosen_trace(
            rows_on(split, view.snapshot(), view.reader),
            view.reader.facts,
            chosen=numbers_of(chosen, finished),
            axis=axis,
            theme=THEMES[theme],
        )
        patch = Patch()
        patch["data"][0] = trace.to_plotly_json()
        return patch

    @app.callback(
        Output("verdict", "children"),
        Output("numbers", "children"),
        Input("settled", "data"),
    )
    def say_verdict(finished: Any) -> tuple[Any, Any]:
        if not finished:
            raise PreventUpdate
        view = studies.view(finished[0])
        return _verdict(view.snapshot(), view.reader), _numbers(view.snapshot(), view.reader.facts)

    @app.callback(
        Output("best", "children"),
        *[Output(f"limit-{name}-value", "children") for name, _ in SLIDERS],
        Output("limit-latency-box", "className"),
        Input("settled", "data"),
        *LIMIT_INPUTS,
    )
    def name_best(finished: Any, *values: float | None) -> tuple[Any, ...]:
        if not finished:
            raise PreventUpdate
        view = studies.view(finished[0])
        facts = view.reader.facts
        limits = limits_of(values, facts)
        timed = facts.dense_latency is not None
        return (
            _best(view.snapshot(), view.reader, limits, studies.storage.shown),
            *_limit_texts(limits, facts),
            "slider" if timed else "slider off",
        )

    @app.callback(
        *[Output(f"limit-{name}", "value") for name, _ in SLIDERS],
        Input("limits-reset", "n_clicks"),
        Input("study", "value"),
        prevent_initial_call=True,
    )
    def reset(*_: Any) -> tuple[float, ...]:
        return tuple(LARGEST_DROP if name == "drop" else 100 for name, _ in SLIDERS)

    @app.callback(
        Output("chosen", "data", allow_duplicate=True),
        Input("best-show", "n_clicks"),
        State("best-show", "title"),
        State("finished", "data"),
        prevent_initial_call=True,
    )
    def show_best(clicks: int | None, title: str, finished: Any) -> Any:
        if not clicks or not finished or not ctx.triggered:
            raise PreventUpdate
        return {"study": finished[:2], "numbers": [int(title.rpartition(" ")[2])]}


def rows_on(split: Split, snapshot: Snapshot, study: StudyReader) -> list[ResultRow]:
    """The rows that a figure shows: all of them, or those whose model was measured on ``test``."""
    return snapshot.rows if split == "select" else on_test(snapshot.rows, measured_on_test(study))


def numbers_of(chosen: Any, finished: Any) -> list[int]:
    """Chosen trials of the study that is shown; those of another one do not count."""
    if not chosen or not finished or chosen["study"] != finished[:2]:
        return []
    return list(chosen["numbers"])


def limits_of(values: Any, facts: StudyFacts) -> Limits:
    """The sliders' values as limits; a slider at its end is no limit."""
    macs, params, latency, drop = values
    dense = facts.dense_latency

    def share(value: float | None, whole: float) -> float | None:
        return None if value is None or value >= 100 else math.floor(value * whole / 100)

    in_ms = None
    if dense is not None and latency is not None and latency < 100:
        in_ms = round(latency * dense.median_ms / 100, 4)
    return Limits(
        max_macs=share(macs, facts.dense_macs),
        max_params=share(params, facts.dense_params),
        max_latency_ms=in_ms,
        max_drop=None if drop is None or drop >= LARGEST_DROP else round(drop, 2),
    )


def _limit_texts(limits: Limits, facts: StudyFacts) -> list[str]:
    none = "no limit"
    dense_ms = facts.dense_latency.median_ms if facts.dense_latency else 1.0
    macs, params, latency = limits.max_macs, limits.max_params, limits.max_latency_ms
    return [
        none if macs is None else f"{percent_of(macs, facts.dense_macs, 0)} · {short_count(macs)}",
        none
        if params is None
        else f"{percent_of(params, facts.dense_params, 0)} · {short_count(params)}",
        none
        if latency is None
        else f"{percent_of(latency, dense_ms, 0)} · {milliseconds(latency)} ms",
        none if limits.max_drop is None else f"{limits.max_drop:.1f} points",
    ]


def _front_note(snapshot: Snapshot, facts: StudyFacts, axis: Axis, split: Split) -> str:
    if split == "test":
        return (
            "Test is read for picked models alone: `automl-prune pick`. To choose by it makes it "
            "another select."
        )
    hidden = classify(snapshot.rows, facts, axis).hidden
    failed = sum(row.state == "failed" for row in snapshot.rows)
    parts = ["Up and to the left is better. Of a dense crowd one point per spot is drawn."]
    if hidden:
        parts.append(f"{plural(hidden, 'trial')} without a comparable {axis} are left out.")
    if failed:
        parts.append(f"{plural(failed, 'failed trial')}: see the table below.")
    return " ".join(parts)


def _verdict(snapshot: Snapshot, study: StudyReader) -> html.Section:
    found = snapshot.comparison(study)
    tone = ""
    if found.hv_search is not None and found.hv_uniform is not None:
        tone = " ahead" if found.hv_search > found.hv_uniform else " behind"
    return html.Section(
        [html.H2("Did the search beat uniform pruning?"), html.P(sentence(found.sentence))],
        className=f"card verdict{tone}",
    )


def _numbers(snapshot: Snapshot, facts: StudyFacts) -> list[html.Div]:
    return [
        html.Div([html.Dt(name), html.Dd([value, html.Small(note)])], className="tile")
        for name, value, note in key_numbers(snapshot.rows, pareto_rows(snapshot.rows), facts)
    ]


def _best(snapshot: Snapshot, study: StudyReader, limits: Limits, shown_url: str) -> list[Any]:
    best = best_within(snapshot.rows, study.facts, limits)
    if best.row is None:
        return [html.P("No model fits", className="value"), html.P(best.why, className="bad")]
    row = best.row
    return [
        html.P(best.why, className="soft small"),
        html.P(f"Trial {row.number}: {row.accuracy:.2f} %", className="value", id="best-name"),
        html.P(
            f"{short_count(row.macs or 0)} MACs ({row.macs_ratio or 0:.1%}), "
            f"{short_count(row.params or 0)} parameters"
            + ("" if row.latency_ms is None else f", {milliseconds(row.latency_ms)} ms"),
            className="small",
        ),
        html.Button("Show it", id="best-show", type="button", title=f"Show trial {row.number}"),
        command_line(study, best.options, f"trial-{row.number}", shown_url),
    ]
