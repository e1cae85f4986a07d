import io
import zipfile

import pytest
from werkzeug.test import Client

from dashboards.explorer import make_explorer


@pytest.fixture
def browser(studies):
    return Client(make_explorer(studies))


def test_the_page_and_everything_it_loads_come_from_here(browser):
    page = browser.get("/")
    assert page.status_code == 200
    assert "https://" not in page.text
    assert "/explorer/assets/explorer.css" in page.text
    assert "/explorer/assets/page.css" in page.text
    assert "static/page.js" not in page.text


def test_the_layout_names_the_studies_and_no_password(browser):
    text = browser.get("/_dash-layout").text
    assert '"invented"' in text
    assert browser.get("/_dash-dependencies").status_code == 200


def test_there_is_no_other_door(browser):
    rules = {str(rule) for rule in browser.application.url_map.iter_rules()}
    writing = {
        str(rule)
        for rule in browser.application.url_map.iter_rules()
        if rule.methods - {"GET", "HEAD", "OPTIONS"}
    }
    assert writing == {"/_dash-update-component"}
    assert not any("mcp" in rule for rule in rules)


def test_a_model_can_be_downloaded(browser):
    with browser.get("/download/invented/3/model.zip") as answer:
        assert answer.status_code == 200
        assert "invented-trial-3.zip" in answer.headers["Content-Disposition"]
        names = zipfile.ZipFile(io.BytesIO(answer.data)).namelist()
    assert "invented-trial-3/model.safetensors" in names


@pytest.mark.parametrize(
    "path",
    [
        "/download/invented/5/model.zip",
        "/download/invented/999/model.zip",
        "/download/nobody/3/model.zip",
        "/download/nobody/trials.csv",
        "/download/..%2finvented/trials.csv",
        "/assets/../server.py",
        "/assets/%2e%2e/server.py",
        "/static/page.js",
    ],
)
def test_what_is_not_there_is_not_there(browser, path):
    answer = browser.get(path)
    assert answer.status_code in (404, 200)
    assert answer.status_code == 404 or "<html" in answer.text
    assert "def " not in answer.text


def test_a_damaged_model_is_not_served(browser, stored_study):
    artifact = stored_study.artifacts_of(3)["model.safetensors"]
    (stored_study.artifact_dir / artifact.id).write_bytes(b"other")
    answer = browser.get("/download/invented/3/model.zip")
    assert answer.status_code == 500
    assert "damaged" in answer.text


def test_the_table_comes_as_csv(browser):
    answer = browser.get("/download/invented/trials.csv")
    assert answer.mimetype == "text/csv"
    assert len(answer.text.splitlines()) == 13
