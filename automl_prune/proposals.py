"""What a new trial of a stored study starts from: the uniform baseline first, then the sampler."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import sqlalchemy as sa

from automl_prune.config import expected_macs_ratio
from automl_prune.parents import Parents
from automl_prune.space import objectives_of_row
from automl_prune.storage.slots import OPEN, Proposed
from automl_prune.storage.tables import results, slots
from automl_prune.sweep import swept_ratios, swept_trade_off

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection

    from automl_prune.config import StudyConfig
    from automl_prune.parents import Ancestor
    from automl_prune.records import StudyFacts
    from automl_prune.sampling import Mirror, Seen
    from automl_prune.space import Space
    from automl_prune.storage.database import Database


class Proposer:
    """Proposes trials of one study; reads its history as it grows."""

    def __init__(
        self,
        database: Database,
        *,
        study_id: int,
        config: StudyConfig,
        facts: StudyFacts,
        space: Space,
    ) -> None:
        """Read nothing yet."""
        self._database = database
        self._study_id = study_id
        self._config = config
        self._space = space
        self._dense_macs = facts.dense_macs
        self._parents = Parents(
            database,
            study_id=study_id,
            units={group.name: group.units for group in facts.groups},
        )
        self._mirror: Mirror | None = None
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
        if self._config.search.sampler == "sweep":
            return self._swept(number)
        params, notes = self._get_mirror().propose(number, salt=salt)
        ratios, trade_off = self._space.from_params(params)
        ancestor = self._ancestor(trade_off)
        return Proposed(
            kind="search",
            ratios=ratios,
            trade_off=trade_off,
            sampler_notes=notes,
            number=number if salt is None else None,
            parent=None if ancestor is None else ancestor.parent,
        )

    def _swept(self, number: int) -> Proposed:
        """Of the sweep, whose proposals belong to a number."""
        search, space = self._config.search, self._space
        planned = max(1, search.trials - space.num_baselines)
        trade_off = swept_trade_off(space, number - space.num_baselines, planned)
        ancestor = self._ancestor(trade_off)
        kept, macs_ratio = (
            ({}, 1.0) if ancestor is None else (ancestor.kept, ancestor.macs / self._dense_macs)
        )
        return Proposed(
            kind="search",
            ratios=swept_ratios(space, trade_off, kept, macs_ratio),
            trade_off=trade_off,
            sampler_notes={},
            number=number,
            parent=None if ancestor is None else ancestor.parent,
        )

    def _ancestor(self, trade_off: float) -> Ancestor | None:
        if not self._config.search.inherit:
            return None
        return self._parents.smallest_above(expected_macs_ratio(trade_off) * self._dense_macs)

    def _get_mirror(self) -> Mirror:
        """The study as Optuna's samplers see it, up to date; Optuna is loaded for it."""
        from automl_prune.sampling import Mirror

        if self._mirror is None:
            search = self._config.search
            self._mirror = Mirror(self._space, sampler=search.sampler, seed=self._config.seed)
        self._mirror.update(self._database.read(self._history))
        return self._mirror

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
        from automl_prune.sampling import Seen

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
