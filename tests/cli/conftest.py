"""A real study, searched by the command line itself, that the verbs' tests read."""

import shutil
from pathlib import Path

import pytest

from automl_prune.cli import main

STUDY_FILE = """
name = "tiny"
seed = 3
[data]
source = "digits"
batch_size = 64
[model]
builder = "automl_prune.models:digits_net"
kwargs = { width = 0.5 }
[dense]
epochs = 4
lr = 0.1
[search]
trials = 5
baselines = 1
sampler = "random"
[inner]
steps = 12
refresh_every = 4
[finetune]
steps = 12
recalibration_batches = 4
[compute]
threads = 1
latency_batch_size = 2
"""


@pytest.fixture(scope="session")
def searched_folder(tmp_path_factory):
    """A folder with ``tiny.toml`` and its finished search in ``runs``; not to be changed."""
    folder = tmp_path_factory.mktemp("searched")
    (folder / "tiny.toml").write_text(STUDY_FILE)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert main(["search", "tiny.toml"]) == 0
    return folder


@pytest.fixture
def searched(searched_folder, tmp_path, monkeypatch):
    """The current folder is a copy of :func:`searched_folder` that a test may change."""
    folder = Path(shutil.copytree(searched_folder, tmp_path / "here"))
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def here(tmp_path, monkeypatch):
    """The current folder is empty but for ``tiny.toml``."""
    folder = tmp_path / "here"
    folder.mkdir()
    (folder / "tiny.toml").write_text(STUDY_FILE)
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def refused(capsys):
    """Run the command line, expect one clear screen and exit 2; gives the message."""

    def run(*words, code=2):
        capsys.readouterr()
        assert main(list(words)) == code
        captured = capsys.readouterr()
        assert captured.err.startswith("Error: ")
        assert "Traceback" not in captured.err
        assert len(captured.err.splitlines()) <= 24
        return captured.err

    return run


@pytest.fixture
def shown(capsys):
    """Run the command line, expect success; gives what stands on stdout."""

    def run(*words):
        capsys.readouterr()
        code = main(list(words))
        captured = capsys.readouterr()
        assert code == 0, captured.err
        return captured.out

    return run
