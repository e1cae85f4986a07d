"""The explorer's lower half: channels along the front, progress, importance, table of trials."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dash import Dash, Input, Output, State, ctx, html
from dash.exceptions import PreventUpdate

from dashboards.figures import hypervolume_figure
from dashboards.importance import FEWEST, importance_figure, influences
from dashboards.layer_figures import Kept, keep_figure, kept_share, prunable, spread_figure
from dashboards.points import classify
from dashboards.style import THEMES
from dashboards.trial_panel import data_table, graph
from dashboards.wording import duration, milliseconds, percent_of, plural

if TYPE_CHECKING:
    from collections.abc import Sequence

    from automl_prune.reading import StudyReader
    from automl_prune.records import StudyFacts
    from automl_prune.report import ResultRow
    from dashboards.style import Theme, ThemeName
    from dashboards.view import Snapshot, Studies

ROWS_PER_PAGE = 25
ALWAYS_KEPT = 90.0
ALWAYS_THINNED = 60.0
"""Percent of channels: above on every model of the front, and below on every one."""
ERROR_CHARACTERS = 90


def register_study(app: Dash, studies: Studies) -> None:
    """Add the callbacks of the lower half to the app."""

    @app.callback(
        Output("tab-content", "children"),
        Input("tab", "value"),
        Input("settled", "data"),
        Input("theme", "data"),
    )
    def show_tab(tab: str, finished: Any, theme: ThemeName | None) -> Any:
        if not finished or theme is None:
            raise PreventUpdate
        view = studies.view(finished[0])
        show = {"keep": _keep_tab, "progress": _progress_tab, "importance": _importance_tab}[tab]
        return show(view.snapshot(), view.reader, THEMES[theme])

    @app.callback(
        Output("table", "children"),
        Output("page", "data"),
        Output("page-text", "children"),
        Output("page-back", "disabled"),
        Output("page-next", "disabled"),
        Output("csv", "href"),
        Input("settled", "data"),
        Input("filter", "value"),
        Input("page-back", "n_clicks"),
        Input("page-next", "n_clicks"),
        State("page", "data"),
    )
    def show_table(
        finished: Any, which: str, _back: int | None, _next: int | None, page: int
    ) -> tuple[Any, ...]:
        if not finished:
            raise PreventUpdate
        view = studies.view(finished[0])
        rows = filtered(view.snapshot(), view.reader.facts, which)
        last = max((len(rows) - 1) // ROWS_PER_PAGE, 0)
        if ctx.triggered_id == "filter":
            page = 0
        page += {"page-back": -1, "page-next": 1}.get(str(ctx.triggered_id), 0)
        page = min(max(page, 0), last)
        shown = rows[page * ROWS_PER_PAGE : (page + 1) * ROWS_PER_PAGE]
        text = f"page {page + 1} of {last + 1}, {plural(len(rows), 'trial')}"
        table = _table(shown, view.reader.facts) if shown else html.P("None.", className="soft")
        return table, page, text, page == 0, page == last, f"download/{finished[0]}/trials.csv"


def filtered(snapshot: Snapshot, facts: StudyFacts, which: str) -> list[ResultRow]:
    """Rows of one class for the table; the front by rising MACs, all others newest first."""
    if which == "front":
        return snapshot.front
    newest = snapshot.rows[::-1]
    if which == "failed":
        return [row for row in newest if row.state == "failed"]
    if which == "complete":
        return [row for row in newest if row.usable and row.kind == "search"]
    if which == "all":
        return newest
    members = classify(snapshot.rows, facts).by_class
    chosen = {"uniform": "uniform", "infeasible": "infeasible", "stopped": "stopped"}[which]
    return list(members[chosen][::-1])  # type: ignore[index]


def _table(rows: Sequence[ResultRow], facts: StudyFacts) -> html.Div:
    head = ["trial", "accuracy, %", "to dense", "MACs", "% of dense", "parameters", "latency, ms"]
    body = [
        [
            html.Button(
                str(row.number),
                id={"kind": "open", "number": row.number},
                type="button",
                title=f"Show trial {row.number}",
            ),
            *(_numbers(row, facts) if row.accuracy is not None else [""] * 6),
            _note(row),
        ]
        for row in rows
    ]
    return data_table([*head, ""], body)


def _numbers(row: ResultRow, facts: StudyFacts) -> list[str]:
    assert row.accuracy is not None
    return [
        f"{row.accuracy:.2f}",
        f"{row.accuracy - facts.dense_accuracy:+.2f}",
        f"{row.macs or 0:,}",
        percent_of(row.macs or 0, facts.dense_macs),
        f"{row.params or 0:,}",
        milliseconds(row.latency_ms),
    ]


def _note(row: ResultRow) -> str:
    if row.state == "failed":
        return f"failed: {(row.error or '')[:ERROR_CHARACTERS]}"
    words = ["uniform"] if row.kind == "baseline" else []
    if row.state == "pruned":
        words.append("stopped early")
    if not row.feasible:
        words.append("beyond the limits")
    return ", ".join(words)


def _keep_tab(snapshot: Snapshot, study: StudyReader, theme: Theme) -> list[Any]:
    if not snapshot.front:
        return [html.P("The front is empty yet.", className="soft")]
    kept = snapshot.kept_on_front(study)
    always, thinned = kept_and_thinned(snapshot.front, kept, study.facts)
    return [
        html.P(always, id="always-kept"),
        html.P(thinned, id="always-thinned"),
        html.Div(
            [
                graph(
                    "keep",
                    keep_figure(snapshot.front, kept, study.facts, theme=theme, title=""),
                    "Heat map of the channels that each group keeps along the front",
                ),
                graph(
                    "spread",
                    spread_figure(snapshot.front, kept, study.facts, theme=theme, title=""),
                    "Lowest, mean and highest share of channels kept on the front, by group",
                ),
            ],
            className="columns",
        ),
    ]


def kept_and_thinned(
    front: Sequence[ResultRow], kept: dict[int, Kept], facts: StudyFacts
) -> tuple[str, str]:
    """Two sentences: groups that every model on the front keeps, and those that each thins."""
    shares = {
        group.name: [kept_share(kept[row.number], group) for row in front if row.number in kept]
        for group in prunable(facts)
    }
    always = [name for name, values in shares.items() if values and min(values) >= ALWAYS_KEPT]
    thinned = [name for name, values in shares.items() if values and max(values) <= ALWAYS_THINNED]
    return (
        f"Always kept (at least {ALWAYS_KEPT:g} % in every model on the front): "
        f"{', '.join(always) or 'none'}.",
        f"Always thinned (at most {ALWAYS_THINNED:g} % in every model): "
        f"{', '.join(thinned) or 'none'}.",
    )


def _progress_tab(snapshot: Snapshot, study: StudyReader, theme: Theme) -> list[Any]:
    workers = [
        [
            f"{worker.host}, process {worker.pid}",
            worker.device,
            "–" if worker.trial is None else str(worker.trial),
            _fraction(worker.progress),
            "at work" if worker.alive else f"silent for {duration(worker.silent_s)}",
        ]
        for worker in study.workers()
    ]
    return [
        graph(
            "hypervolume",
            hypervolume_figure(snapshot.rows, study.facts, theme=theme, title=""),
            "Hypervolume of the search and of uniform pruning over finished trials",
        ),
        html.H3("Workers"),
        data_table(["worker", "device", "trial", "done", "state"], workers)
        if workers
        else html.P("No worker is at this study now.", className="soft"),
    ]


def _fraction(progress: dict[str, object] | None) -> str:
    fraction = (progress or {}).get("fraction")
    return f"{fraction:.0%}" if isinstance(fraction, float) else "–"


def _importance_tab(snapshot: Snapshot, study: StudyReader, theme: Theme) -> list[Any]:
    found, count = influences(study, snapshot.rows, study.facts)
    if not found:
        return [
            html.P(
                f"Too few trials to tell: {count} complete search trials, {FEWEST} are needed.",
                className="soft",
            )
        ]
    return [
        html.P(
            f"Spearman's rank correlation over {plural(count, 'search trial')}: what the outer "
            "loop proposes against what came out. The inner loop moves the ratios on from there, "
            "so a weak bar may mean that it finds its way from anywhere.",
            className="lead",
        ),
        graph("importance", importance_figure(found, theme=theme), "Influence of each parameter"),
    ]
