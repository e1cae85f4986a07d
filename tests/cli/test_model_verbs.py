import json
import shutil
from pathlib import Path

import pytest
import torch
from test_atomic import largest_file

import automl_prune
from automl_prune.cli import main
from automl_prune.cli.places import open_for_reading
from automl_prune.manifest import read_manifest
from automl_prune.tested import OnTest, measured_on_test


@pytest.fixture(scope="module")
def picked_folder(searched_folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("picked") / "model"
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(searched_folder)
        assert main(["pick", "tiny", "--knee", "--out", str(out)]) == 0
    return out


@pytest.fixture
def picked(picked_folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return shutil.copytree(picked_folder, tmp_path / "model")


def edit(folder, **changes):
    path = folder / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_a_picked_model_loads_runs_and_verifies(picked, shown):
    manifest = read_manifest(picked)
    assert manifest.test is not None
    assert manifest.study == "tiny"
    model = automl_prune.load_pruned(picked)
    assert model(torch.zeros(3, *manifest.preprocessing.input_shape)).shape == (3, 10)
    assert "verified" in shown("verify", "model")
    assert (picked / "README.md").is_file()


def test_verify_json_lists_every_line(picked, shown):
    lines = json.loads(shown("verify", "model", "--json"))
    assert all(line["ok"] for line in lines)
    assert {"MACs", "accuracy on test"} <= {line["name"] for line in lines}


def test_verify_exits_1_and_shows_the_line_that_differs(picked, refused, capsys):
    edit(picked, macs=123_456)
    assert main(["verify", "model"]) == 1
    captured = capsys.readouterr()
    (line,) = [line for line in captured.out.splitlines() if "DIFFERS" in line]
    assert "123,456" in line
    assert "MACs" in captured.err
    assert "different: MACs" in refused("verify", "model", code=1)


def test_tampered_weights_do_not_verify(picked, refused):
    path = picked / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    assert "model.safetensors" in refused("verify", "model", code=1)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"version": 99}, "upgrade automl-prune"),
        ({"surprise": 1}, "surprise"),
        ({"builder": {"path": "evil.code:build", "num_classes": 10}}, "--trust evil"),
        ({"builder": {"path": "automl_prune.models:nope", "num_classes": 10}}, "nope"),
    ],
)
def test_a_folder_that_must_not_or_cannot_load_is_a_users_mistake(
    picked, refused, changes, message
):
    edit(picked, **changes)
    for verb in ("verify", "export", "latency"):
        assert message in refused(verb, "model")


def test_a_damaged_manifest_is_a_users_mistake(picked, refused):
    (picked / "manifest.json").write_text('{"version": 1')
    for verb in ("verify", "export", "latency"):
        assert "damaged" in refused(verb, "model")
    assert "no such folder" in refused("verify", "nowhere")


def test_pick_by_trial_and_by_limits(searched, shown):
    front = json.loads(shown("pareto", "tiny", "--json"))
    for words, row in [
        (["--trial", str(front[0]["trial"])], front[0]),
        (["--max-macs", str(front[-1]["macs"])], front[-1]),
        (["--max-drop", "100"], front[0]),
    ]:
        shown("pick", "tiny", *words, "--out", "out")
        assert read_manifest(searched / "out").trial == row["trial"]


def test_pick_can_export(searched, shown):
    out = shown("pick", "tiny", "--knee", "--out", "out", "--format", "pt2")
    assert "model.pt2" in out
    assert (searched / "out" / "model.pt2").is_file()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "exactly one of"),
        (["--knee", "--trial", "1"], "found 2"),
        (["--trial", "77"], "77"),
        (["--max-macs", "10"], "nearest has"),
        (["--max-latency-ms", "0.000001"], "nearest has"),
        (["--knee", "--format", "tflite"], "tflite"),
    ],
)
def test_a_pick_that_cannot_be_leaves_nothing(searched, refused, words, message):
    assert message in refused("pick", "tiny", *words, "--out", "out")
    assert not (searched / "out").exists()


def test_pick_does_not_overwrite_what_is_not_a_model_folder(searched, refused):
    out = searched / "out"
    out.mkdir()
    (out / "thesis.tex").write_text("years of work")
    assert "thesis.tex" in refused("pick", "tiny", "--knee", "--out", "out")
    assert (out / "thesis.tex").read_text() == "years of work"


def test_a_full_disk_while_picking_leaves_the_previous_model(searched, shown, refused):
    rows = json.loads(shown("pareto", "tiny", "--all", "--json"))
    shown("pick", "tiny", "--trial", str(rows[1]["trial"]), "--out", "out")
    before = {path.name: path.read_bytes() for path in (searched / "out").iterdir()}
    with largest_file(2_000):
        message = refused("pick", "tiny", "--trial", str(rows[2]["trial"]), "--out", "out")
    assert "the limit on a file's size is reached" in message
    assert {path.name: path.read_bytes() for path in (searched / "out").iterdir()} == before


def test_accuracy_on_test_of_a_picked_model_is_noted_for_the_dashboard(searched, shown, capsys):
    shutil.rmtree("runs/tiny/artifacts/tested", ignore_errors=True)  # of other tests' picks
    shown("pick", "tiny", "--trial", "2", "--out", "out")
    test = read_manifest(Path("out")).test
    found = measured_on_test(open_for_reading("tiny", None))
    assert found == {2: OnTest(accuracy=test.accuracy, num_images=test.num_images)}
    folder = Path("runs/tiny/artifacts/tested")
    shutil.rmtree(folder)
    folder.write_text("a file where the folder should be")
    assert main(["pick", "tiny", "--trial", "2", "--out", "out"]) == 0
    assert "will not show the accuracy on test" in capsys.readouterr().err
