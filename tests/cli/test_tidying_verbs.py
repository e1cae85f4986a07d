import io
import json
import re
import sys

from automl_prune.cli import main


def artifacts(folder):
    return {path for path in (folder / "runs/tiny/artifacts").iterdir() if path.is_file()}


def test_gc_keeps_front_and_recent_trials(searched, shown):
    front = {row["trial"] for row in json.loads(shown("pareto", "tiny", "--json"))}
    everything = {row["trial"] for row in json.loads(shown("pareto", "tiny", "--all", "--json"))}
    before = artifacts(searched)
    said = shown("gc", "tiny", "--recent", "1", "--dry-run")
    assert artifacts(searched) == before
    freed = shown("gc", "tiny", "--recent", "1")
    assert re.search(r"free\w* (.*) of", said)[1] == re.search(r"free\w* (.*) of", freed)[1]
    gone = everything - front - {4}
    assert gone
    assert len(artifacts(searched)) == len(before) * (5 - len(gone)) // 5
    for trial in everything:
        code = main(["pick", "tiny", "--trial", str(trial), "--out", f"out{trial}"])
        assert (code == 0) == (trial not in gone)
    assert len(json.loads(shown("pareto", "tiny", "--all", "--json"))) == 5


def test_delete_asks_and_takes_no_for_an_answer(searched, shown, monkeypatch, capsys):
    for answer in ("n\n", ""):
        monkeypatch.setattr(sys, "stdin", io.StringIO(answer))
        assert main(["delete", "tiny"]) == 1
        assert "Delete study 'tiny'" in capsys.readouterr().out
    assert json.loads(shown("status", "tiny", "--json"))["finished"] == 5


def test_delete_removes_trials_and_artifacts(searched, shown, refused):
    assert "deleted tiny" in shown("delete", "tiny", "--yes")
    assert artifacts(searched) == set()
    assert "no study 'tiny'" in refused("pareto", "tiny.toml")


def test_a_deleted_study_can_be_begun_anew(searched, shown):
    shown("delete", "tiny", "--yes")
    shown("search", "tiny.toml", "--trials", "1", "--set", "inner.steps=4")
    assert json.loads(shown("status", "tiny", "--json"))["finished"] == 1


def test_an_unknown_study_cannot_be_deleted(searched, refused):
    assert "tinny" in refused("delete", "tinny", "--yes")
    assert "tinny" in refused("gc", "tinny")
