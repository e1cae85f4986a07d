import csv
import io
import zipfile

import pytest
from invented import row

from automl_prune.errors import EnvironmentProblemError, StudyNotFoundError
from dashboards.downloads import COLUMNS, model_zip, table_csv


def test_the_zip_holds_the_trials_own_files(stored_study):
    number = stored_study.rows()[-1].number
    with model_zip(stored_study, number) as spool, zipfile.ZipFile(spool) as archive:
        folder = f"invented-trial-{number}"
        assert set(archive.namelist()) == {
            f"{folder}/model.safetensors",
            f"{folder}/manifest.json",
        }
        assert archive.read(f"{folder}/model.safetensors") == b"weights of %d" % number


def test_a_real_model_folder_comes_with_its_card(stored_study, tiny_folder, monkeypatch):
    there = {p.name: p.read_bytes() for p in tiny_folder.iterdir()}
    monkeypatch.setattr(stored_study, "artifact", lambda number, name: there[name])
    with model_zip(stored_study, 1) as spool, zipfile.ZipFile(spool) as archive:
        assert "load_pruned" in archive.read("invented-trial-1/README.md").decode()


def test_a_damaged_file_is_not_served(stored_study):
    artifact = stored_study.artifacts_of(2)["model.safetensors"]
    (stored_study.artifact_dir / artifact.id).write_bytes(b"other weights")
    with pytest.raises(EnvironmentProblemError, match="damaged"):
        model_zip(stored_study, 2)


@pytest.mark.parametrize("number", [5, 999])
def test_a_failed_or_unknown_trial_has_no_model(stored_study, number):
    with pytest.raises(StudyNotFoundError):
        model_zip(stored_study, number)


def test_the_table_has_every_trial_and_no_formulas():
    rows = [
        row(0, 90.0, 500_000),
        row(1, 80.0, 600_000, kind="baseline"),
        row(2, None, None, state="failed", error="=HYPERLINK(1)"),
    ]
    read = list(csv.DictReader(io.StringIO(table_csv(rows))))
    assert list(read[0]) == list(COLUMNS)
    assert [line["trial"] for line in read] == ["0", "1", "2"]
    assert [line["on_front"] for line in read] == ["True", "False", "False"]
    assert float(read[0]["macs_ratio"]) == 0.5
    assert read[2]["accuracy"] == ""
    assert read[2]["error"] == "'=HYPERLINK(1)"
