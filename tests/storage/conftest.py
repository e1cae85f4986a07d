"""The same tests over every kind of storage: a SQLite file and a real PostgreSQL."""

import pytest


@pytest.fixture
def database(storage_url):
    """A database with our tables and Optuna's."""
    from automl_prune.storage import open_storage

    storage = open_storage(storage_url, patience_s=30.0)
    yield storage.database
    storage.close()
