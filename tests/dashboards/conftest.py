"""A study that was really stored, with invented results."""

import shutil
from contextlib import closing

import pytest
from invented import fill, fill_fast, invent_config, invent_facts

from automl_prune.records import StudyFacts
from automl_prune.storage import open_storage
from automl_prune.study import StudyHandle
from dashboards.view import Studies


@pytest.fixture
def facts() -> StudyFacts:
    return invent_facts()


@pytest.fixture(scope="session")
def finished_folder(tmp_path_factory):
    """Twelve trials in a SQLite file: three uniform, one failed, some beyond the limit."""
    folder = tmp_path_factory.mktemp("stored")
    return _make(folder, lambda handle: fill(handle, folder, 12, fail=(5,)), max_macs_ratio=0.6)


@pytest.fixture(scope="session")
def big_folder(tmp_path_factory):
    """Two hundred trials without artifacts."""
    return _make(tmp_path_factory.mktemp("big"), lambda handle: fill_fast(handle, 200))


def _make(folder, fill_study, **limits):
    storage = open_storage(f"sqlite:///{folder / 'study.db'}")
    config = invent_config(limits=limits)
    with closing(storage):
        handle = StudyHandle.create_or_check(storage, config, invent_facts(), folder / "artifacts")
        with closing(handle):
            fill_study(handle)
    return folder


def _copy(folder, to):
    shutil.copytree(folder, to, dirs_exist_ok=True)
    storage = open_storage(f"sqlite:///{to / 'study.db'}")
    with closing(storage), closing(StudyHandle.load(storage, "invented")) as handle:
        yield handle


@pytest.fixture
def stored_study(finished_folder, tmp_path):
    """A copy of :func:`finished_folder` to use and change."""
    yield from _copy(finished_folder, tmp_path)


@pytest.fixture
def big_study(big_folder, tmp_path):
    """A copy of :func:`big_folder` to use and change."""
    yield from _copy(big_folder, tmp_path)


@pytest.fixture
def studies(stored_study):
    """The storage of :func:`stored_study` as the explorer opens it."""
    opened = Studies.open(stored_study.storage.url)
    yield opened
    opened.storage.close()
