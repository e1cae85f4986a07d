"""What the Optuna dashboard shows of ours: two figures, a note on the study and on its trials.

The Optuna dashboard does not know limits, and takes its own front from all trials; so our figures
go in as custom plots. They lie in study attributes of 2,045 characters each, which are not
replaced all at once: figures are small, keep their ids, and one process at a time writes them.
"""

from __future__ import annotations

import logging
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from automl_prune.errors import AutoMLPruneError
from automl_prune.records import TrialRecord
from dashboards.figures import front_figure
from dashboards.layer_figures import evenly, keep_figure, prunable
from dashboards.wording import milliseconds, percent_of, sentence, short_count

if TYPE_CHECKING:
    from collections.abc import Sequence

    from optuna.storages import BaseStorage

    from automl_prune.reading import StudyReader
    from automl_prune.records import StudyFacts
    from automl_prune.report import ResultRow
    from dashboards.view import Snapshot, Studies

logger = logging.getLogger(__name__)

FRONT_ID = "automl-prune-front"
CHANNELS_ID = "automl-prune-channels"
POINTS_PER_CLASS = 120
MOST_COLUMNS = 24
LARGEST_FIGURE = 150_000
"""Characters; a figure beyond it is not published, for every reader of the study loads it."""
MOST_NOTES = 500
"""Trials with a note: the front first, then the newest. All notes are loaded with the study."""
NOTES_AT_ONCE = 50
OUR_MARK = "*Written by automl-prune.*"
EVERY_S = 20.0


@dataclass(frozen=True, slots=True)
class _NotedTrial:
    """As much of an Optuna trial as ``save_note`` looks at; a finished one cannot be a Trial."""

    study: Any
    storage: BaseStorage
    _trial_id: int


def publish_pages(study: StudyReader, snapshot: Snapshot, storage: BaseStorage) -> int:
    """Write figures and notes of a study for the Optuna dashboard; notes of people are left alone.

    Args:
        study: ours.
        snapshot: of it, as it is now.
        storage: Optuna's, of the same database.

    Returns:
        How many notes on trials were written; at most ``NOTES_AT_ONCE``, the next call goes on.
    """
    import optuna
    from optuna_dashboard import save_plotly_graph_object

    with study.storage.database.exclusive(f"pages/{study.study_id}"):
        name = storage.get_study_name_from_id(study.optuna_study_id)
        theirs = optuna.load_study(study_name=name, storage=storage)
        for figure_id, figure in _figures(study, snapshot).items():
            if len(figure.to_json()) <= LARGEST_FIGURE:
                save_plotly_graph_object(theirs, figure, graph_object_id=figure_id)
            else:
                logger.warning("%s is too large for the Optuna dashboard, left out", figure_id)
        _note(theirs, study_note(study, snapshot), replace=True)
        return _note_trials(theirs, study, snapshot, storage)


def _figures(study: StudyReader, snapshot: Snapshot) -> dict[str, Any]:
    shown = evenly(snapshot.front, MOST_COLUMNS)
    kept = {
        number: record.kept_units
        for number, record in study.records([row.number for row in shown]).items()
        if isinstance(record, TrialRecord)
    }
    figures = {
        FRONT_ID: front_figure(
            snapshot.rows,
            study.facts,
            most_drawn=POINTS_PER_CLASS,
            title="automl-prune: accuracy against MACs",
        ).update_layout(
            # The Optuna dashboard draws it half as wide as a page: no room above for both.
            legend={"y": -0.2, "yanchor": "top", "font": {"size": 11}},
            margin={"t": 48, "b": 90},
        )
    }
    if shown:
        figures[CHANNELS_ID] = keep_figure(
            shown, kept, study.facts, title="automl-prune: channels kept along the front"
        )
    return figures


def _note_trials(theirs: Any, study: StudyReader, snapshot: Snapshot, storage: BaseStorage) -> int:
    attributes = storage.get_study_system_attrs(study.optuna_study_id)
    finished = [row.number for row in reversed(snapshot.rows)]
    wanted = list(dict.fromkeys([*(row.number for row in snapshot.front), *finished]))
    written = 0
    for number in wanted[:MOST_NOTES]:
        if written == NOTES_AT_ONCE:
            break
        try:
            trial_id = storage.get_trial_id_from_study_id_trial_number(
                study.optuna_study_id, number
            )
        except KeyError:
            continue  # not carried over to Optuna's tables yet
        if f"dashboard:{trial_id}:note_ver" in attributes:
            continue
        text = trial_note(study, snapshot.by_number[number])
        _note(_NotedTrial(theirs, storage, trial_id), text, replace=False)
        written += 1
    return written


def _note(where: Any, text: str, *, replace: bool) -> None:
    from optuna_dashboard import get_note, save_note

    before = get_note(where) if replace else ""
    if before != text and (not before or OUR_MARK in before):
        save_note(where, text)


def study_note(study: StudyReader, snapshot: Snapshot) -> str:
    """What one should know who looks at the study in the Optuna dashboard, in Markdown."""
    facts = study.facts
    return "\n\n".join(
        [
            f"## {study.name}",
            sentence(snapshot.comparison(study).sentence),
            f"Dense model: {facts.dense_accuracy:.2f} % on select, {facts.dense_macs:,} MACs, "
            f"{facts.dense_params:,} parameters.",
            f"**[Open the Pareto explorer](/explorer/?study={study.name})** to choose a model.",
            "This dashboard's own Pareto front also counts trials beyond the study's limits and "
            "the uniform baseline; in the custom plots these are classes of their own.",
            OUR_MARK,
        ]
    )


def trial_note(study: StudyReader, row: ResultRow) -> str:
    """Accuracy, MACs and groups of a trial, or why it failed, in Markdown."""
    record = study.record(row.number)
    link = f"[Trial {row.number} in the Pareto explorer](/explorer/?study={study.name})"
    if not isinstance(record, TrialRecord):
        return "\n\n".join([f"**Failed:** `{record.error[:400]}`", link, OUR_MARK])
    facts = study.facts
    lines = [
        f"**{record.accuracy:.2f} %** on select ({record.accuracy - facts.dense_accuracy:+.2f} "
        f"to dense), **{short_count(record.macs)} MACs** "
        f"({percent_of(record.macs, facts.dense_macs)} of dense), "
        f"{short_count(record.params)} parameters"
        + ("" if row.latency_ms is None else f", {milliseconds(row.latency_ms)} ms"),
        *([] if row.feasible else ["Beyond the study's limits."]),
        _groups(record, facts),
        link,
        OUR_MARK,
    ]
    return "\n\n".join(lines)


def _groups(record: TrialRecord, facts: StudyFacts) -> str:
    rows = ["| group | channels | of |", "|---|---|---|"]
    rows += [
        f"| `{group.name}` "
        f"| {record.kept_units.get(group.name, group.units) * group.channels_per_unit} "
        f"| {group.units * group.channels_per_unit} |"
        for group in prunable(facts)
    ]
    return "\n".join(rows)


class PagePublisher:
    """Keeps the Optuna dashboard's pages up to date while a server runs."""

    def __init__(self, studies: Studies, storage: BaseStorage) -> None:
        """Start nothing yet."""
        self._studies = studies
        self._storage = storage
        self._done: dict[tuple[str, int], int] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="optuna-pages", daemon=True)

    def start(self) -> None:
        """Publish now and then, in a thread of its own."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread."""
        self._stop.set()
        self._thread.join()

    def publish_changed(self) -> Sequence[str]:
        """Publish every study in which something finished; names of those that were."""
        published = []
        for name in self._studies.names():
            view = self._studies.view(name)
            snapshot = view.snapshot()
            key = (name, view.reader.study_id)
            if not snapshot.rows or self._done.get(key) == snapshot.finished:
                continue
            if publish_pages(view.reader, snapshot, self._storage) < NOTES_AT_ONCE:
                self._done[key] = snapshot.finished
            published.append(name)
        return published

    def _run(self) -> None:
        from optuna.exceptions import OptunaError
        from sqlalchemy.exc import SQLAlchemyError

        while not self._stop.is_set():
            try:
                self.publish_changed()
            except (AutoMLPruneError, OptunaError, SQLAlchemyError, KeyError) as error:
                logger.info("pages of the Optuna dashboard: put off, %s", type(error).__name__)
            self._stop.wait(EVERY_S)
