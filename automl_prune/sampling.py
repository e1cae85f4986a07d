"""Proposing a trial: Optuna's samplers on a mirror of the study in memory.

A sampler that reads and writes the database pays a transaction per parameter. Here it works on an
in-memory study that is fed with the history as it grows, and what it proposes is written in one
transaction by the caller. Every proposal has a sampler of its own, seeded by the study's seed and
the trial's number, so a study that is run by one worker repeats itself bit for bit, interrupted or
not.
"""

from __future__ import annotations

import warnings
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import optuna
from optuna.distributions import FloatDistribution
from optuna.exceptions import ExperimentalWarning
from optuna.samplers import (
    BaseGASampler,
    BaseSampler,
    GPSampler,
    NSGAIIISampler,
    NSGAIISampler,
    RandomSampler,
    TPESampler,
)
from optuna.study import StudyDirection
from optuna.trial import TrialState

from automl_prune.seeds import derive_seed

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from optuna.distributions import BaseDistribution
    from optuna.trial import FrozenTrial

    from automl_prune.space import Space

DIRECTIONS = (StudyDirection.MAXIMIZE, StudyDirection.MINIMIZE)
"""Accuracy up, cost down."""
CONSTRAINT_PREFIX = "constraints:"
"""Prefix of the system attributes that ``Trial.set_constraint`` writes."""
RELATIVE_PARAMS = "relative_params"
"""In the names of a sampler's notes of parameters that are not set yet; here they all are."""
STATES = {
    "complete": TrialState.COMPLETE,
    "pruned": TrialState.PRUNED,
    "failed": TrialState.FAIL,
}
POPULATION = 16
"""Of the genetic samplers: their own default of 50 would make most studies random search."""
CANDIDATES = 64
"""TPE draws so many candidates from its model of good trials; they cost little."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """A trial of the study as the sampler has to know it."""

    number: int
    state: str
    """running, or finished: complete, pruned, failed."""
    params: dict[str, float]
    values: tuple[float, float] | None
    constraints: dict[str, float]
    notes: dict[str, object]
    """What the sampler noted when it proposed the trial."""


class Mirror:
    """The study in memory, for the sampler."""

    def __init__(self, space: Space, *, sampler: str, seed: int) -> None:
        """An empty mirror.

        Args:
            space: of the study.
            sampler: tpe, nsga2, nsga3, gp or random.
            seed: of the study.
        """
        self._distributions = distributions(space)
        self._sampler = sampler
        self._seed = seed
        self._storage = optuna.storages.InMemoryStorage()
        with quiet_optuna():
            self._study_id = self._storage.create_new_study(DIRECTIONS, "mirror")
        self._study = optuna.load_study(study_name="mirror", storage=self._storage)
        self._ids: dict[int, int] = {}
        """Trial number -> id of its copy in memory."""
        self._finished: set[int] = set()

    def update(self, trials: Iterable[Seen]) -> None:
        """Take in trials that are new, or have finished since; others are passed over."""
        for trial in trials:
            if trial.number in self._finished:
                continue
            state = STATES.get(trial.state, TrialState.RUNNING)
            if state == TrialState.PRUNED and trial.values:
                # what it had reached is dominated, and that is what the sampler has to know of it
                state = TrialState.COMPLETE
            values = list(trial.values) if trial.values and state == TrialState.COMPLETE else None
            constraints = {CONSTRAINT_PREFIX + k: v for k, v in trial.constraints.items()}
            copy = self._ids.get(trial.number)
            if copy is None:
                self._ids[trial.number] = self._storage.create_new_trial(
                    self._study_id,
                    template_trial=optuna.trial.create_trial(
                        state=state,
                        values=values,
                        params=trial.params,
                        distributions=self._distributions,
                        system_attrs={**trial.notes, **constraints},
                    ),
                )
            elif state.is_finished():
                for key, value in constraints.items():
                    self._storage.set_trial_system_attr(copy, key, value)
                self._storage.set_trial_state_values(copy, state, values)
            if state.is_finished():
                self._finished.add(trial.number)

    def propose(
        self, number: int, *, salt: str | None = None
    ) -> tuple[dict[str, float], dict[str, object]]:
        """Parameters for trial ``number``, and what the sampler wants to know of it later.

        Args:
            number: that the trial will have, if nobody is faster.
            salt: of this worker; given when others propose at the same time, so that two workers
                with the same history do not propose the same.
        """
        path = ("sampler", number) if salt is None else ("sampler", number, salt)
        self._study.sampler = make_sampler(self._sampler, derive_seed(self._seed, *path))
        trial = self._study.ask(self._distributions)
        copy = self._storage.get_trial(trial._trial_id)
        # Until somebody says that it became trial ``number``, it must not steer anything.
        self._storage.set_trial_state_values(trial._trial_id, TrialState.FAIL)
        notes = {k: v for k, v in copy.system_attrs.items() if RELATIVE_PARAMS not in k}
        return dict(copy.params), notes


class _ParentsInOrder(BaseGASampler):
    """Parents always come in the order of their trials.

    Optuna gives them in the order of their selection when they are selected, and in the order of
    their trials when it finds them noted down: a process that starts anew would breed others.
    """

    def get_parent_population(self, study: optuna.Study, generation: int) -> list[FrozenTrial]:
        super().get_parent_population(study, generation)
        return super().get_parent_population(study, generation)


class _NSGAII(_ParentsInOrder, NSGAIISampler):
    pass


class _NSGAIII(_ParentsInOrder, NSGAIIISampler):
    pass


def distributions(space: Space) -> dict[str, BaseDistribution]:
    """The search space in Optuna's words."""
    return {
        name: FloatDistribution(allowed.low, allowed.high, log=allowed.log)
        for name, allowed in space.ranges.items()
    }


def make_sampler(name: str, seed: int) -> BaseSampler:
    """A sampler by its name in the study file.

    TPE models all parameters jointly: a third of the time of one model per parameter, because
    the history is split into good and bad once, not once per parameter.
    """
    seed %= 2**32
    if name == "tpe":
        return TPESampler(seed=seed, multivariate=True, n_ei_candidates=CANDIDATES)
    if name == "nsga2":
        return _NSGAII(seed=seed, population_size=POPULATION)
    if name == "nsga3":
        with quiet_optuna():
            return _NSGAIII(seed=seed, population_size=POPULATION)
    if name == "gp":
        return GPSampler(seed=seed, deterministic_objective=False)
    assert name == "random", name
    return RandomSampler(seed=seed)


@contextmanager
def quiet_optuna() -> Iterator[None]:
    """Without Optuna's own log lines, and without its warnings of what is experimental."""
    level = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            yield
    finally:
        optuna.logging.set_verbosity(level)
