import pytest
import torch

from automl_prune.card import model_card
from automl_prune.errors import DataError, ModelFolderError
from automl_prune.evaluate import evaluate
from automl_prune.manifest import CARD_FILE, read_manifest
from automl_prune.modelfile import load_pruned, verify_folder
from automl_prune.picking import take_model


@pytest.fixture(scope="module")
def picked(tiny_folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("picked") / "model"
    return out, take_model(tiny_folder, out)


def test_a_picked_model_verifies(picked):
    report = verify_folder(picked[0])
    assert report.ok
    assert "accuracy on test" in [line.name for line in report.lines]


def test_test_accuracy_is_that_of_the_test_split(picked, tiny_bench, tiny_config):
    out, manifest = picked
    found = evaluate(load_pruned(out), tiny_bench.data, "test", tiny_config.data, device="cpu")
    assert manifest.test.accuracy == pytest.approx(found.accuracy)
    assert manifest.test.num_images == tiny_bench.data.split_sizes["test"]


def test_nothing_but_test_and_card_is_new(picked, tiny_folder):
    out, manifest = picked
    before = read_manifest(tiny_folder)
    assert before.test is None
    assert manifest.model_copy(update={"test": None}) == before
    assert read_manifest(out) == manifest
    assert (out / CARD_FILE).read_text() == model_card(manifest)
    for name, tensor in load_pruned(out).state_dict().items():
        assert torch.equal(tensor, load_pruned(tiny_folder).state_dict()[name])


def test_a_foreign_folder_is_refused_before_test_is_read(tiny_folder, tmp_path):
    (tmp_path / "mine.txt").write_text("")
    with pytest.raises(ModelFolderError, match=r"mine\.txt"):
        take_model(tiny_folder, tmp_path, data_root="/nonexistent")


def test_missing_data_leave_nothing_half_written(tiny_folder, tmp_path):
    import json
    import shutil

    folder = shutil.copytree(tiny_folder, tmp_path / "source")
    content = json.loads((folder / "manifest.json").read_text())
    content["splits"]["config"] |= {"source": "fashion-mnist", "root": "/nonexistent"}
    (folder / "manifest.json").write_text(json.dumps(content))
    with pytest.raises(DataError):
        take_model(folder, tmp_path / "out")
    assert not (tmp_path / "out").exists()
