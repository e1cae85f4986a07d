"""Rungs: what trials had reached part of the way through their fine-tuning."""

from __future__ import annotations

from typing import TYPE_CHECKING

import sqlalchemy as sa

from automl_prune.storage.tables import rungs, slots

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection

    from automl_prune.early_stopping import Rung


def note_rung(connection: Connection, study_id: int, number: int, rung: Rung) -> None:
    """Keep where a trial is at a rung; a repetition of the trial writes the same again.

    Args:
        connection: in a writing transaction.
        study_id: our number of the study.
        number: of the trial.
        rung: what it has reached.
    """
    key = {"study_id": study_id, "number": number, "rung": rung.number}
    connection.execute(sa.delete(rungs).filter_by(**key))
    connection.execute(
        sa.insert(rungs).values(**key, step=rung.step, accuracy=rung.accuracy, macs=rung.macs)
    )


def finished_at_rung(
    connection: Connection, study_id: int, number: int
) -> list[tuple[float, int]]:
    """(accuracy at rung ``number``, MACs) of every trial that was run to its end."""
    rows = connection.execute(
        sa.select(rungs.c.accuracy, rungs.c.macs)
        .join(slots, (slots.c.study_id == rungs.c.study_id) & (slots.c.number == rungs.c.number))
        .where(rungs.c.study_id == study_id, rungs.c.rung == number, slots.c.state == "complete")
    )
    return [(row.accuracy, row.macs) for row in rows]
