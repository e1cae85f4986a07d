"""What can be taken away: a model folder as a zip file, the table as CSV. Digests are compared."""

from __future__ import annotations

import csv
import io
import tempfile
import zipfile
from typing import IO, TYPE_CHECKING, cast

from automl_prune.card import model_card
from automl_prune.errors import ModelFolderError
from automl_prune.manifest import EXPORT_FORMATS, parse_manifest
from automl_prune.reading import MODEL_FILES
from automl_prune.report import pareto_rows

if TYPE_CHECKING:
    from collections.abc import Sequence

    from automl_prune.reading import StudyReader
    from automl_prune.report import ResultRow

IN_MEMORY_BYTES = 32 * 1024 * 1024
CARD_FILE = "README.md"
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
    "latency_hardware",
    "trade_off",
    "error",
)


def model_zip(study: StudyReader, number: int) -> IO[bytes]:
    """The model folder of a trial as a zip file, at its beginning; the caller closes it.

    Beside model and manifest: the model card, and exported forms if the trial has any.

    Raises:
        StudyNotFoundError: no such trial, or it has no model (any more).
        EnvironmentProblemError: a file is missing, or not what was stored.
    """
    exports = [f"model.{name}" for name in EXPORT_FORMATS]
    there = study.artifacts_of(number)
    folder = f"{study.name}-trial-{number}"
    spool = cast(
        "IO[bytes]",
        tempfile.SpooledTemporaryFile(max_size=IN_MEMORY_BYTES),  # noqa: SIM115  # handed on
    )
    try:
        with zipfile.ZipFile(spool, "w") as archive:
            for name in [*MODEL_FILES, *(name for name in exports if name in there)]:
                content = study.artifact(number, name)
                archive.writestr(f"{folder}/{name}", content)
                if name == "manifest.json":
                    card = _card(content)
                    if card is not None:
                        archive.writestr(f"{folder}/{CARD_FILE}", card)
    except BaseException:
        spool.close()
        raise
    spool.seek(0)
    return spool


def _card(manifest: bytes) -> str | None:
    """The model card; none where the manifest is of another version than ours."""
    try:
        return model_card(parse_manifest(manifest.decode(), origin="manifest.json"))
    except (ModelFolderError, UnicodeDecodeError):
        return None


def table_csv(rows: Sequence[ResultRow]) -> str:
    """Every finished trial, one a line, by number; empty where there is no value."""
    on_front = {row.number for row in pareto_rows(rows)}
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    for row in rows:
        values = {name: getattr(row, name, None) for name in COLUMNS}
        error = row.error
        if error is not None and error[:1] in ("=", "+", "-", "@"):
            error = f"'{error}"  # a spreadsheet must not take it for a formula
        writer.writerow(
            {**values, "trial": row.number, "on_front": row.number in on_front, "error": error}
        )
    return text.getvalue()
