import dataclasses
import json
import re
from html.parser import HTMLParser

import pytest
from invented import fill, invent_config, invent_facts

from automl_prune.errors import EnvironmentProblemError, StudyNotFoundError
from automl_prune.report import compare_with_uniform, pareto_rows
from automl_prune.storage import open_storage
from automl_prune.study import StudyHandle
from dashboards.publish import front_page, front_table, kept_units, key_numbers, write_html


def test_the_page_has_the_verdict_the_front_and_all_figures(stored_study, tmp_path):
    path = tmp_path / "front.html"
    write_html(path, stored_study)
    text = path.read_text()
    rows = stored_study.rows()
    sentence = compare_with_uniform(rows, stored_study.facts).sentence
    assert sentence[1:] in text
    for row in pareto_rows(rows):
        assert f"<td class=words>{row.number}</td><td>{row.accuracy:.2f}</td>" in text
    content = re.search(r'id="figures">(.*?)</script>', text, re.DOTALL)
    names = set(json.loads(content[1])["figures"])
    assert {"front", "keep", "spread", "hypervolume"} < names
    assert any(name.endswith("/ratios") for name in names)
    assert "1 failed" in text


def test_trials_whose_curves_were_tidied_away_are_left_out(stored_study):
    stored_study.remove_artifacts(keep=())
    text = front_page(stored_study)
    assert "How a model came about" not in text
    assert "Accuracy against MACs" in text


def test_an_empty_study_has_no_page(tmp_path):
    storage = open_storage(f"sqlite:///{tmp_path / 's.db'}")
    handle = StudyHandle.create_or_check(
        storage, invent_config(), invent_facts(), tmp_path / "artifacts"
    )
    with pytest.raises(StudyNotFoundError, match="no finished trial"):
        front_page(handle)
    storage.close()


def test_a_page_that_cannot_be_written_is_said_and_leaves_nothing(stored_study, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(EnvironmentProblemError):
        write_html(tmp_path / "file" / "front.html", stored_study)


def test_key_numbers_name_models_on_the_front(stored_study):
    rows, facts = stored_study.rows(), stored_study.facts
    front = pareto_rows(rows)
    found = key_numbers(rows, front, facts)
    assert found[0][1] == "95.00 %"
    assert found[1][1] == f"{len(front)} models"
    assert len(key_numbers([], [], facts)) == 1


def test_contaminated_select_is_said(stored_study):
    stored_study.facts = dataclasses.replace(stored_study.facts, select_contaminated=True)
    assert "may have seen the images of select" in front_page(stored_study)


def test_table_and_kept_units_are_those_of_the_records(stored_study):
    front = pareto_rows(stored_study.rows())
    kept = kept_units(stored_study, front)
    assert set(kept) == {row.number for row in front}
    number = front[0].number
    assert kept[number] == stored_study.record(number).kept_units
    assert front_table(front, stored_study.facts).count("<tr") == len(front) + 2


class Outside(HTMLParser):
    """Collects what a browser would load, from attributes and from style sheets."""

    def __init__(self):
        super().__init__()
        self.tag = ""
        self.found = []

    def handle_starttag(self, tag, attrs):
        self.tag = tag
        for name, value in attrs:
            loads = name in ("src", "href", "srcset", "data-src", "poster", "action")
            if loads and not value.startswith(("data:", "#")):
                self.found.append(value)

    def handle_data(self, data):
        if self.tag == "style":
            self.found += re.findall(r"@import[^;]*|url\((?!['\"]?data:)[^)]*\)", data)


def test_the_page_loads_nothing_from_elsewhere(stored_study):
    text = front_page(stored_study)
    assert text.count("plotly.js v") == 1
    for page, expected in (
        (text, []),
        (
            text.replace("</head>", "<link href=//cdn.example/a.css></head>"),
            ["//cdn.example/a.css"],
        ),
        (text.replace("<style>", "<style>@import 'b.css';"), ["@import 'b.css'"]),
    ):
        reader = Outside()
        reader.feed(page)
        assert reader.found == expected


def test_a_study_whose_trials_all_failed_has_no_page(tmp_path):
    storage = open_storage(f"sqlite:///{tmp_path / 's.db'}")
    handle = StudyHandle.create_or_check(
        storage, invent_config(), invent_facts(), tmp_path / "artifacts"
    )
    fill(handle, tmp_path, 2, fail=(0, 1))
    assert {row.state for row in handle.rows()} == {"failed"}
    with pytest.raises(StudyNotFoundError, match="no finished trial"):
        write_html(tmp_path / "front.html", handle)
    assert not (tmp_path / "front.html").exists()
    storage.close()
