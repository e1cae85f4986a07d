import json
import os
import shutil
import signal
import subprocess
import sys

import pytest

from automl_prune.cli import main
from automl_prune.cli.shipping_verbs import formats_of
from automl_prune.errors import ConfigError
from automl_prune.manifest import read_manifest
from automl_prune.modelfile import verify_folder


@pytest.fixture
def model(tiny_folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return shutil.copytree(tiny_folder, tmp_path / "model")


def test_formats_are_read_from_a_list():
    assert formats_of("onnx,pt2") == ("onnx", "pt2")
    assert formats_of(" pt2 ") == ("pt2",)
    for wrong in ("", ",", "tflite", "onnx,tflite"):
        with pytest.raises(ConfigError, match="onnx, pt2"):
            formats_of(wrong)


def test_export_names_file_and_proof(model, shown):
    out = shown("export", "model", "--format", "pt2")
    assert "model/model.pt2: differs by at most" in out
    assert verify_folder(model).ok


def test_latency_is_a_table_or_json(model, shown):
    rows = json.loads(shown("latency", "model", "--json"))
    assert {(row["model"], row["runtime"], row["latency"]["batch_size"]) for row in rows} == {
        (name, runtime, batch_size)
        for name in ("dense", "pruned")
        for runtime in ("torch", "onnxruntime")
        for batch_size in (1, 64)
    }
    assert "dense / pruned" in shown("latency", "model")


def test_finetune_writes_a_folder_that_verifies(model, shown):
    out = shown("finetune", "model", "--steps", "10", "--out", "longer")
    assert "on test" in out
    assert "verified" in shown("verify", "longer")
    manifest = read_manifest(model.parent / "longer")
    assert manifest.finetune_steps == read_manifest(model).finetune_steps + 10


def test_several_seeds_give_mean_and_spread(model, shown):
    out = shown("finetune", "model", "--steps", "3", "--seeds", "2", "--out", "longer")
    assert "mean" in out
    assert "over 2 seeds" in out
    digests = {read_manifest(model.parent / "longer" / f"seed-{i}").weights_digest for i in (0, 1)}
    assert len(digests) == 2


def test_a_stopped_finetuning_goes_on(model, shown):
    words = ["finetune", "model", "--steps", "400", "--out", "longer"]
    code = "import sys; from automl_prune.cli import progress, main\n"
    code += "progress.PLAIN_EVERY_S = 0.0\nsys.exit(main())"
    process = subprocess.Popen(
        [sys.executable, "-c", code, *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=model.parent,
        env=os.environ | {"PYTHONUNBUFFERED": "1"},
    )
    next(iter(process.stdout))
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=240)
    assert process.returncode == 130, err
    assert "goes on from here" in err
    assert not (model.parent / "longer").exists()
    assert main(words) == 0
    assert verify_folder(model.parent / "longer").ok
    assert {path.name for path in model.parent.iterdir()} == {"model", "longer"}
