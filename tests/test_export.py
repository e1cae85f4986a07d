import hashlib
import importlib.util
import io
import shutil

import onnxruntime
import pytest
import torch
import torchvision
from torch import nn

import automl_prune.models
from automl_prune.errors import EnvironmentProblemError, ModelError
from automl_prune.export import export_folder, export_model
from automl_prune.graph import trace_coupling
from automl_prune.manifest import CARD_FILE, read_manifest
from automl_prune.modelfile import load_pruned, verify_folder
from automl_prune.prune import prune_model

BUILT_IN = [
    "digits_net",
    "resnet20",
    "resnet32",
    "resnet44",
    "resnet56",
    pytest.param("resnet110", marks=pytest.mark.slow),
    "vgg16_bn",
]
TORCHVISION = [
    "resnet18",
    "mobilenet_v2",
    pytest.param("densenet121", marks=pytest.mark.slow),
]


def pruned(model, shape):
    """Half of every group gone, and statistics that are not the initial ones."""
    generator = torch.Generator().manual_seed(0)
    graph = trace_coupling(model, shape)
    keep_U = torch.rand(graph.num_units, generator=generator) < 0.5
    for group in graph.groups:
        keep_U[group.first_unit] = True
    small = prune_model(model, graph, keep_U)
    for module in small.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1, generator=generator)
            module.running_var.uniform_(0.5, 1.5, generator=generator)
    return small.eval()


def check(model, shape, form):
    images_BCHW = torch.randn(5, *shape, generator=torch.Generator().manual_seed(1))
    content, export = export_model(model, images_BCHW, form)
    with torch.no_grad():
        expected = model(images_BCHW)
    if form == "onnx":
        session = onnxruntime.InferenceSession(content)
        found = torch.from_numpy(session.run(None, {"images": images_BCHW.numpy()})[0])
    else:
        found = torch.export.load(io.BytesIO(content)).module()(images_BCHW)
    assert (found - expected).abs().max() <= 1e-4 * expected.abs().max()
    assert export.sha256 == hashlib.sha256(content).hexdigest()
    assert export.num_images == 5


@pytest.mark.parametrize("form", ["onnx", "pt2"])
@pytest.mark.parametrize("name", BUILT_IN)
def test_exports_of_built_in_nets_give_the_same_outputs(name, form):
    torch.manual_seed(0)
    model = getattr(automl_prune.models, name)(num_classes=10, in_channels=3)
    check(pruned(model, (3, 32, 32)), (3, 32, 32), form)


@pytest.mark.parametrize("form", ["onnx", "pt2"])
@pytest.mark.parametrize("name", TORCHVISION)
def test_exports_of_torchvision_nets_give_the_same_outputs(name, form):
    torch.manual_seed(0)
    model = getattr(torchvision.models, name)(num_classes=7)
    check(pruned(model, (3, 64, 64)), (3, 64, 64), form)


@pytest.fixture
def folder(tiny_folder, tmp_path):
    return shutil.copytree(tiny_folder, tmp_path / "model")


def test_exports_stand_in_the_folder_and_its_manifest(folder):
    manifest = export_folder(folder)
    assert read_manifest(folder) == manifest
    assert set(manifest.exports) == {"onnx", "pt2"}
    assert (folder / "model.onnx").is_file()
    assert (folder / "model.pt2").is_file()
    for export in manifest.exports.values():
        assert export.max_abs_difference <= 1e-4 * export.output_scale
        assert export.num_images == 64
    assert "model.onnx" in (folder / CARD_FILE).read_text()
    assert verify_folder(folder).ok


def test_a_changed_export_does_not_verify(folder):
    export_folder(folder, ("pt2",))
    with (folder / "model.pt2").open("ab") as file:
        file.write(b"x")
    assert [line.name for line in verify_folder(folder).lines if not line.ok] == ["model.pt2"]
    (folder / "model.pt2").unlink()
    assert [line.found for line in verify_folder(folder).lines if not line.ok] == ["no such file"]


def test_onnx_takes_any_batch(folder):
    export_folder(folder, ("onnx",))
    session = onnxruntime.InferenceSession(folder / "model.onnx")
    (images,) = session.get_inputs()
    assert images.name == "images"
    assert images.shape[1:] == list(read_manifest(folder).preprocessing.input_shape)
    model = load_pruned(folder)
    for batch_size in (1, 2, 129):
        images_BCHW = torch.randn(batch_size, *images.shape[1:])
        (logits,) = session.run(["logits"], {"images": images_BCHW.numpy()})
        assert logits.shape == tuple(model(images_BCHW).shape)


def test_what_cannot_be_exported_is_a_model_error():
    class Choosy(nn.Module):
        def forward(self, images_BCHW):
            if images_BCHW.sum() > 0:  # depends on the data
                return images_BCHW.mean((2, 3))
            return images_BCHW.amax((2, 3))

    with pytest.raises(ModelError, match="cannot be exported as pt2"):
        export_model(Choosy(), torch.randn(4, 3, 8, 8), "pt2")


def test_an_export_that_lost_its_way_is_refused():
    class Moody(nn.Module):
        """Gives other outputs every time: so does its export."""

        def forward(self, images_BCHW):
            return images_BCHW.mean((2, 3)) + torch.rand(3)

    with pytest.raises(ModelError, match="differs from the model"):
        export_model(Moody(), torch.randn(4, 3, 8, 8), "pt2")


def test_a_missing_package_is_named(folder, monkeypatch):
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "onnx" else find_spec(name)
    )
    with pytest.raises(EnvironmentProblemError, match="pip install"):
        export_folder(folder, ("onnx",))
    assert not (folder / "model.onnx").exists()
