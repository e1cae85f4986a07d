"""The dashboard as people use it: a browser, a PostgreSQL, a search at work, nothing pretended.

``AUTOML_PRUNE_SCREENSHOTS=docs/images`` before pytest also makes the pictures of the docs, on a
longer search.
"""

import io
import os
import re
import uuid
import zipfile
from contextlib import closing
from pathlib import Path

import pytest
from browsing import (
    LAPTOP,
    PHONE,
    chromium,
    find_chromium,
    opened,
    overflow_px,
    points_of,
    serving,
    start_verb,
    wait_for_front,
)

from automl_prune.cli import main
from automl_prune.reading import StudyReader, find_study
from automl_prune.report import pick
from automl_prune.storage import open_storage

pytestmark = [
    pytest.mark.browser,
    pytest.mark.postgres,
    pytest.mark.slow,
    pytest.mark.skipif(find_chromium() is None, reason="no Chromium on this machine"),
]

TOKEN = "correct-horse-battery"
PICTURES = os.environ.get("AUTOML_PRUNE_SCREENSHOTS")
STUDY = """
name = "seen"
seed = 5
description = "Handwritten digits, small residual net"
[data]
source = "digits"
batch_size = 64
search_fraction = 0.15
select_fraction = 0.3
[model]
builder = "automl_prune.models:digits_net"
kwargs = { width = 0.25 }
[dense]
epochs = 12
lr = 0.1
[search]
baselines = 3
tradeoff = [0.03, 2.0]
[inner]
steps = 20
refresh_every = 5
[finetune]
steps = 40
lr = 0.03
recalibration_batches = 4
[compute]
threads = 1
"""
TRIALS = 30 if PICTURES else 7


@pytest.fixture(scope="module")
def study(postgres_server, tmp_path_factory):
    """A searched study in a PostgreSQL: its folder, the URL of its storage, a reader."""
    import psycopg

    name = f"seen_{uuid.uuid4().hex[:12]}"
    with psycopg.connect(postgres_server.get_uri(), autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
    url = postgres_server.get_uri(name)
    folder = tmp_path_factory.mktemp("seen")
    (folder / "seen.toml").write_text(STUDY)
    search(folder, url, TRIALS)
    storage = open_storage(url, must_exist=True)
    with closing(storage):
        yield folder, url, StudyReader(storage, find_study(storage, "seen"))
    with psycopg.connect(postgres_server.get_uri(), autocommit=True) as connection:
        connection.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")


@pytest.fixture(scope="module")
def browser():
    with chromium() as found:
        yield found


@pytest.fixture(scope="module")
def explorer(study):
    folder, url, _ = study
    with serving(url, folder=folder) as address:
        yield address


def search(folder, url, trials):
    process = start_verb(
        "search", "seen.toml", "--storage", url, "--trials", str(trials), folder=folder
    )
    output, _ = process.communicate(timeout=500)
    assert process.returncode == 0, output


def base_of(address):
    return address.partition("/explorer/")[0]


def picture(page, name, *, whole=False):
    if PICTURES:
        from PIL import Image

        Path(PICTURES).mkdir(parents=True, exist_ok=True)
        page.wait_for_timeout(1200)  # transitions of figures
        taken = Image.open(io.BytesIO(page.screenshot(full_page=whole))).convert("RGB")
        taken.quantize(128, dither=0).save(f"{PICTURES}/{name}.png", optimize=True)


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("size", [LAPTOP, PHONE], ids=["laptop", "phone"])
def test_the_page_loads_from_here_alone_and_fits_the_window(browser, explorer, study, size, dark):
    reader = study[2]
    with opened(browser, size=size, dark=dark, base=base_of(explorer)) as page:
        page.goto(explorer)
        wait_for_front(page)
        page.wait_for_selector("#tab-content .js-plotly-plot .main-svg")
        assert overflow_px(page) <= 0
        shown = points_of(page)
        assert set(shown) == {row.number for row in reader.rows() if row.accuracy is not None}
        theme = page.evaluate("document.documentElement.dataset.theme")
        assert theme == ("dark" if dark else "light")
        device = "phone" if size is PHONE else "laptop"
        picture(page, f"explorer-{device}-{theme}", whole=True)


def test_trials_of_workers_appear_without_a_reload(browser, explorer, study):
    folder, url, reader = study
    before = reader.finished_count()
    target = before + 6
    with opened(browser, base=base_of(explorer)) as page:
        page.set_default_timeout(90_000)  # two workers and a browser on what may be two cores
        page.goto(explorer)
        wait_for_front(page)
        page.evaluate("window.notReloaded = true")
        assert f"{before} of" in page.inner_text("#live")
        verdict = page.inner_text("#verdict")
        page.get_by_text("Progress", exact=True).click()
        launched = ("launch", "seen.toml", "--storage", url, "--workers", "2")
        process = start_verb(*launched, "--trials", str(target), folder=folder)
        live = "document.querySelector('#live').innerText"
        page.wait_for_function(f"{live}.includes('of {target}') && {live}.includes('2 workers')")
        page.wait_for_function(
            "document.querySelector('#tab-content').innerText.includes('at work')"
        )
        page.wait_for_function(f"{live}.startsWith('{target} of')")
        output, _ = process.communicate(timeout=100)
        assert process.returncode == 0, output
        page.wait_for_function(
            "(now) => { const box = document.querySelector('#front .js-plotly-plot');"
            " return box._fullData.some((t) => (t.customdata || []).some((d) => d[0] === now)); }",
            arg=target - 1,
        )
        page.wait_for_function(
            "(old) => document.querySelector('#verdict').innerText !== old", arg=verdict
        )
        assert page.evaluate("window.notReloaded") is True


def test_a_click_on_a_point_shows_the_record_of_that_trial(browser, explorer, study):
    reader = study[2]
    row = min((r for r in reader.rows() if r.kind == "search"), key=lambda r: r.macs)
    with opened(browser, base=base_of(explorer)) as page:
        page.goto(explorer)
        wait_for_front(page)
        page.wait_for_timeout(500)
        page.mouse.click(*points_of(page)[row.number])
        page.wait_for_function(
            f"document.querySelector('#trial-heading').innerText === 'Trial {row.number}'"
        )
        said = page.inner_text("#trial")
        assert f"{row.accuracy:.2f} %" in said
        assert f"{row.macs:,}" in said
        assert str(reader.record(row.number).seed) in said
        assert f"--trial {row.number} " in said
        page.wait_for_selector("#trial-curves .js-plotly-plot .main-svg")
        page.click("#check")
        page.wait_for_function(
            "document.querySelector('#check-result').innerText.includes('every file has')"
        )
        page.click("#compare-add")
        page.fill("#go-to", "0")
        page.press("#go-to", "Enter")
        page.wait_for_function("document.querySelector('#trial-heading').innerText === 'Trial 0'")
        page.click("#compare-add")
        page.wait_for_selector(f"#compare-table th:has-text('trial {row.number}')")
        page.wait_for_selector("#compare-table th:has-text('trial 0')")
        page.locator("#compare").scroll_into_view_if_needed()
        picture(page, "explorer-compare")


def test_a_limit_moved_by_the_keyboard_changes_the_named_model(browser, explorer, study):
    reader = study[2]
    with opened(browser, base=base_of(explorer)) as page:
        page.goto(explorer)
        wait_for_front(page)
        page.wait_for_selector("#best-name")
        rows, facts = reader.rows(), reader.facts
        named = f"Trial {pick(rows, facts, knee=True).number}:"
        assert page.inner_text("#best-name").startswith(named)
        smallest = min(row.macs for row in rows if row.usable and row.kind == "search")
        thumb = page.locator("#limit-macs-box [role=slider]")
        thumb.focus()
        percent = 100
        while percent > 100 * smallest / facts.dense_macs + 2:
            thumb.press("ArrowLeft")
            percent -= 1
        page.wait_for_function(
            f"document.querySelector('#limit-macs-value').innerText.startsWith('{percent} %')"
        )
        best = pick(rows, facts, max_macs=percent * facts.dense_macs // 100)
        page.wait_for_function(
            f"document.querySelector('#best-name').innerText.startsWith('Trial {best.number}:')"
        )
        assert f"--max-macs {percent * facts.dense_macs // 100} " in page.inner_text("#best")
        page.wait_for_function(
            "document.querySelector('#front .js-plotly-plot')._fullData"
            ".some((t) => t.showlegend === false && t.mode === 'markers')"
        )
        picture(page, "explorer-limits")
        page.click("#limits-reset")
        page.wait_for_function(
            f"document.querySelector('#best-name').innerText.startsWith('{named}')"
        )


def test_a_downloaded_folder_is_one_that_verify_accepts(browser, explorer, tmp_path, capsys):
    with opened(browser, base=base_of(explorer)) as page:
        page.goto(explorer)
        wait_for_front(page)
        with page.expect_download() as download:
            page.click("#download-model")
        archive = tmp_path / "model.zip"
        download.value.save_as(archive)
        with page.expect_download() as table:
            page.click("#csv")
        assert table.value.suggested_filename == "seen-trials.csv"
        for button, ending in (("#save-png", "png"), ("#save-svg", "svg")):
            with page.expect_download() as figure:
                page.click(button)
            assert figure.value.suggested_filename == f"front.{ending}"
    with zipfile.ZipFile(archive) as files:
        files.extractall(tmp_path)
    (folder,) = [path for path in tmp_path.iterdir() if path.is_dir()]
    assert main(["verify", str(folder)]) == 0
    assert "verified" in capsys.readouterr().out
    weights = bytearray((folder / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (folder / "model.safetensors").write_bytes(weights)
    assert main(["verify", str(folder)]) != 0


def test_every_tab_and_filter_has_something_to_show(browser, explorer):
    with opened(browser, base=base_of(explorer)) as page:
        page.goto(explorer)
        wait_for_front(page)
        page.wait_for_selector("#always-kept")
        page.get_by_text("Progress", exact=True).click()
        page.wait_for_selector("#graph-hypervolume .main-svg")
        picture(page, "explorer-progress")
        page.locator("#axis").get_by_text("parameters").click()
        page.wait_for_function(
            "document.querySelector('#front .xtitle').textContent.includes('parameters')"
        )
        page.locator("#filter").get_by_text("uniform").click()
        page.wait_for_function("document.querySelector('#page-text').innerText.includes('3 tri')")


def test_the_wrong_token_gets_nothing(browser, study):
    folder, url, _ = study
    with serving(url, folder=folder, AUTOML_PRUNE_TOKEN=TOKEN) as address:
        context = browser.new_context()
        page = context.new_page()
        assert page.goto(address).status == 401
        assert "seen" not in page.content().replace("study=seen", "")
        picture(page, "login")
        for path in ("/explorer/download/seen/trials.csv", "/api/studies", "/dashboard"):
            answer = context.request.get(
                base_of(address) + path, headers={"Authorization": "Bearer wrong-" + TOKEN}
            )
            assert answer.status == 401
            assert "baseline" not in answer.text()
        page.fill("input[type=password]", "this-is-not-the-token")
        page.keyboard.press("Enter")
        page.wait_for_selector("text=This is not the token.")
        assert context.request.get(base_of(address) + "/api/studies").status == 401
        page.fill("input[type=password]", TOKEN)
        page.keyboard.press("Enter")
        wait_for_front(page)
        context.close()


def test_read_only_refuses_the_optuna_dashboards_delete_and_rename(browser, study):
    folder, url, _ = study
    with (
        serving(url, "--read-only", folder=folder) as address,
        opened(browser, base=base_of(address), expected="403 (FORBIDDEN)") as page,
    ):
        page.goto(f"{base_of(address)}/dashboard")
        page.wait_for_selector("text=seen")
        ask = """async ([path, method, body]) => {
          const headers = {"Content-Type": "application/json"};
          const answer = await fetch(path, {method, body, headers});
          return [answer.status, await answer.text()];
        }"""
        number = page.evaluate(ask, ["/api/studies", "GET", None])
        study_id = int(re.search(r'"study_id": *(\d+)', number[1])[1])
        for path, method, body in (
            (f"/api/studies/{study_id}", "DELETE", None),
            (f"/api/studies/{study_id}/rename", "POST", '{"study_name": "gone"}'),
        ):
            status, said = page.evaluate(ask, [path, method, body])
            assert status == 403
            assert "--read-only" in said
        assert '"seen"' in page.evaluate(ask, ["/api/studies", "GET", None])[1]


def test_the_optuna_dashboard_shows_our_figures_and_artifacts(browser, study):
    folder, url, reader = study
    with serving(url, folder=folder) as address, opened(browser, base=base_of(address)) as page:
        page.goto(f"{base_of(address)}/dashboard/studies/{reader.optuna_study_id}/note")
        page.wait_for_selector("text=Open the Pareto explorer")
        page.goto(f"{base_of(address)}/dashboard/studies/{reader.optuna_study_id}")
        for title in ("accuracy against MACs", "channels kept along the front"):
            page.wait_for_function(
                "(title) => document.body.textContent.includes(title)",
                arg=f"automl-prune: {title}",
            )
        picture(page, "optuna-dashboard", whole=True)


def test_report_and_accuracy_on_test_of_a_picked_model(browser, explorer, study):
    folder, url, reader = study
    number = str(pick(reader.rows(), reader.facts, knee=True).number)
    for words in (
        ("pick", "seen", "--storage", url, "--trial", number, "--out", "picked"),
        ("report", "seen", "--storage", url, "--out", "report.html", "--picked", "picked"),
    ):
        process = start_verb(*words, folder=folder)
        output, _ = process.communicate(timeout=100)
        assert process.returncode == 0, output
    with opened(browser, base=base_of(explorer)) as page:
        page.goto(explorer)
        wait_for_front(page)
        page.locator("#split").get_by_text("test").click()
        page.wait_for_function(
            "document.querySelector('#front .ytitle').textContent.includes('on test')"
        )
        assert set(points_of(page)) == {int(number)}
        assert " images" in page.inner_text("#trial")
    for size, device in ((LAPTOP, "laptop"), (PHONE, "phone")):
        address = (folder / "report.html").as_uri()
        with opened(browser, size=size, dark=size is PHONE, base=address) as page:
            page.goto(address)
            page.wait_for_selector(".js-plotly-plot .main-svg")
            assert overflow_px(page) <= 0
            picture(page, f"report-{device}", whole=True)
