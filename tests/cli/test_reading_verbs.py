import csv
import json
import os
import resource
import subprocess
import sys

import pytest
import sqlalchemy as sa

from automl_prune.config import StudyConfig
from automl_prune.pareto import front
from automl_prune.records import GroupRow, StudyFacts
from automl_prune.storage import open_storage
from automl_prune.storage.tables import results
from automl_prune.study import StudyHandle

KEYS = {"trial", "accuracy", "macs", "macs_ratio", "params", "latency_ms"}


def test_pareto_json_is_the_front(searched, shown):
    table = json.loads(shown("pareto", "tiny", "--json"))
    everything = json.loads(shown("pareto", "tiny", "--all", "--json"))
    assert all(set(row) >= KEYS for row in table)
    assert len(everything) == 5
    search = [row for row in everything if row["kind"] == "search"]
    chosen = front([row["accuracy"] for row in search], [row["macs"] for row in search])
    assert [row["trial"] for row in table] == [search[i]["trial"] for i in chosen]
    assert all(row["latency_ms"] > 0 for row in table)
    assert {row["trial"] for row in everything if row["on_front"]} == {
        row["trial"] for row in table
    }


def test_pareto_shows_trials_and_the_dense_model(searched, shown):
    rows = json.loads(shown("pareto", "tiny", "--json"))
    out = shown("pareto", "tiny")
    for row in rows:
        assert f"{row['macs']:,}" in out
    assert "dense" in out
    assert "baseline" not in out
    assert "baseline" in shown("pareto", "tiny", "--all")


def test_pareto_writes_a_table_and_a_page(searched, shown):
    shown("pareto", "tiny", "--csv", "front.csv", "--html", "front.html")
    with open("front.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    expected = json.loads(shown("pareto", "tiny", "--json"))
    assert [int(row["trial"]) for row in rows] == [row["trial"] for row in expected]
    assert [float(row["accuracy"]) for row in rows] == [row["accuracy"] for row in expected]
    page = (searched / "front.html").read_text()
    assert page.lstrip().lower().startswith("<!doctype html>")


@pytest.mark.parametrize("name", ["tiny", "tiny.toml"])
def test_a_study_is_found_by_name_and_by_file(searched, shown, name):
    assert json.loads(shown("status", name, "--json"))["study"] == "tiny"


def test_a_study_is_found_in_a_named_storage(searched, shown, tmp_path):
    url = f"sqlite:///{searched}/runs/tiny/study.db"
    os.chdir(tmp_path)
    assert json.loads(shown("status", "tiny", "--storage", url, "--json"))["finished"] == 5


def test_the_storage_may_come_from_the_environment(searched, shown, tmp_path, monkeypatch):
    monkeypatch.setenv("AUTOML_PRUNE_STORAGE", f"sqlite:///{searched}/runs/tiny/study.db")
    os.chdir(tmp_path)
    assert json.loads(shown("status", "tiny", "--json"))["finished"] == 5


def test_status_says_how_far_and_who_is_ahead(searched, shown):
    out = shown("status", "tiny")
    assert "5 of 5 trials" in out
    assert "uniform" in out
    found = json.loads(shown("status", "tiny", "--json"))
    assert found["states"] == {"complete": 5}
    assert found["front"] == [
        row["trial"] for row in json.loads(shown("pareto", "tiny", "--json"))
    ]


def test_show_is_the_trials_record(searched, shown):
    record = json.loads(shown("show", "tiny", "2", "--json"))
    assert record["kind"] == "search"
    out = shown("show", "tiny", "2")
    assert f"{record['macs']:,}" in out
    for group in record["kept_units"]:
        assert group in out


def test_show_says_why_a_trial_failed(searched, shown, monkeypatch):
    import automl_prune.search
    from automl_prune.cli import main

    def explode(*_, **__):
        raise RuntimeError("the roof is on fire")

    monkeypatch.setattr(automl_prune.search, "run_trial", explode)
    assert main(["search", "tiny", "--trials", "6"]) == 0
    out = shown("show", "tiny", "5")
    assert "RuntimeError: the roof is on fire" in out
    assert "Traceback" in out
    assert "the roof is on fire" in shown("pareto", "tiny", "--all")
    assert json.loads(shown("status", "tiny", "--json"))["states"] == {"complete": 5, "failed": 1}


@pytest.mark.parametrize("verb", ["status", "pareto", "show"])
def test_an_unknown_study_is_named_with_what_there_is(searched, refused, verb):
    words = [verb, "tinny", *(["0"] if verb == "show" else [])]
    message = refused(*words)
    assert "tinny" in message
    assert "tiny" in message.replace("tinny", "")
    assert not (searched / "runs" / "tinny").exists()


def test_an_unknown_trial_is_named(searched, refused):
    assert "99" in refused("show", "tiny", "99")


def test_a_study_file_that_was_never_searched_says_what_to_do(here, refused):
    assert "automl-prune search" in refused("pareto", "tiny.toml")
    assert [path.name for path in here.iterdir()] == ["tiny.toml"]


def test_an_empty_study_has_no_front(here, refused, tiny_bench, tiny_config):
    (here / "runs" / "tiny").mkdir(parents=True)
    storage = open_storage("sqlite:///runs/tiny/study.db")
    StudyHandle.create_or_check(storage, tiny_config, tiny_bench.facts, here / "artifacts")
    storage.close()
    assert "automl-prune search" in refused("pareto", "tiny")
    assert "nothing to pick from" in refused("pick", "tiny", "--knee", "--out", "out")
    assert not (here / "out").exists()


@pytest.mark.parametrize("verb", ["status", "pareto"])
def test_an_unreachable_storage_is_one_line_without_password(here, refused, verb):
    url = "postgresql://someone:s3cret@127.0.0.1:9/none"
    message = refused(verb, "tiny", "--storage", url)
    assert "s3cret" not in message
    assert "127.0.0.1" in message


def test_an_unwritable_page_leaves_nothing(searched, refused):
    (searched / "file").write_text("")
    assert "file/front.csv" in refused("pareto", "tiny", "--csv", "file/front.csv")


NUM_TRIALS, NUM_GROUPS = 1000, 40


@pytest.fixture(scope="module")
def large_study(tmp_path_factory):
    """1,000 finished trials with 40 groups, written as the study writes them."""
    folder = tmp_path_factory.mktemp("large")
    names = [f"layer{i}.conv" for i in range(NUM_GROUPS)]
    config = StudyConfig.model_validate(
        {
            "name": "large",
            "data": {"source": "digits"},
            "model": {"builder": "automl_prune.models:digits_net"},
        }
    )
    facts = StudyFacts(
        groups=tuple(
            GroupRow(
                name=name,
                layers=(name, f"{name}.bn"),
                units=64,
                channels_per_unit=1,
                macs_share=0.02,
                low=0.1,
                high=1.0,
            )
            for name in names
        ),
        fixed=(),
        dense_macs=1_000_000,
        dense_params=100_000,
        dense_accuracy=95.0,
        dense_digest="ab" * 32,
        dense_latency=None,
        min_macs=10_000,
        max_macs=1_000_000,
        cost_scale=1.0,
        input_shape=(1, 8, 8),
        class_names=tuple("0123456789"),
        split_sizes={"train": 1000, "search": 100, "select": 100, "test": 100},
        select_contaminated=False,
    )
    (folder / "runs" / "large").mkdir(parents=True)
    storage = open_storage(f"sqlite:///{folder}/runs/large/study.db")
    handle = StudyHandle.create_or_check(storage, config, facts, folder / "artifacts")
    ratios = dict.fromkeys(names, 0.123456789012345)
    record = json.dumps({"start_ratios": ratios, "final_ratios": ratios, "kept_units": ratios})
    rows = [
        {
            "study_id": handle.study_id,
            "number": number,
            "token": f"{number:032d}",
            "finish_order": number + 1,
            "finished_at": 1e9 + number,
            "seconds": 1.0,
            "kind": "baseline" if number < 5 else "search",
            "state": "complete",
            "trade_off": 1.0,
            "accuracy": 95.0 - 80.0 / (1 + number % 97) - 0.001 * (number % 89),
            "loss": 0.1,
            "macs": 10_000 * (1 + number % 97),
            "params": 1000 + number,
            "latency_ms": 1.0,
            "latency_hardware": "CPU",
            "feasible": True,
            "constraints": "{}",
            "error": None,
            "record": record,
            "artifacts": "{}",
        }
        for number in range(NUM_TRIALS)
    ]
    storage.database.write(lambda connection: connection.execute(sa.insert(results), rows))
    storage.close()
    return folder


def cpu_seconds(code, folder):
    """Processor seconds of a fresh process, the least of three, and what it printed."""
    durations = []
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        found = subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            cwd=folder,
        )
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        assert found.returncode == 0, found.stderr
        durations.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return min(durations), found.stdout


@pytest.mark.parametrize("words", [["pareto", "large", "--json"], ["status", "large"]])
def test_cold_reading_of_a_large_study_is_quick_and_loads_no_torch(large_study, words):
    """As quick as a few bare imports of the libraries it needs, whatever the machine."""
    imports, _ = cpu_seconds("import pydantic, rich.console, sqlalchemy, typer", large_study)
    code = (
        "import sys\nfrom automl_prune.cli import main\n"
        f"code = main({words!r})\n"
        "assert not {'torch', 'optuna', 'plotly'} & set(sys.modules), sorted(sys.modules)\n"
        "sys.exit(code)"
    )
    took, printed = cpu_seconds(code, large_study)
    assert took < 5 * imports
    if words[0] == "pareto":
        assert len(json.loads(printed)) > 10
