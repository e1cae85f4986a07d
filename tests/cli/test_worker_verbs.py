import shutil
import subprocess
import sys

import pytest

from automl_prune.cli import main

VERB = [sys.executable, "-c", "import sys; from automl_prune.cli import main; sys.exit(main())"]


def storage_of(folder):
    return f"sqlite:///{folder / 'runs' / 'tiny' / 'study.db'}"


def test_a_worker_joins_from_an_empty_folder_with_url_and_name_alone(searched, tmp_path):
    empty = tmp_path / "elsewhere"
    empty.mkdir()
    assert main(["search", "tiny.toml", "--trials", "6"]) == 0  # so that the study asks for six
    command = [*VERB, "worker", "--storage", storage_of(searched), "--study", "tiny"]
    done = subprocess.run(command, cwd=empty, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "study tiny has its 6 finished trials" in done.stdout
    assert list(empty.iterdir()) == []


def test_a_worker_runs_what_is_missing(searched, capsys):
    from automl_prune.storage import open_storage
    from automl_prune.study import StudyHandle

    storage = open_storage(storage_of(searched))
    StudyHandle.load(storage, "tiny").set_target(6)
    storage.close()
    shutil.rmtree(searched / "runs" / "dense")  # it has the study's own copy
    assert main(["worker", "--storage", storage_of(searched), "--study", "tiny"]) == 0
    out = capsys.readouterr().out
    assert "trial 5, search" in out
    assert "study tiny has its 6 finished trials" in out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--study", "nobody"], "nobody"),
        (["--study", "tiny", "--device", "cuda:7"], "cuda:7"),
    ],
)
def test_what_is_wrong_is_one_clear_screen(searched, capsys, words, message):
    from automl_prune.storage import open_storage
    from automl_prune.study import StudyHandle

    storage = open_storage(storage_of(searched))
    StudyHandle.load(storage, "tiny").set_target(6)
    storage.close()
    assert main(["worker", "--storage", storage_of(searched), *words]) == 2
    err = capsys.readouterr().err
    assert message in err
    assert len(err.splitlines()) <= 6


def test_no_storage_and_no_password_in_what_is_said(capsys):
    url = "postgresql://u:secret@nohost.invalid/db"
    assert main(["worker", "--storage", url, "--study", "tiny"]) == 2
    err = capsys.readouterr().err
    assert "nohost.invalid" in err
    assert "secret" not in err


def test_migrate_says_what_it_did(searched, capsys):
    assert main(["migrate", "--storage", storage_of(searched)]) == 0
    assert capsys.readouterr().out.startswith("schema 0")


@pytest.mark.postgres
def test_launch_makes_the_study_runs_it_and_readers_find_it_again(here):
    """One process after the other on the embedded PostgreSQL, as a person would."""

    def run(*words):
        done = subprocess.run([*VERB, *words], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    launched = run("launch", "tiny.toml", "--workers", "2", "--trials", "3")
    assert "3 trials finished" in launched
    assert "3 of 3 trials" in run("status", "tiny")
    assert "4 trials finished" in run("launch", "tiny.toml", "--workers", "1", "--trials", "4")


def test_several_workers_on_a_file_are_refused_with_both_ways_out(searched, capsys):
    url = storage_of(searched)
    assert main(["launch", "tiny.toml", "--workers", "2", "--storage", url]) == 2
    err = capsys.readouterr().err
    assert "postgresql://" in err
    assert "--storage embedded" in err
    assert main(["launch", "tiny.toml", "--workers", "2"]) == 2  # begun in a file before
    assert "--storage embedded" in capsys.readouterr().err


def test_no_workers_are_refused(here, capsys):
    assert main(["launch", "tiny.toml", "--workers", "0"]) == 2
    assert "--workers" in capsys.readouterr().err
    assert [path.name for path in here.iterdir()] == ["tiny.toml"]
