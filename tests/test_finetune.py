import shutil

import pytest
import torch

from automl_prune.errors import ModelFolderError
from automl_prune.finetune import FinetuneRequest, find_dense, finetune_folder
from automl_prune.manifest import read_manifest
from automl_prune.modelfile import load_pruned, verify_folder
from automl_prune.trial_state import TrialInterruptedError
from automl_prune.weights import weights_to_bytes

REQUEST = FinetuneRequest(steps=80, lr=0.02, seed=7)


@pytest.fixture(scope="module")
def dense_dir(tiny_bench, tmp_path_factory):
    folder = tmp_path_factory.mktemp("dense")
    (folder / "a-broken.safetensors").write_bytes(b"not weights")
    (folder / "b-right.safetensors").write_bytes(weights_to_bytes(tiny_bench.dense))
    return folder


@pytest.fixture(scope="module")
def finetuned(tiny_folder, dense_dir, tmp_path_factory):
    out = tmp_path_factory.mktemp("finetuned") / "model"
    return out, finetune_folder(tiny_folder, out, REQUEST, dense_dir=dense_dir)


def test_the_new_folder_verifies(finetuned, tiny_folder):
    out, manifest = finetuned
    assert verify_folder(out).ok
    assert manifest.test is not None
    assert manifest.origin == "finetune"
    before = read_manifest(tiny_folder)
    assert manifest.finetune_steps == before.finetune_steps + REQUEST.steps
    assert (manifest.macs, manifest.params) == (before.macs, before.params)
    assert manifest.weights_digest != before.weights_digest
    assert [path.name for path in out.parent.iterdir()] == [out.name]


def test_more_training_lowers_the_loss(finetuned, tiny_folder):
    assert finetuned[1].select.loss < read_manifest(tiny_folder).select.loss


def test_an_interrupted_call_goes_on_to_the_same_weights(
    finetuned, tiny_folder, dense_dir, tmp_path
):
    out, stops = tmp_path / "model", []

    def stop_once():
        stops.append(1)
        return len(stops) == 2

    with pytest.raises(TrialInterruptedError):
        finetune_folder(tiny_folder, out, REQUEST, dense_dir=dense_dir, should_stop=stop_once)
    assert not out.exists()
    seen = []
    manifest = finetune_folder(
        tiny_folder,
        out,
        REQUEST,
        dense_dir=dense_dir,
        on_step=lambda step, _loss: seen.append(step),
    )
    assert min(seen) > 5
    assert manifest.weights_digest == finetuned[1].weights_digest
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_another_request_does_not_take_up_the_checkpoint(tiny_folder, dense_dir, tmp_path):
    out = tmp_path / "model"
    with pytest.raises(TrialInterruptedError):
        finetune_folder(tiny_folder, out, REQUEST, dense_dir=dense_dir, should_stop=lambda: True)
    other, seen = FinetuneRequest(steps=20, lr=0.02, seed=8), []
    finetune_folder(
        tiny_folder, out, other, dense_dir=dense_dir, on_step=lambda step, _: seen.append(step)
    )
    assert min(seen) == 1


def test_the_teacher_is_found_by_its_digest_and_matters(
    tiny_folder, tiny_bench, dense_dir, finetuned, tmp_path
):
    manifest = read_manifest(tiny_folder)
    dense = find_dense(manifest, dense_dir)
    for name, tensor in tiny_bench.dense.state_dict().items():
        assert torch.equal(dense.state_dict()[name], tensor)
    assert find_dense(manifest, tmp_path / "nowhere") is None
    alone = finetune_folder(
        tiny_folder, tmp_path / "alone", REQUEST, dense_dir=tmp_path / "nowhere"
    )
    assert alone.weights_digest != finetuned[1].weights_digest


def test_from_scratch_forgets_the_weights(tiny_folder, dense_dir, tmp_path):
    request = FinetuneRequest(steps=5, lr=1e-9, seed=7, from_scratch=True)
    manifest = finetune_folder(tiny_folder, tmp_path / "new", request, dense_dir=dense_dir)
    before = read_manifest(tiny_folder)
    assert manifest.origin == "scratch"
    assert manifest.finetune_steps == 5
    assert manifest.select.accuracy < before.select.accuracy - 20
    shapes = {name: t.shape for name, t in load_pruned(tiny_folder).state_dict().items()}
    fresh = load_pruned(tmp_path / "new").state_dict()
    assert {name: t.shape for name, t in fresh.items()} == shapes


def test_a_foreign_destination_is_refused_before_training(tiny_folder, dense_dir, tmp_path):
    (tmp_path / "mine.txt").write_text("")
    with pytest.raises(ModelFolderError, match=r"mine\.txt"):
        finetune_folder(tiny_folder, tmp_path, REQUEST, dense_dir=dense_dir)


def test_exports_of_other_weights_are_not_kept(tiny_folder, dense_dir, tmp_path):
    from automl_prune.export import export_folder

    folder = shutil.copytree(tiny_folder, tmp_path / "model")
    export_folder(folder, ("pt2",))
    manifest = finetune_folder(folder, tmp_path / "out", REQUEST, dense_dir=dense_dir)
    assert manifest.exports == {}
    assert not (tmp_path / "out" / "model.pt2").exists()
