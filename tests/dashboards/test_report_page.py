import re

import pytest
from invented import invent_config, invent_facts

from automl_prune.errors import ModelFolderError, StudyNotFoundError
from automl_prune.manifest import read_manifest
from automl_prune.report import compare_with_uniform, pareto_rows
from automl_prune.storage import open_storage
from automl_prune.study import StudyHandle
from dashboards.report_page import report_page, wilson_interval, write_report


def test_the_report_answers_question_cost_and_how_to_repeat(stored_study, tmp_path):
    write_report(tmp_path / "report.html", stored_study)
    text = (tmp_path / "report.html").read_text()
    for heading in (
        "The question",
        "Did the search beat uniform pruning?",
        "The models on the front",
        "The uniform baseline",
        "Picked models",
        "The data",
        "What the search cost",
        "How to repeat it",
    ):
        assert heading in text
    rows = stored_study.rows()
    assert compare_with_uniform(rows, stored_study.facts).sentence[1:] in text
    assert stored_study.config.digest() in text
    for row in pareto_rows(rows, kinds=("baseline",)):
        assert f"<td class=words>{row.number}</td><td>{row.accuracy:.2f}</td>" in text
    assert re.search(r"of these failed.*?1, 0", text)


def test_a_picked_model_is_shown_with_its_test_interval(stored_study, tiny_folder, tmp_path):
    manifest = read_manifest(tiny_folder)
    measured = manifest.select.model_copy(update={"accuracy": 90.0, "num_images": 400})
    mine = manifest.model_copy(update={"study": "invented", "test": measured})
    folder = tmp_path / "picked"
    folder.mkdir()
    (folder / "manifest.json").write_text(mine.to_json())
    low, high = wilson_interval(90.0, 400)
    text = report_page(stored_study, picked=[folder])
    assert "<td>90.00</td>" in text
    assert f"{low:.2f} to {high:.2f}" in text


def test_a_model_of_another_study_is_refused(stored_study, tiny_folder):
    with pytest.raises(ModelFolderError, match="'tiny'"):
        report_page(stored_study, picked=[tiny_folder])


def test_an_empty_study_has_no_report(tmp_path):
    storage = open_storage(f"sqlite:///{tmp_path / 's.db'}")
    handle = StudyHandle.create_or_check(
        storage, invent_config(), invent_facts(), tmp_path / "artifacts"
    )
    with pytest.raises(StudyNotFoundError, match="no finished trial"):
        report_page(handle)
    storage.close()


@pytest.mark.parametrize(
    ("percent", "count", "low", "high"),
    [(50.0, 100, 40.38, 59.62), (100.0, 10, 72.25, 100.0), (0.0, 10, 0.0, 27.75)],
)
def test_wilson_interval_has_the_known_values(percent, count, low, high):
    assert wilson_interval(percent, count) == pytest.approx((low, high), abs=0.01)
