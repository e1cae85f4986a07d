import torch

from automl_prune.card import model_card
from automl_prune.manifest import Builder, Export, LatencyRow, Measured, read_manifest
from automl_prune.records import Latency


def test_the_five_lines_of_the_card_load_the_model(tiny_folder, monkeypatch):
    manifest = read_manifest(tiny_folder)
    code = model_card(manifest).split("```python\n")[1].split("```")[0]
    assert len([line for line in code.splitlines() if line.strip()]) <= 5
    monkeypatch.chdir(tiny_folder)
    shape = manifest.preprocessing.input_shape
    names = {"images": torch.rand(2, *shape, generator=torch.Generator().manual_seed(0))}
    exec(code, names)  # what a person would copy
    assert names["logits"].shape == (2, len(manifest.class_names))


def test_the_card_says_what_the_manifest_says(tiny_folder):
    manifest = read_manifest(tiny_folder)
    card = model_card(manifest)
    assert f"{manifest.macs:,}" in card
    assert f"{manifest.select.accuracy:.2f}" in card
    assert "on test" not in card
    assert "outside" not in card
    for group in manifest.groups:
        assert f"`{group.name}`" in card


def test_test_contamination_and_trust_are_said(tiny_folder):
    manifest = read_manifest(tiny_folder).model_copy(
        update={
            "test": Measured(accuracy=87.65, loss=0.4, num_images=360),
            "select_contaminated": True,
            "builder": Builder(path="my_package.nets:build", num_classes=10),
        }
    )
    card = model_card(manifest)
    assert "| accuracy on test, % (360 images) | 87.65" in card
    assert "trust test" in card
    assert 'trust="my_package"' in card


def row(model, median_ms, hardware):
    latency = Latency(
        median_ms=median_ms, spread_ms=0.01, batch_size=1, threads=2, hardware=hardware
    )
    return LatencyRow(model=model, runtime="torch", latency=latency)


def test_latency_is_compared_on_the_same_hardware_only(tiny_folder):
    manifest = read_manifest(tiny_folder)
    rows = (row("dense", 3.0, "A"), row("pruned", 1.5, "A"), row("pruned", 0.1, "B"))
    card = model_card(manifest.model_copy(update={"latencies": rows}))
    assert "| A | 2 | torch | 1 | 3.000 ± 0.010 | 1.500 ± 0.010 | 2.00 |" in card
    assert "| B |" not in card


def test_exports_are_listed_with_their_proof(tiny_folder):
    export = Export(
        file="model.onnx",
        sha256="ab" * 32,
        max_abs_difference=3e-6,
        output_scale=12.0,
        num_images=64,
        tool="onnxruntime 1.0",
    )
    manifest = read_manifest(tiny_folder).model_copy(update={"exports": {"onnx": export}})
    assert "`model.onnx`" in model_card(manifest)
    assert "3.0e-06" in model_card(manifest)
