"""The report of a study: one self-contained page for people who were not there."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from automl_prune import __version__
from automl_prune.atomic import write_file
from automl_prune.errors import ModelFolderError, StudyNotFoundError
from automl_prune.manifest import read_manifest
from automl_prune.records import TrialRecord
from automl_prune.report import compare_with_uniform, pareto_rows
from dashboards.pages import Page, card, command, escape, masthead, table, tiles
from dashboards.publish import (
    footer,
    front_section,
    front_table,
    inner_loop_section,
    keep_section,
    kept_units,
    key_numbers,
    lead_line,
    progress_section,
    table_section,
    verdict,
)
from dashboards.wording import duration, percent_of

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from automl_prune.manifest import Manifest
    from automl_prune.reading import StudyReader
    from automl_prune.records import StudyFacts
    from automl_prune.report import ResultRow

NORMAL_95 = 1.959963984540054
"""97.5 % quantile of the normal distribution."""
MOST_HARDWARE_READ = 40
"""Records that are read to say on what was computed."""


def write_report(path: Path, study: StudyReader, *, picked: Sequence[Path] = ()) -> None:
    """Write the report of a study; a reader of ``path`` sees the old page or the new one.

    Args:
        path: where.
        study: that it is about.
        picked: model folders that ``pick`` wrote from this study; their accuracy on ``test``
            is shown.

    Raises:
        StudyNotFoundError: no trial has finished yet.
        ModelFolderError: a picked folder is damaged, or of another study.
        EnvironmentProblemError: it cannot be written; what was there before still is.
    """
    write_file(path, report_page(study, picked=picked).encode())


def report_page(study: StudyReader, *, picked: Sequence[Path] = ()) -> str:
    """The report as HTML; arguments and errors as :func:`write_report`."""
    rows, facts = study.rows(), study.facts
    if not any(row.accuracy is not None for row in rows):
        raise StudyNotFoundError(
            f"study {study.name!r} has no finished trial to report yet; run `automl-prune search`"
        )
    manifests = [_of_this_study(folder, study) for folder in picked]
    front = pareto_rows(rows)
    page = Page(title=f"{study.name}: report")
    page.add(
        masthead(f"{study.name}: report", lead_line(rows, facts, study.config.description)),
        _question(study),
        verdict(compare_with_uniform(rows, facts)),
        tiles(key_numbers(rows, front, facts)),
        front_section(page, rows, facts),
    )
    if front:
        page.add(table_section(front, facts, study.name))
    page.add(_baseline(rows, facts), _picked(study, manifests), _data(study))
    if front:
        page.add(keep_section(page, front, kept_units(study, front), facts))
        page.add(inner_loop_section(page, study, front))
    page.add(
        progress_section(page, rows, facts),
        _cost(study, rows),
        _repeat(study, manifests),
        footer(facts),
    )
    return page.render()


def wilson_interval(percent: float, count: int) -> tuple[float, float]:
    """95 % confidence interval of a share, by Wilson's score.

    Args:
        percent: of ``count`` that were right.
        count: how many were looked at, >= 1.

    Returns:
        Lower and upper end, percent.
    """
    share, z = percent / 100.0, NORMAL_95
    scale = 1 + z * z / count
    middle = (share + z * z / (2 * count)) / scale
    half = z / scale * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    return 100.0 * max(middle - half, 0.0), 100.0 * min(middle + half, 1.0)


def _of_this_study(folder: Path, study: StudyReader) -> Manifest:
    manifest = read_manifest(folder)
    if manifest.study != study.name:
        raise ModelFolderError(
            f"{folder} holds a model of study {manifest.study!r}, the report is about "
            f"{study.name!r}; leave it out"
        )
    return manifest


def _question(study: StudyReader) -> str:
    builder = study.config.model.builder
    return card(
        "The question",
        f"How accurate can {builder} stay on {study.config.data.source} when whole channels are "
        "removed from it, and which channels should go? The search proposes how much each group "
        "of coupled channels keeps at first and how strongly cost counts; every trial then moves "
        "weights and keep ratios in turns, removes the channels, and fine-tunes what is left.",
    )


def _baseline(rows: Sequence[ResultRow], facts: StudyFacts) -> str:
    uniform = pareto_rows(rows, kinds=("baseline",))
    lead = (
        "The control: every group keeps the same share of its channels, held fixed, at the same "
        "number of steps. These are the models on its front."
    )
    if not uniform:
        return card("The uniform baseline", "No uniform trial finished within the limits.")
    return card("The uniform baseline", lead, front_table(uniform, facts))


def _picked(study: StudyReader, manifests: Sequence[Manifest]) -> str:
    heading = "Picked models, on images that nothing was chosen by"
    if not manifests:
        return card(
            heading,
            "None was given to this report. The test split is read only for models that are "
            "picked.",
        )
    plain = study.config.data.metric is None
    body: list[list[object]] = []
    for manifest in manifests:
        test = manifest.test
        low_high = "–"
        if test is not None and plain:
            low, high = wilson_interval(test.accuracy, test.num_images)
            low_high = f"{low:.2f} to {high:.2f}"
        body.append(
            [
                f"trial {manifest.trial}",
                f"{manifest.select.accuracy:.2f}",
                "not measured" if test is None else f"{test.accuracy:.2f}",
                low_high,
                "–" if test is None else f"{test.num_images:,}",
                percent_of(manifest.macs, manifest.dense.macs),
                percent_of(manifest.params, manifest.dense.params),
            ]
        )
    return card(
        heading,
        "Accuracy on select is what the search looked at, so it flatters; test was read only "
        "after picking. The interval covers the choice of test images, not another seed.",
        table(
            [
                "model",
                "select, %",
                "test, %",
                "95 % interval",
                "test images",
                "MACs of dense",
                "parameters of dense",
            ],
            body,
        ),
    )


def _data(study: StudyReader) -> str:
    purpose = {
        "train": "weights",
        "search": "keep ratios",
        "select": "the objective of a trial",
        "test": "picked models only",
    }
    facts = study.facts
    body = [[name, f"{size:,}", purpose.get(name, "")] for name, size in facts.split_sizes.items()]
    channels, height, width = facts.input_shape
    return card(
        "The data",
        f"{study.config.data.source}: images of {channels} x {height} x {width} values, "
        f"number of classes {len(facts.class_names):,}; four disjoint splits.",
        table(["split", "images", "used for"], body, words=(0, 2)),
    )


def _cost(study: StudyReader, rows: Sequence[ResultRow]) -> str:
    seconds = sum(row.seconds or 0.0 for row in rows)
    finished = [row.finished_at for row in rows]
    failed = sum(row.state == "failed" for row in rows)
    stopped = sum(row.state == "pruned" for row in rows)
    newest = [row.number for row in rows if row.state == "complete"][-MOST_HARDWARE_READ:]
    records = [r for r in study.records(newest).values() if isinstance(r, TrialRecord)]
    hardware = sorted({record.hardware for record in records if record.hardware})
    versions = sorted({f"{k} {v}" for record in records for k, v in record.versions.items()})
    body: list[list[object]] = [
        ["finished trials", f"{len(rows):,}"],
        ["of these failed, stopped early", f"{failed:,}, {stopped:,}"],
        ["computing time of all trials", duration(seconds)],
        ["from the first to the last result", duration(max(finished) - min(finished))],
        ["computed on", ", ".join(hardware) or "not recorded"],
        ["versions", ", ".join(versions) or "not recorded"],
        ["this page made by", f"automl-prune {__version__}"],
        ["seed of the study", str(study.config.seed)],
    ]
    lines = "".join(
        f"<tr><th class=words scope=row>{escape(name)}</th>"
        f"<td class='words wrap'>{escape(value)}</td></tr>"
        for name, value in body
    )
    return card(
        "What the search cost",
        "Training of the dense model is not counted.",
        f'<div class="scroll" tabindex="0"><table><tbody>{lines}</tbody></table></div>',
    )


def _repeat(study: StudyReader, manifests: Sequence[Manifest]) -> str:
    config = study.config
    picks = [
        f"automl-prune pick {study.name} --trial {manifest.trial} --out trial-{manifest.trial}"
        for manifest in manifests
    ]
    return card(
        "How to repeat it",
        "The same study file, seed and number of threads give the same front, bit for bit, on a "
        f"CPU with these versions. Digest of the study's configuration: {config.digest()}; of the "
        f"dense weights: {study.facts.dense_digest[:16]}.",
        command(
            f"automl-prune search {study.name}.toml --trials {len(study.rows())}",
            f"automl-prune pareto {study.name}",
            *picks,
        ),
        "<details><summary>The configuration as it is stored</summary>"
        f"{command(config.model_dump_json(indent=2))}</details>",
    )
