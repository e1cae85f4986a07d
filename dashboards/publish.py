"""The front of a study as one self-contained page, for a laptop and a phone."""

from __future__ import annotations

from typing import TYPE_CHECKING

from automl_prune import __version__
from automl_prune.atomic import write_file
from automl_prune.errors import (
    EnvironmentProblemError,
    LimitError,
    StudyNotFoundError,
)
from automl_prune.records import TrialRecord
from automl_prune.report import compare_with_uniform, pareto_rows, pick
from dashboards.figures import front_figure, hypervolume_figure
from dashboards.layer_figures import evenly, keep_figure, spread_figure
from dashboards.pages import Page, card, command, escape, masthead, table, tiles
from dashboards.trial_figures import loss_figure, trajectory_figure
from dashboards.wording import milliseconds, percent_of, plural, sentence, short_count

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from automl_prune.reading import StudyReader
    from automl_prune.records import StudyFacts, TrialCurves
    from automl_prune.report import ResultRow, UniformComparison
    from dashboards.layer_figures import Kept

MOST_CURVES = 8
"""Trials on the front whose inner loop the page can show."""
CLOSE_POINTS = 1.0
"""Points of accuracy that a model may lose to be called close to the dense one."""


def write_html(path: Path, study: StudyReader) -> None:
    """Write the page of a study; a reader of ``path`` sees the old page or the new one.

    Raises:
        StudyNotFoundError: no trial has finished yet.
        EnvironmentProblemError: it cannot be written; what was there before still is.
    """
    write_file(path, front_page(study).encode())


def front_page(study: StudyReader) -> str:
    """The page of a stored study as HTML.

    Raises:
        StudyNotFoundError: no trial has finished yet.
    """
    rows, facts = study.rows(), study.facts
    if not any(row.accuracy is not None for row in rows):
        raise StudyNotFoundError(
            f"study {study.name!r} has no finished trial to show yet; run `automl-prune search`"
        )
    front = pareto_rows(rows)
    page = Page(title=f"{study.name}: accuracy against MACs")
    page.add(
        masthead(study.name, lead_line(rows, facts, study.config.description)),
        verdict(compare_with_uniform(rows, facts)),
        tiles(key_numbers(rows, front, facts)),
        front_section(page, rows, facts),
    )
    if front:
        page.add(table_section(front, facts, study.name))
        page.add(keep_section(page, front, kept_units(study, front), facts))
        page.add(inner_loop_section(page, study, front))
    page.add(progress_section(page, rows, facts), footer(facts))
    return page.render()


def kept_units(study: StudyReader, rows: Sequence[ResultRow]) -> dict[int, Kept]:
    """Kept units of the given trials; of a crowd only those that a figure shows."""
    records = study.records([row.number for row in evenly(rows)])
    return {
        number: record.kept_units
        for number, record in records.items()
        if isinstance(record, TrialRecord)
    }


def lead_line(rows: Sequence[ResultRow], facts: StudyFacts, description: str) -> str:
    """What was searched, in one line."""
    failed = sum(row.state == "failed" for row in rows)
    text = f"{description}. " if description else ""
    text += f"{plural(len(rows), 'finished trial')}{f', {failed} failed' if failed else ''}; "
    return text + f"{len(facts.groups)} groups of coupled channels."


def verdict(comparison: UniformComparison) -> str:
    """Whether the search beat uniform pruning, in a box of its own."""
    ahead, behind = comparison.hv_search, comparison.hv_uniform
    tone = ""
    if ahead is not None and behind is not None and ahead != behind:
        tone = " ahead" if ahead > behind else " behind"
    return (
        f'<section class="card verdict{tone}"><h2>Did the search beat uniform pruning?</h2>'
        f"<p>{escape(sentence(comparison.sentence))}</p></section>"
    )


def key_numbers(
    rows: Sequence[ResultRow], front: Sequence[ResultRow], facts: StudyFacts
) -> list[tuple[str, str, str]]:
    """What a hurried reader wants: dense model, front, a model close to dense, the knee."""
    found = [
        (
            "Dense model",
            f"{facts.dense_accuracy:.2f} %",
            f"{short_count(facts.dense_macs)} MACs, {short_count(facts.dense_params)} parameters",
        )
    ]
    if not front:
        return found
    low, high = front[0], front[-1]
    found.append(
        (
            "On the front",
            plural(len(front), "model"),
            f"from {100 * (low.macs_ratio or 0):.0f} to {100 * (high.macs_ratio or 0):.0f} % "
            "of the dense MACs",
        )
    )
    try:
        close = pick(rows, facts, max_drop=CLOSE_POINTS)
        found.append(
            (
                f"Smallest within {CLOSE_POINTS:g} point of dense",
                f"{100 * (close.macs_ratio or 0):.0f} % MACs",
                f"trial {close.number}, {close.accuracy:.2f} %",
            )
        )
    except LimitError:
        pass  # none is that close; the front says the rest
    knee = pick(rows, facts, knee=True)
    found.append(
        (
            "Knee of the front",
            f"{knee.accuracy:.2f} %",
            f"trial {knee.number}, {100 * (knee.macs_ratio or 0):.0f} % of the dense MACs",
        )
    )
    return found


def front_section(page: Page, rows: Sequence[ResultRow], facts: StudyFacts) -> str:
    """The front as a figure."""
    return card(
        "Accuracy against MACs",
        "Every point is a pruned model; up and to the left is better. The stairs are the best "
        "accuracy within each budget. The dashed line is the dense model's accuracy.",
        page.figure(
            "front",
            front_figure(rows, facts, title=""),
            label="Accuracy on select against MACs; the table below has the numbers",
        ),
    )


def table_section(front: Sequence[ResultRow], facts: StudyFacts, name: str) -> str:
    """The front as numbers, and how to take a model off it."""
    return card(
        "The models on the front",
        "Accuracy in percent on the select split, which the search looked at. Taking a "
        "model off the front measures it on the test split too:",
        front_table(front, facts),
        command(f"automl-prune pick {name} --trial {front[-1].number} --out picked"),
    )


def front_table(front: Sequence[ResultRow], facts: StudyFacts) -> str:
    """Rows of the front and the dense model as an HTML table."""
    timed = facts.dense_latency is not None or any(row.latency_ms is not None for row in front)
    headings = [
        "trial",
        "accuracy, %",
        "to dense",
        "MACs",
        "% of dense",
        "parameters",
        "% of dense",
    ]
    body: list[list[object]] = [
        [
            row.number,
            f"{row.accuracy:.2f}",
            f"{(row.accuracy or 0) - facts.dense_accuracy:+.2f}",
            f"{row.macs:,}",
            percent_of(row.macs or 0, facts.dense_macs),
            f"{row.params:,}",
            percent_of(row.params or 0, facts.dense_params),
            *([milliseconds(row.latency_ms)] if timed else []),
        ]
        for row in front
    ]
    dense_ms = None if facts.dense_latency is None else facts.dense_latency.median_ms
    body.append(
        [
            "dense",
            f"{facts.dense_accuracy:.2f}",
            "",
            f"{facts.dense_macs:,}",
            "100 %",
            f"{facts.dense_params:,}",
            "100 %",
            *([milliseconds(dense_ms)] if timed else []),
        ]
    )
    if timed:
        headings.append("latency, ms")
    note = latency_note(facts) if timed else ""
    return table(headings, body, last_is_dense=True) + note


def latency_note(facts: StudyFacts) -> str:
    """Where latencies were measured, as a line of HTML; empty where they were not."""
    latency = facts.dense_latency
    if latency is None:
        return ""
    return (
        f'<p class="soft small">Latency at batch {latency.batch_size}, '
        f"{escape(plural(latency.threads, 'thread'))}, {escape(latency.hardware)}: median.</p>"
    )


def keep_section(
    page: Page, front: Sequence[ResultRow], kept: dict[int, Kept], facts: StudyFacts
) -> str:
    """What the front keeps, group by group."""
    return card(
        "What the models on the front keep",
        "One row per group of coupled channels, first layer at the top; one column per model, "
        "smallest at the left. Groups that stay bright are those that the network needs.",
        page.figure(
            "keep",
            keep_figure(front, kept, facts, title=""),
            label="Heat map of the channels that each group keeps in each model on the front",
        ),
        page.figure(
            "spread",
            spread_figure(front, kept, facts, title=""),
            label="Lowest, mean and highest share of channels that each group keeps on the front",
        ),
    )


def inner_loop_section(page: Page, study: StudyReader, front: Sequence[ResultRow]) -> str:
    """How models on the front came about; the reader chooses which."""
    found: list[tuple[ResultRow, TrialCurves]] = []
    for row in reversed(evenly(front, MOST_CURVES)):
        try:
            found.append((row, study.curves(row.number)))
        except (StudyNotFoundError, EnvironmentProblemError):
            continue  # tidied away by `gc`, or on another host
    if not found:
        return ""
    labels = [
        (
            f"t{row.number}",
            f"trial {row.number}: {row.accuracy:.2f} % at {row.macs_ratio:.0%} MACs",
        )
        for row, _ in found
    ]
    facts = study.facts
    ratios = [
        (value, text, trajectory_figure(curves, facts, title=""))
        for (value, text), (_, curves) in zip(labels, found, strict=True)
    ]
    losses = [
        (value, text, loss_figure(curves, title=""))
        for (value, text), (_, curves) in zip(labels, found, strict=True)
    ]
    return card(
        "How a model came about",
        "The inner loop moves weights and keep ratios in turns: channels leave, and may come "
        "back. Then the channels are removed for good and the smaller model is fine-tuned.",
        page.figures_by_choice("ratios", ratios, label="Keep ratios of the trial"),
        page.figures_by_choice("losses", losses, label="Losses of the trial"),
    )


def progress_section(page: Page, rows: Sequence[ResultRow], facts: StudyFacts) -> str:
    """Hypervolume over trials."""
    return card(
        "Is it still getting better?",
        "Hypervolume: the share of the box between guessing and 100 % accuracy, and between no "
        "MACs and those of the dense model, that the models found so far cover.",
        page.figure(
            "hypervolume",
            hypervolume_figure(rows, facts, title=""),
            label="Hypervolume of the search and of uniform pruning over finished trials",
        ),
    )


def footer(facts: StudyFacts) -> str:
    """Terms and versions."""
    notes = (
        "MACs are multiply-accumulates of one forward pass at batch 1. The uniform baseline keeps "
        "the same share of every group, held fixed, at the same number of steps."
    )
    if facts.select_contaminated:
        notes += (
            " The dense weights came from outside and may have seen the images of select: trust "
            "the test accuracy that `pick` measures."
        )
    return f"<footer>{escape(notes)} Made by automl-prune {escape(__version__)}.</footer>"
