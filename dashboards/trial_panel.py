"""What the explorer says of a trial: facts, files, channels, inner loop; of a failed one, why."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Any

from dash import dcc, html

from automl_prune.errors import AutoMLPruneError
from automl_prune.records import FailureRecord, TrialRecord
from automl_prune.tested import measured_on_test
from dashboards.layer_figures import prunable
from dashboards.trial_figures import channels_figure, loss_figure, trajectory_figure
from dashboards.wording import duration, milliseconds, percent_of, plural, short_count, size

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from automl_prune.reading import StudyReader
    from automl_prune.records import StudyFacts
    from automl_prune.report import ResultRow
    from automl_prune.tested import OnTest
    from dashboards.style import Theme

GRAPH_CONFIG: Any = {
    "displaylogo": False,
    "responsive": True,
    "modeBarButtonsToRemove": ["select2d", "lasso2d", "autoScale2d"],
    "toImageButtonOptions": {"scale": 2},
}
MOST_COMPARED = 6
COMPARED: tuple[str, ...] = (
    "kind",
    "accuracy on select",
    "before fine-tuning",
    "to dense",
    "MACs",
    "parameters",
    "latency",
    "λ",
    "time",
)


def trial_panel(study: StudyReader, row: ResultRow, *, shown_url: str) -> list[Any]:
    """What a click is answered with, as Dash components: the facts of a trial, and its files.

    Args:
        study: that it belongs to.
        row: of the trial.
        shown_url: storage URL without password, for the command line.
    """
    record = study.record(row.number)
    if isinstance(record, FailureRecord):
        return _failed(row, record)
    return [
        _facts_table(
            row, record, study.facts, measured_on_test(study, [row.number]).get(row.number)
        ),
        _files(study, row),
        command_line(study, f"--trial {row.number}", f"trial-{row.number}", shown_url),
    ]


def channels_panel(study: StudyReader, row: ResultRow, theme: Theme) -> list[Any]:
    """Channels of a trial against the dense model, and its ratios; nothing if it failed."""
    record = study.record(row.number)
    if isinstance(record, FailureRecord):
        return []
    return [
        graph(
            "channels",
            channels_figure({row.number: record.kept_units}, study.facts, theme=theme, title=""),
            f"Channels that trial {row.number} keeps in each group",
        ),
        _ratio_table(record, study.facts),
    ]


def named(label: str) -> Any:
    """The attribute by which a screen reader knows an element."""
    return {"aria-label": label}


def graph(name: str, figure: Any, label: str) -> html.Div:
    """A figure with a name that a screen reader reads."""
    return html.Div(
        dcc.Graph(
            id=f"graph-{name}",
            figure=figure,
            config=GRAPH_CONFIG,
            style={"height": f"{figure.layout.height}px"},
        ),
        role="img",
        className="graph",
        **named(label),
    )


def command_line(study: StudyReader, options: str, folder: str, shown_url: str) -> html.Div:
    """The ``pick`` line that takes the same model, with a button that copies it."""
    text = (
        f"automl-prune pick {study.name} {options} --out {study.name}-{folder} "
        f"--format onnx,pt2 --storage {shlex.quote(shown_url)}"
    )
    return html.Div(
        [
            html.Code(text, className="line"),
            dcc.Clipboard(content=text, className="copy", title="Copy the command line"),
        ],
        className="command",
    )


def _facts_table(
    row: ResultRow, record: TrialRecord, facts: StudyFacts, on_test: OnTest | None
) -> html.Table:
    latency = record.latency
    pairs = [
        ("Kind", "uniform pruning (ratios held)" if record.kind == "baseline" else "search"),
        ("State", "stopped early" if record.state == "pruned" else "complete"),
        ("Limits of the study", "kept" if row.feasible else "exceeded"),
        ("Accuracy on select", f"{record.accuracy:.2f} %"),
        ("  to dense", f"{record.accuracy - facts.dense_accuracy:+.2f} points"),
        ("  before fine-tuning", f"{record.accuracy_before_finetuning:.2f} %"),
        (
            "Accuracy on test",
            "not read; `pick` reads it"
            if on_test is None
            else f"{on_test.accuracy:.2f} % of {on_test.num_images:,} images",
        ),
        ("MACs", f"{record.macs:,} ({percent_of(record.macs, facts.dense_macs)})"),
        ("Parameters", f"{record.params:,} ({percent_of(record.params, facts.dense_params)})"),
        (
            "Latency",
            "not measured"
            if latency is None
            else f"{milliseconds(latency.median_ms)} ± {milliseconds(latency.spread_ms)} ms "
            f"(batch {latency.batch_size}, {plural(latency.threads, 'thread')}, "
            f"{latency.hardware})",
        ),
        ("λ", f"{record.trade_off:.4g}" if record.kind == "search" else "–"),
        (
            "Steps",
            f"{record.weight_steps:,} weight, {record.ratio_steps:,} ratio, "
            f"{record.finetune_steps:,} fine-tuning",
        ),
        ("Started from", record.start_in_words),
        ("Time", ", ".join(f"{name} {duration(s)}" for name, s in record.phase_s.items()) or "–"),
        ("Seed", str(record.seed)),
        ("Masked = pruned", f"outputs differ by {record.equivalence_error:.1e} of their scale"),
    ]
    return pairs_table(pairs)


def pairs_table(pairs: Sequence[tuple[str, str]]) -> html.Table:
    """Names and values, one pair a line."""
    return html.Table(
        html.Tbody(
            [
                html.Tr([html.Th(name, className="words", scope="row"), html.Td(value)])
                for name, value in pairs
            ]
        ),
        className="pairs",
    )


def _files(study: StudyReader, row: ResultRow) -> html.Div | html.P:
    """Links to the model folder, and whether the stored files are what was stored."""
    try:
        found = study.artifacts_of(row.number)
    except AutoMLPruneError as error:
        return html.P(str(error), className="bad")
    if "model.safetensors" not in found:
        return html.P("Its model was tidied away by `automl-prune gc`.", className="soft small")
    total = sum(artifact.num_bytes for artifact in found.values())
    return html.Div(
        [
            html.A(
                f"Model folder (zip, {size(total)})",
                href=f"download/{study.name}/{row.number}/model.zip",
                className="button primary",
                id="download-model",
                download="",
            ),
            html.Button("Verify the files", id="check", type="button"),
            html.P(
                f"sha256 of the weights {found['model.safetensors'].sha256[:16]}…; compared "
                "whenever a file is served.",
                id="check-result",
                className="soft small",
                role="status",
            ),
        ],
        className="files",
    )


def checked_files(study: StudyReader, number: int) -> str:
    """Read every stored file of a trial and compare it with its digest; the result in words."""
    names = sorted(study.artifacts_of(number))
    for name in names:
        try:
            study.artifact(number, name)
        except AutoMLPruneError as error:
            return f"Damaged: {error}"
    return (
        f"{', '.join(names)}: every file has the digest that the trial recorded. automl-prune "
        "verify on the model folder also counts MACs and measures accuracy again."
    )


def inner_loop_panel(study: StudyReader, row: ResultRow, theme: Theme) -> list[Any]:
    """Keep ratios and losses of a trial over its steps, or why they are not there."""
    try:
        curves = study.curves(row.number)
    except AutoMLPruneError as error:
        return [html.P(f"No curves: {error}", className="soft small")]
    ratios: Any = html.P("Held fixed: a trial of the uniform baseline.", className="soft")
    if row.kind == "search":
        ratios = graph(
            "ratios",
            trajectory_figure(curves, study.facts, theme=theme, title=""),
            f"Keep ratio of each group over the inner loop of trial {row.number}",
        )
    return [
        html.Div(
            [
                html.Div([html.H3("Keep ratios in the inner loop"), ratios]),
                html.Div(
                    [
                        html.H3("Losses"),
                        graph(
                            "losses",
                            loss_figure(curves, theme=theme, title=""),
                            f"Losses of trial {row.number}",
                        ),
                    ]
                ),
            ],
            className="columns",
        )
    ]


def _ratio_table(record: TrialRecord, facts: StudyFacts) -> html.Details:
    head = ["group", "channels kept", "of", "starting ratio", "final ratio"]
    body = [
        [
            group.name,
            record.kept_units.get(group.name, group.units) * group.channels_per_unit,
            group.units * group.channels_per_unit,
            f"{record.start_ratios.get(group.name, 1.0):.3f}",
            f"{record.final_ratios.get(group.name, 1.0):.3f}",
        ]
        for group in prunable(facts)
    ]
    return html.Details(
        [html.Summary("Starting and final keep ratios, group by group"), data_table(head, body)]
    )


def data_table(head: Sequence[Any], body: Sequence[Sequence[Any]], **attributes: Any) -> html.Div:
    """A table that scrolls sideways on its own; the first column is words."""
    return html.Div(
        html.Table(
            [
                html.Thead(
                    html.Tr(
                        [
                            html.Th(cell, className="words" if i == 0 else "", scope="col")
                            for i, cell in enumerate(head)
                        ]
                    )
                ),
                html.Tbody(
                    [
                        html.Tr(
                            [
                                html.Td(cell, className="words" if i == 0 else "")
                                for i, cell in enumerate(line)
                            ]
                        )
                        for line in body
                    ]
                ),
            ]
        ),
        className="scroll",
        tabIndex=0,
        **attributes,
    )


def _failed(row: ResultRow, record: FailureRecord) -> list[Any]:
    return [
        html.P([html.Strong("Failed: "), record.error], className="bad", id="trial-error"),
        pairs_table(
            [
                ("Kind", record.kind),
                ("λ", f"{record.trade_off:.4g}"),
                ("Seed", str(record.seed)),
            ]
        ),
        html.H3("Log"),
        html.Pre(record.log, tabIndex=0, id="trial-log"),
        html.P(f"Trial {row.number} has no model to take.", className="soft small"),
    ]


def comparison_panel(
    study: StudyReader, rows: Mapping[int, ResultRow], numbers: Sequence[int], theme: Theme
) -> list[Any]:
    """Two to a few trials side by side: numbers in a table, channels as bars."""
    found = study.records([number for number in numbers if number in rows])
    records = {
        number: record
        for number in numbers
        if isinstance(record := found.get(number), TrialRecord)
    }
    if not records:
        return [html.P("None of these trials has a model.", className="soft")]
    facts = study.facts
    columns = [_compared(rows[number], record, facts) for number, record in records.items()]
    body = [[name, *(column[name] for column in columns)] for name in COMPARED]
    return [
        data_table(["", *(f"trial {number}" for number in records)], body, id="compare-table"),
        graph(
            "compare",
            channels_figure(
                {number: record.kept_units for number, record in records.items()},
                facts,
                theme=theme,
                title="",
            ),
            "Channels that each of the compared trials keeps in each group",
        ),
    ]


def _compared(row: ResultRow, record: TrialRecord, facts: StudyFacts) -> dict[str, str]:
    return {
        "kind": "uniform" if record.kind == "baseline" else "search",
        "accuracy on select": f"{record.accuracy:.2f} %",
        "before fine-tuning": f"{record.accuracy_before_finetuning:.2f} %",
        "to dense": f"{record.accuracy - facts.dense_accuracy:+.2f}",
        "MACs": f"{short_count(record.macs)} ({percent_of(record.macs, facts.dense_macs)})",
        "parameters": f"{short_count(record.params)} "
        f"({percent_of(record.params, facts.dense_params)})",
        "latency": f"{milliseconds(row.latency_ms)} ms" if row.latency_ms is not None else "–",
        "λ": f"{record.trade_off:.3g}" if record.kind == "search" else "–",
        "time": "–" if row.seconds is None else duration(row.seconds),
    }
