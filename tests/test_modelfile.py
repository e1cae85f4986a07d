import json
import pickle
import shutil
import sys
import types

import pytest
import torch
from test_atomic import largest_file

from automl_prune import load_pruned
from automl_prune.errors import (
    DataError,
    EnvironmentProblemError,
    ModelError,
    ModelFolderError,
    TrustError,
)
from automl_prune.manifest import MANIFEST_FILE, WEIGHTS_FILE, Measured, read_manifest
from automl_prune.modelfile import save_model_folder, update_manifest, verify_folder
from automl_prune.prune import layer_widths


@pytest.fixture
def folder(tiny_folder, tmp_path):
    """A copy that a test may damage."""
    return shutil.copytree(tiny_folder, tmp_path / "model")


def edit(folder, **changes):
    path = folder / MANIFEST_FILE
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def differing(report):
    return [line.name for line in report.lines if not line.ok]


def test_the_loaded_model_is_the_saved_one(tiny_folder, tiny_outcome, tiny_bench):
    model = load_pruned(tiny_folder)
    images_BCHW, _ = next(iter(tiny_bench.data.in_order("select", batch_size=32, device="cpu")))
    with torch.no_grad():
        expected = tiny_outcome.model(images_BCHW)
        torch.testing.assert_close(model(images_BCHW), expected, rtol=0, atol=1e-5)
    assert not model.training
    assert layer_widths(model) == tiny_outcome.widths
    assert layer_widths(model) != layer_widths(tiny_bench.dense)


def test_loading_never_unpickles(tiny_folder, monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("pickle was asked to load")

    monkeypatch.setattr(pickle, "load", refuse)
    monkeypatch.setattr(pickle, "loads", refuse)
    monkeypatch.setattr(torch, "load", refuse)
    load_pruned(tiny_folder)


def test_a_good_folder_verifies(tiny_folder):
    report = verify_folder(tiny_folder)
    assert report.ok
    names = [line.name for line in report.lines]
    assert {"weights", "MACs", "parameters", "splits", "accuracy on select"} <= set(names)
    assert "accuracy on test" not in names


@pytest.mark.parametrize(
    ("changes", "names"),
    [
        ({"macs": 12345}, ["MACs"]),
        ({"params": 12345}, ["parameters"]),
        ({"weights_digest": "ab" * 32}, ["weights"]),
        ({"class_names": ["cat", "dog"]}, ["class names"]),
    ],
)
def test_a_false_claim_is_the_line_that_differs(folder, changes, names):
    edit(folder, **changes)
    assert differing(verify_folder(folder)) == names


def test_a_false_accuracy_of_one_image_is_found(folder):
    select = read_manifest(folder).select
    wrong = select.accuracy - 100.0 / select.num_images
    edit(folder, select=select.model_copy(update={"accuracy": wrong}).model_dump())
    assert differing(verify_folder(folder)) == ["accuracy on select"]


def test_one_image_may_differ_on_other_hardware_but_not_many(folder):
    select = read_manifest(folder).select
    image = 100.0 / select.num_images
    for images, expected in [(1, []), (3, ["accuracy on select"])]:
        claim = select.model_copy(update={"accuracy": select.accuracy - images * image})
        edit(folder, hardware="another machine", select=claim.model_dump())
        assert differing(verify_folder(folder)) == expected


def test_other_splits_are_found(folder):
    splits = json.loads((folder / MANIFEST_FILE).read_text())["splits"]
    edit(folder, splits=splits | {"seed": splits["seed"] + 1})
    assert "splits" in differing(verify_folder(folder))


def test_test_is_checked_once_it_was_read(folder):
    claim = Measured(accuracy=1.0, loss=5.0, num_images=360)
    update_manifest(folder, read_manifest(folder).model_copy(update={"test": claim}))
    assert differing(verify_folder(folder)) == ["accuracy on test", "loss on test"]


def test_changed_weights_are_refused_and_do_not_verify(folder):
    path = folder / WEIGHTS_FILE
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(ModelFolderError, match="not the file that was saved"):
        load_pruned(folder)
    assert differing(verify_folder(folder)) == [WEIGHTS_FILE]


def test_missing_weights_are_named(folder):
    (folder / WEIGHTS_FILE).unlink()
    with pytest.raises(ModelFolderError, match=WEIGHTS_FILE):
        load_pruned(folder)


def test_widths_that_do_not_fit_the_weights_are_refused(folder):
    widths = json.loads((folder / MANIFEST_FILE).read_text())["widths"]
    widths[next(iter(widths))]["outputs"] -= 1
    edit(folder, widths=widths)
    with pytest.raises(ModelFolderError, match="does not load"):
        load_pruned(folder)


def test_widths_with_unknown_keys_are_refused(folder):
    widths = json.loads((folder / MANIFEST_FILE).read_text())["widths"]
    widths[next(iter(widths))]["depth"] = 3
    edit(folder, widths=widths)
    with pytest.raises(ModelFolderError, match="does not load"):
        load_pruned(folder)


@pytest.fixture
def my_package(monkeypatch):
    """A user's own builder, in a package that nobody trusts by default."""
    from automl_prune.models import digits_net

    package = types.ModuleType("my_package")
    package.build = digits_net
    monkeypatch.setitem(sys.modules, "my_package", package)
    return "my_package:build"


def test_a_foreign_builder_needs_trust(folder, my_package):
    builder = json.loads((folder / MANIFEST_FILE).read_text())["builder"]
    edit(folder, builder=builder | {"path": my_package})
    with pytest.raises(TrustError, match="--trust my_package"):
        load_pruned(folder)
    with pytest.raises(TrustError, match="my_package"):
        verify_folder(folder)
    assert load_pruned(folder, trust="my_package")
    assert load_pruned(folder, trust=("my_package",))
    assert verify_folder(folder, trusted=("my_package",)).ok


def test_data_that_are_elsewhere_are_found_with_data_root(folder):
    splits = json.loads((folder / MANIFEST_FILE).read_text())["splits"]
    config = splits["config"] | {"source": "fashion-mnist", "root": "/nonexistent/here"}
    edit(folder, splits=splits | {"config": config})
    with pytest.raises(DataError, match="/nonexistent/here"):
        verify_folder(folder)
    with pytest.raises(DataError, match="/nonexistent/there"):
        verify_folder(folder, data_root="/nonexistent/there")


def test_a_full_disk_leaves_the_previous_model(folder, tiny_outcome):
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    manifest = read_manifest(folder)
    with largest_file(2000), pytest.raises(EnvironmentProblemError, match="nothing was changed"):
        save_model_folder(folder, tiny_outcome.model, manifest)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]
    assert load_pruned(folder)


def test_a_full_disk_leaves_the_previous_manifest(folder):
    manifest = read_manifest(folder)
    longer = manifest.model_copy(update={"hardware": "x" * 10_000})
    with largest_file(2000), pytest.raises(EnvironmentProblemError):
        update_manifest(folder, longer)
    assert read_manifest(folder) == manifest


def test_saving_over_a_model_folder_replaces_it(folder, tiny_outcome):
    manifest = read_manifest(folder).model_copy(update={"trial": 99})
    saved = save_model_folder(folder, tiny_outcome.model, manifest, card="# card\n")
    assert read_manifest(folder) == saved
    assert saved.trial == 99
    assert (folder / "README.md").read_text() == "# card\n"


def test_saving_over_anything_else_is_refused(folder, tiny_outcome, tmp_path):
    manifest = read_manifest(folder)
    (folder / "notes.txt").write_text("mine")
    with pytest.raises(ModelFolderError, match=r"notes\.txt"):
        save_model_folder(folder, tiny_outcome.model, manifest)
    (tmp_path / "file").write_text("mine")
    with pytest.raises(ModelFolderError, match="is a file"):
        save_model_folder(tmp_path / "file", tiny_outcome.model, manifest)
    assert (folder / "notes.txt").read_text() == "mine"


def test_a_model_that_its_builder_does_not_give_is_not_saved(tiny_outcome, tiny_folder, tmp_path):
    class Doubled(torch.nn.Module):
        def __init__(self, inner):
            super().__init__()
            self.__dict__["inner"] = inner  # same state, other outputs

        def state_dict(self, *_, **__):
            return self.inner.state_dict()

        def parameters(self, recurse=True):
            return self.inner.parameters(recurse)

        def forward(self, images_BCHW):
            return 2 * self.inner(images_BCHW)

    with pytest.raises(ModelError, match="gives other outputs"):
        save_model_folder(
            tmp_path / "out", Doubled(tiny_outcome.model), read_manifest(tiny_folder)
        )
    assert not (tmp_path / "out").exists()
