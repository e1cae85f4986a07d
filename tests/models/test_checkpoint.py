import pickle
import re

import pytest
import torch
from safetensors.torch import save_file

from automl_prune.errors import CheckpointError
from automl_prune.models import digits_net, load_checkpoint, resnet20


@pytest.fixture
def trained():
    torch.manual_seed(1)
    model = digits_net()
    for buffer in model.buffers():
        if buffer.is_floating_point():
            buffer.uniform_()
    return model


def same(one, two):
    first, second = one.state_dict(), two.state_dict()
    return all(torch.equal(first[name], second[name]) for name in first)


def test_weights_come_back_from_every_kind_of_file(trained, tmp_path):
    state = trained.state_dict()
    save_file(state, tmp_path / "a.safetensors")
    torch.save(state, tmp_path / "b.pt")
    torch.save({"state_dict": state, "epoch": 3}, tmp_path / "c.pth")
    torch.save({"model": {f"module.{k}": v for k, v in state.items()}}, tmp_path / "d.pth")
    for name in ("a.safetensors", "b.pt", "c.pth", "d.pth"):
        model = digits_net()
        assert not same(model, trained)
        load_checkpoint(model, tmp_path / name)
        assert same(model, trained), name


def test_missing_counters_of_batches_are_no_mistake(trained, tmp_path):
    state = {k: v for k, v in trained.state_dict().items() if "num_batches" not in k}
    save_file(state, tmp_path / "a.safetensors")
    model = digits_net()
    load_checkpoint(model, tmp_path / "a.safetensors")
    assert torch.equal(model.conv1.weight, trained.conv1.weight)


def test_what_does_not_fit_is_named_and_nothing_is_loaded(trained, tmp_path):
    state = trained.state_dict()
    del state["conv2.weight"]
    state["conv9.weight"] = torch.zeros(1)
    state["linear.weight"] = torch.zeros(7, 32)
    save_file(state, tmp_path / "a.safetensors")
    model = digits_net()
    before = model.conv1.weight.clone()
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(model, tmp_path / "a.safetensors")
    message = str(caught.value)
    assert "missing: conv2.weight" in message
    assert "unexpected: conv9.weight" in message
    assert "linear.weight (file (7, 32), model (10, 32))" in message
    assert torch.equal(model.conv1.weight, before)


def test_many_wrong_keys_are_counted_and_eight_of_them_named(tmp_path):
    save_file({"x": torch.zeros(1)}, tmp_path / "a.safetensors")
    model = resnet20()
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(model, tmp_path / "a.safetensors")
    line = next(line for line in str(caught.value).splitlines() if "missing" in line)
    needed = [name for name in model.state_dict() if "num_batches" not in name]
    assert f"({len(needed)} in all)" in line
    assert len(re.findall(r"\w\.(?:weight|bias|running_\w+)", line)) == 8


class Pickled:
    """An object that would do something when it is read."""

    ran = False

    def __reduce__(self):
        return (setattr, (Pickled, "ran", True))


def test_pickled_code_is_not_run(tmp_path):
    (tmp_path / "a.pt").write_bytes(pickle.dumps(Pickled(), protocol=2))
    torch.save({"state_dict": Pickled()}, tmp_path / "b.pt")
    for name in ("a.pt", "b.pt"):
        with pytest.raises(CheckpointError, match="save the state dict alone"):
            load_checkpoint(digits_net(), tmp_path / name)
    assert not Pickled.ran


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.safetensors", b"no tensors", "cannot be read"),
        ("a.pt", b"", "cannot be read"),
        ("a.pt", b"PK\x03\x04 cut off", "cannot be read"),
        ("a.bin", b"", "suffix '.bin'"),
        ("absent.pt", None, "does not exist; set model.checkpoint"),
    ],
)
def test_unreadable_files_are_refused(tmp_path, name, content, message):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(CheckpointError, match=re.escape(message)):
        load_checkpoint(digits_net(), tmp_path / name)


def test_a_file_without_state_dict_is_refused(tmp_path):
    torch.save([1, 2], tmp_path / "a.pt")
    torch.save({"epoch": 3}, tmp_path / "b.pt")
    for name in ("a.pt", "b.pt"):
        with pytest.raises(CheckpointError, match="holds no state dict"):
            load_checkpoint(digits_net(), tmp_path / name)
