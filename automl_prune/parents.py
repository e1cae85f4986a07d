"""Which finished trial a new one goes on from.

A trial that is to end at a certain size starts from the weights and widths of the smallest model
on the front that is at least as large. So the training of a line of trials adds up, while every
trial costs the same.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

import sqlalchemy as sa

from automl_prune.manifest import WEIGHTS_FILE
from automl_prune.pareto import front
from automl_prune.records import Parent, TrialRecord, from_json
from automl_prune.storage.tables import results

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection

    from automl_prune.storage.database import Database


@dataclass(frozen=True, slots=True, kw_only=True)
class Ancestor:
    """A finished trial, as a new one needs to know it."""

    parent: Parent
    kept: dict[str, float]
    """Kept share of every group's units."""
    macs: int


class Parents:
    """Finished trials of one study that have a model, read as they come.

    Args:
        database: of the study.
        study_id: our number of the study.
        units: units of every group.
    """

    def __init__(self, database: Database, *, study_id: int, units: dict[str, int]) -> None:
        self._database, self._study_id, self._units = database, study_id, units
        self._seen = 0
        self._found: list[tuple[int, float, int]] = []
        """Number, accuracy, MACs."""

    def smallest_above(self, least_macs: float) -> Ancestor | None:
        """The smallest model of the front with at least so many MACs; None: the dense one.

        The same for the same finished trials, whoever asks.
        """
        self._database.read(self._read_on)
        accuracies, macs = ([row[i] for row in self._found] for i in (1, 2))
        for index in front(accuracies, macs):  # by rising MACs
            if macs[index] >= least_macs:
                return self._ancestor(self._found[index][0])
        return None

    def _read_on(self, connection: Connection) -> None:
        rows = connection.execute(
            sa.select(results.c.number, results.c.accuracy, results.c.macs, results.c.finish_order)
            .where(
                results.c.study_id == self._study_id,
                results.c.state == "complete",
                results.c.finish_order > self._seen,
            )
            .order_by(results.c.finish_order)
        ).all()
        # their models may have been removed meanwhile, those of earlier ones as well
        self._found += [(row.number, row.accuracy, row.macs) for row in rows]
        self._seen = rows[-1].finish_order if rows else self._seen
        with_model = set(numbers_with_model(connection, self._study_id))
        self._found = [row for row in self._found if row[0] in with_model]

    def _ancestor(self, number: int) -> Ancestor:
        text = self._database.read(
            lambda c: c.scalar(
                sa.select(results.c.record).where(
                    results.c.study_id == self._study_id, results.c.number == number
                )
            )
        )
        record = from_json(TrialRecord, str(text))
        return Ancestor(
            parent=Parent(
                number=number, weights_digest=record.weights_digest, steps=record.steps_of_line
            ),
            kept={name: count / self._units[name] for name, count in record.kept_units.items()},
            macs=record.macs,
        )


def numbers_with_model(connection: Connection, study_id: int) -> list[int]:
    """Numbers of the trials whose model is there."""
    rows = connection.execute(
        sa.select(results.c.number, results.c.artifacts).where(
            results.c.study_id == study_id, results.c.artifacts != "{}"
        )
    ).all()
    return [row.number for row in rows if WEIGHTS_FILE in json.loads(row.artifacts)]
