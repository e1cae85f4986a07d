"""A study that was really stored, with invented results."""

import pytest
from invented import fill, invent_config, invent_facts

from automl_prune.records import StudyFacts
from automl_prune.storage import open_storage
from automl_prune.study import StudyHandle


@pytest.fixture
def facts() -> StudyFacts:
    return invent_facts()


@pytest.fixture
def stored_study(tmp_path):
    """Twelve trials in a SQLite file: three uniform, one failed, some beyond the limit."""
    storage = open_storage(f"sqlite:///{tmp_path / 'study.db'}")
    config = invent_config(limits={"max_macs_ratio": 0.6})
    handle = StudyHandle.create_or_check(storage, config, invent_facts(), tmp_path / "artifacts")
    fill(handle, tmp_path, 12, fail=(5,))
    yield handle
    handle.close()
    storage.close()
