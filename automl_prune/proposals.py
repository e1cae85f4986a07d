"""What a new trial of a stored study starts from: the uniform baseline first, then the sampler."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import sqlalchemy as sa

from automl_prune.sampling import Mirror, Seen
from automl_prune.space import objectives_of_row
from automl_prune.storage.slots import OPEN, Proposed
from automl_prune.storage.tables import results, slots

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection

    from automl_prune.config import StudyConfig
    from automl_prune.space import Space
    from automl_prune.storage.database import Database


class Proposer:
    """Proposes trials of one study; reads its history as it grows."""

    def __init__(
        self, database: Database, *, study_id: int, config: StudyConfig, space: Space
    ) -> None:
        """Read nothing yet."""
        self._database = database
        self._study_id = study_id
        self._config = config
        self._space = space
        self._mirror = Mirror(space, sampler=config.search.sampler, seed=config.seed)
        self._seen = 0
        """Results up to this place in the order of finishing are in the mirror."""

    def propose(self, number: int, *, salt: str | None) -> Proposed:
        """A trial that may begin under ``number``; a search trial with salt under any.

        Args:
            number: the next one, as far as is known.
            salt: of this worker, once others have been seen to propose at the same time: two
                workers with the same history must not propose the same.
        """
        if number < self._space.num_baselines:
            ratios, trade_off = self._space.baseline(number)
            return Proposed(
                kind="baseline",
                ratios=ratios,
                trade_off=trade_off,
                sampler_notes={},
                number=number,
            )
        self._mirror.update(self._database.read(self._history))
        params, notes = self._mirror.propose(number, salt=salt)
        ratios, trade_off = self._space.from_params(params)
        return Proposed(
            kind="search",
            ratios=ratios,
            trade_off=trade_off,
            sampler_notes=notes,
            number=number if salt is None else None,
        )

    def _history(self, connection: Connection) -> list[Seen]:
        """What finished since the last call, in that order, and what is open now."""
        together = (results.c.study_id == slots.c.study_id) & (results.c.number == slots.c.number)
        query = sa.select(
            slots.c.number,
            slots.c.ratios,
            slots.c.trade_off,
            slots.c.state,
            slots.c.sampler_notes,
            results.c.accuracy,
            results.c.macs,
            results.c.latency_ms,
            results.c.constraints,
            results.c.finish_order,
        ).where(slots.c.study_id == self._study_id)
        finished = connection.execute(
            query.join_from(slots, results, together)
            .where(results.c.finish_order > self._seen)
            .order_by(results.c.finish_order)
        ).all()
        still_open = connection.execute(
            query.join_from(slots, results, together, isouter=True)
            .where(slots.c.state.in_(OPEN))
            .order_by(slots.c.number)
        ).all()
        if finished:
            self._seen = finished[-1].finish_order
        return [
            Seen(
                number=row.number,
                state=row.state,
                params=self._space.to_params(json.loads(row.ratios), row.trade_off),
                values=None
                if row.accuracy is None or row.state in OPEN
                else objectives_of_row(self._config, row),
                constraints=json.loads(row.constraints or "{}"),
                notes=json.loads(row.sampler_notes),
            )
            for row in [*finished, *still_open]
        ]
