"""Verbs that read a stored study: status, show, pareto; none of them loads torch."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from automl_prune.cli import options
from automl_prune.cli.screens import (
    duration,
    macs_text,
    percent,
    print_pairs,
    print_table,
    say,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from automl_prune.reading import OpenTrial, WorkerRow
    from automl_prune.records import StudyFacts
    from automl_prune.report import ResultRow

COLUMNS = (
    "trial",
    "kind",
    "state",
    "on_front",
    "feasible",
    "accuracy",
    "macs",
    "macs_ratio",
    "params",
    "latency_ms",
)


def register(app: typer.Typer) -> None:
    """Add the verbs to the command line."""
    app.command("status")(status)
    app.command("show")(show)
    app.command("pareto")(pareto)


def status(
    study: options.Study, storage: options.Storage = None, as_json: options.AsJson = False
) -> None:
    """Say how far a study is, and whether the search beats uniform pruning so far.

    Example: automl-prune status digits
    """
    from automl_prune.cli.places import open_for_reading
    from automl_prune.report import compare_with_uniform, state_in_words

    handle = open_for_reading(study, storage)
    rows, facts = handle.rows(), handle.facts
    states: dict[str, int] = {}
    for row in rows:
        states[row.state] = states.get(row.state, 0) + 1
    front = handle.front(rows)
    comparison = compare_with_uniform(rows, facts)
    if as_json:
        say(
            json.dumps(
                {
                    "study": handle.name,
                    "target": handle.target(),
                    "finished": handle.finished_count(),
                    "states": states,
                    "front": [row.number for row in front],
                    "dense_accuracy": facts.dense_accuracy,
                    "dense_macs": facts.dense_macs,
                    "hypervolume_search": comparison.hv_search,
                    "hypervolume_uniform": comparison.hv_uniform,
                    "sentence": comparison.sentence,
                },
                indent=2,
            )
        )
        return
    pairs = [
        ("study", handle.name),
        ("finished", f"{handle.finished_count()} of {handle.target()} trials"),
        (
            "trials",
            ", ".join(f"{n} {state_in_words(state)}" for state, n in sorted(states.items())),
        ),
        (
            "open",
            ", ".join(_open_text(trial) for trial in handle.open_trials()),
        ),
        ("workers", "\n".join(_worker_text(worker) for worker in handle.workers())),
        (
            "dense model",
            f"accuracy {percent(facts.dense_accuracy)}, {macs_text(facts.dense_macs)}MACs, "
            f"{facts.dense_params:,} parameters",
        ),
        ("reachable", f"{facts.min_macs / facts.dense_macs:.1%} of the dense MACs and more"),
        ("front", _front_text(front, facts)),
        ("so far", comparison.sentence),
    ]
    print_pairs((name, value) for name, value in pairs if value)


def _open_text(trial: OpenTrial) -> str:
    again = f" (attempt {trial.attempts})" if trial.attempts > 1 else ""
    return f"trial {trial.number} {trial.state}{again}"


def _worker_text(worker: WorkerRow) -> str:
    place = f"{worker.host}, process {worker.pid}, {worker.device}"
    if not worker.alive:
        return f"{place}: silent for {duration(worker.silent_s)}"
    if worker.trial is None:
        return f"{place}: between two trials"
    fraction = (worker.progress or {}).get("fraction")
    return f"{place}: trial {worker.trial}" + (
        f", {fraction:.0%}" if isinstance(fraction, float) else ""
    )


def _front_text(front: Sequence[ResultRow], facts: StudyFacts) -> str:
    if not front:
        return "no search trial is finished yet"
    low, high = front[0], front[-1]
    return (
        f"{len(front)} models, from {percent(low.accuracy)} at {low.macs_ratio:.1%} "
        f"to {percent(high.accuracy)} at {high.macs_ratio:.1%} of the dense MACs"
    )


def show(
    study: options.Study,
    trial: Annotated[int, typer.Argument(metavar="TRIAL", min=0, show_default=False)],
    storage: options.Storage = None,
    as_json: options.AsJson = False,
) -> None:
    """Show a trial: its record and groups; of a failed one, why, and its log.

    Example: automl-prune show digits 7
    """
    from automl_prune.cli.places import open_for_reading
    from automl_prune.records import to_json

    handle = open_for_reading(study, storage)
    record = handle.record(trial)
    if as_json:
        say(to_json(record))
        return
    from automl_prune.records import FailureRecord
    from automl_prune.report import state_in_words

    if isinstance(record, FailureRecord):
        print_pairs(
            [
                ("trial", f"{trial} ({record.kind}), failed"),
                ("error", record.error),
                ("λ", f"{record.trade_off:.4g}"),
                ("seed", str(record.seed)),
                ("log", record.log),
            ]
        )
        return
    facts = handle.facts
    latency = record.latency
    print_pairs(
        [
            ("trial", f"{trial} ({record.kind}), {state_in_words(record.state)}"),
            (
                "accuracy",
                f"{percent(record.accuracy)} on select "
                f"(before fine-tuning {percent(record.accuracy_before_finetuning)}, "
                f"dense {percent(facts.dense_accuracy)})",
            ),
            ("MACs", f"{record.macs:,} ({record.macs / facts.dense_macs:.1%} of the dense model)"),
            ("parameters", f"{record.params:,}"),
            (
                "latency",
                "not measured"
                if latency is None
                else f"{latency.median_ms:.3f} ms (±{latency.spread_ms:.3f}) at batch "
                f"{latency.batch_size}, {latency.threads} threads, {latency.hardware}",
            ),
            ("λ", f"{record.trade_off:.4g}" if record.kind == "search" else "- (ratios held)"),
            ("seed", str(record.seed)),
            (
                "steps",
                f"{record.weight_steps} weight, {record.ratio_steps} ratio, "
                f"{record.finetune_steps} fine-tuning",
            ),
            ("started from", record.start_in_words),
            ("equivalence", f"masked and pruned differ by {record.equivalence_error:.1e}"),
            ("time", ", ".join(f"{k} {duration(v)}" for k, v in record.phase_s.items())),
            ("weights", record.weights_digest[:16]),
        ]
    )
    print_table(
        "",
        ["group", "units kept", "start ratio", "final ratio"],
        [
            (
                group.name,
                f"{record.kept_units.get(group.name, group.units)} of {group.units}",
                f"{record.start_ratios.get(group.name, 1.0):.3f}",
                f"{record.final_ratios.get(group.name, 1.0):.3f}",
            )
            for group in facts.groups
        ],
    )


def pareto(
    study: options.Study,
    storage: options.Storage = None,
    everything: Annotated[
        bool, typer.Option("--all", help="Dominated, infeasible and failed trials too.")
    ] = False,
    html: Annotated[
        Path | None,
        typer.Option("--html", metavar="FILE", help="Write the front as one self-contained page."),
    ] = None,
    csv_file: Annotated[
        Path | None, typer.Option("--csv", metavar="FILE", help="Write the table as CSV.")
    ] = None,
    as_json: options.AsJson = False,
) -> None:
    """Show the front of accuracy against MACs, or latency where that is the study's objective.

    Example: automl-prune pareto digits --html front.html
    """
    from automl_prune.cli.places import open_for_reading
    from automl_prune.errors import StudyNotFoundError

    handle = open_for_reading(study, storage)
    rows = handle.rows()
    front = handle.front(rows)
    on_front = {row.number for row in front}
    shown = sorted(rows, key=lambda row: row.number) if everything else front
    if not shown:
        raise StudyNotFoundError(
            f"study {handle.name!r} has no complete, feasible search trial yet, so it has no "
            f"front; run `automl-prune search {study}` first"
            + (f" ({len(rows)} other trials are finished: see --all)" if rows else "")
        )
    table = [_as_dict(row, on_front=row.number in on_front) for row in shown]
    if csv_file is not None:
        from automl_prune.atomic import write_file

        write_file(csv_file, _as_csv(table).encode())
    if html is not None:
        from automl_prune.atomic import write_file
        from dashboards.publish import front_page

        write_file(html, front_page(handle).encode())
    if as_json:
        say(json.dumps(table, indent=2))
        return
    _print_front(handle.name, shown, on_front, handle.facts, everything=everything)
    for path in (html, csv_file):
        if path is not None:
            say(f"written: {path}")


def _as_dict(row: ResultRow, *, on_front: bool) -> dict[str, object]:
    return {
        "trial": row.number,
        "kind": row.kind,
        "state": row.state,
        "on_front": on_front,
        "feasible": row.feasible,
        "accuracy": row.accuracy,
        "macs": row.macs,
        "macs_ratio": row.macs_ratio,
        "params": row.params,
        "latency_ms": row.latency_ms,
    }


def _as_csv(table: Sequence[dict[str, object]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(table)
    return text.getvalue()


def _print_front(
    name: str,
    rows: Sequence[ResultRow],
    on_front: set[int],
    facts: StudyFacts,
    *,
    everything: bool,
) -> None:
    def note(row: ResultRow) -> str:
        if row.error:
            return row.error.partition("\n")[0][:60]
        if not row.feasible:
            return "infeasible"
        return "" if row.number in on_front else "dominated"

    headings = ["trial", "kind", "accuracy", "MACs", "of dense", "params", "latency ms"]
    body = [
        [
            str(row.number),
            row.kind,
            percent(row.accuracy),
            "-" if row.macs is None else f"{row.macs:,}",
            "-" if row.macs_ratio is None else f"{row.macs_ratio:.1%}",
            "-" if row.params is None else f"{row.params:,}",
            "-" if row.latency_ms is None else f"{row.latency_ms:.2f}",
            *([f"{row.shown_state} {note(row)}".strip()] if everything else []),
        ]
        for row in rows
    ]
    body.append(
        [
            "dense",
            "",
            percent(facts.dense_accuracy),
            f"{facts.dense_macs:,}",
            "100.0%",
            f"{facts.dense_params:,}",
            "-" if facts.dense_latency is None else f"{facts.dense_latency.median_ms:.2f}",
            *([""] if everything else []),
        ]
    )
    title = f"{name}: all trials" if everything else f"{name}: the front, accuracy on select"
    print_table(title, [*headings, *(["state"] if everything else [])], body, left=2)
    if facts.dense_latency is not None:
        latency = facts.dense_latency
        say(
            f"latency at batch {latency.batch_size}, {latency.threads} threads, {latency.hardware}"
        )
