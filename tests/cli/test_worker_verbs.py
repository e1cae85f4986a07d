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
