"""Optuna's own storage, on the database that holds our tables.

Its tables are made with ours, and nobody but us writes trials of our studies there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import optuna
from optuna.exceptions import DuplicatedStudyError
from optuna.storages import RDBStorage

from automl_prune.errors import StudyMismatchError
from automl_prune.sampling import DIRECTIONS, quiet_optuna
from automl_prune.storage.database import POSTGRES_OPTIONS, SQLITE_BUSY_S
from automl_prune.storage.urls import shown, sqlite_file

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from sqlalchemy.orm import Session

    from automl_prune.config import StudyConfig
    from automl_prune.storage.database import Database


class OneWriterStorage(RDBStorage):
    """Optuna's storage for trials whose parameters always have the same distributions.

    For every parameter of a new trial Optuna looks up an earlier one and compares distributions,
    and sends each parameter off alone. Only :class:`Publisher` writes here, so neither is needed.
    """

    def __init__(self, url: str, engine_kwargs: dict[str, object]) -> None:
        super().__init__(
            url,
            engine_kwargs=engine_kwargs,
            skip_compatibility_check=True,
            skip_table_creation=True,
        )
        self.scoped_session.remove()  # one that is open already would keep its setting
        self.scoped_session.configure(autoflush=False)

    def _set_trial_param_without_commit(
        self,
        session: Session,
        trial_id: int,
        param_name: str,
        param_value_internal: float,
        distribution: BaseDistribution,
        previous_distribution: BaseDistribution | None = None,
    ) -> None:
        super()._set_trial_param_without_commit(
            session,
            trial_id,
            param_name,
            param_value_internal,
            distribution,
            previous_distribution or distribution,
        )


def open_optuna(database: Database) -> RDBStorage:
    """Optuna's own storage on the same database; its tables are there already."""
    url = database.url.render_as_string(hide_password=False)
    kwargs: dict[str, object]
    if sqlite_file(database.url) is not None:
        kwargs = {"connect_args": {"timeout": SQLITE_BUSY_S}}
    else:
        kwargs = {"pool_size": 1, "max_overflow": 0, "connect_args": dict(POSTGRES_OPTIONS)}
    return OneWriterStorage(url, kwargs)


def create_optuna_study(database: Database, config: StudyConfig) -> int:
    """Make the study in Optuna's tables; the caller holds the lock under which studies are made.

    Returns:
        Optuna's number of the study.

    Raises:
        StudyMismatchError: an Optuna study of this name exists that is not ours. Loading it, as
            ``load_if_exists`` would, would take its directions without a word.
    """
    storage = open_optuna(database)
    try:
        try:
            with quiet_optuna():
                optuna_study_id = storage.create_new_study(DIRECTIONS, config.name)
        except DuplicatedStudyError:
            optuna_study_id = storage.get_study_id_from_name(config.name)
            ours = tuple(storage.get_study_directions(optuna_study_id)) == DIRECTIONS
            if not ours or storage.get_n_trials(optuna_study_id):
                raise StudyMismatchError(
                    f"{shown(database.url)} has an Optuna study {config.name!r} that automl-prune "
                    "did not make; choose another study name, or delete that one with "
                    f"`optuna delete-study --study-name {config.name}`"
                ) from None
        study = optuna.load_study(study_name=config.name, storage=storage)
        with quiet_optuna():
            study.set_metric_names(["accuracy", config.search.objective])
        study.set_user_attr("config_digest", config.digest())
        return optuna_study_id
    finally:
        storage.engine.dispose()
