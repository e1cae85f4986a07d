"""The same tests over every kind of storage: a SQLite file and a real PostgreSQL."""

import pytest
from made_up_trials import made_up_config, made_up_facts


@pytest.fixture
def database(storage_url):
    """A database with our tables and Optuna's."""
    from automl_prune.storage import open_storage

    storage = open_storage(storage_url, patience_s=30.0)
    yield storage.database
    storage.close()


@pytest.fixture
def handle(storage_url, tmp_path):
    """A made-up study without trials."""
    from automl_prune.storage import open_storage
    from automl_prune.study import StudyHandle

    storage = open_storage(storage_url)
    study = StudyHandle.create_or_check(
        storage, made_up_config(), made_up_facts(), tmp_path / "artifacts"
    )
    yield study
    study.close()
    storage.close()
