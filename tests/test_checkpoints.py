import pytest
import torch

from automl_prune.checkpoints import FolderCheckpoints
from automl_prune.errors import EnvironmentProblemError
from automl_prune.trial_state import TrialCheckpoint


def checkpoint(step):
    return TrialCheckpoint(
        phase="inner",
        tensors={"w": torch.full((3,), float(step)), "n": torch.tensor(step)},
        values={"step": step, "losses": [0.1, 1 / 3]},
    )


@pytest.fixture
def folder(tmp_path):
    return FolderCheckpoints(tmp_path / "trial", every_s=1000)


def test_nothing_saved_loads_as_none(folder):
    assert folder.load() is None


def test_the_newest_comes_back_whole(folder):
    for step in range(5):
        folder.save(checkpoint(step))
    loaded = folder.load()
    assert loaded.phase == "inner"
    assert loaded.values == {"step": 4, "losses": [0.1, 1 / 3]}
    assert torch.equal(loaded.tensors["w"], torch.full((3,), 4.0))


def test_only_the_newest_two_stay(folder, tmp_path):
    for step in range(5):
        folder.save(checkpoint(step))
    assert len(list((tmp_path / "trial").iterdir())) == 2


def test_a_damaged_newest_costs_one_checkpoint(folder, tmp_path, caplog):
    for step in range(2):
        folder.save(checkpoint(step))
    newest = max((tmp_path / "trial").iterdir())
    newest.write_bytes(newest.read_bytes()[:50])
    assert folder.load().values["step"] == 0
    assert "cannot be read" in caplog.text


def test_due_after_the_interval(tmp_path):
    assert FolderCheckpoints(tmp_path, every_s=0).due()
    assert not FolderCheckpoints(tmp_path, every_s=1000).due()


def test_a_folder_that_cannot_be_written_is_an_error_that_keeps_the_old(tmp_path):
    (tmp_path / "file").write_text("in the way")
    blocked = FolderCheckpoints(tmp_path / "file", every_s=0)
    with pytest.raises(EnvironmentProblemError, match="could not be written"):
        blocked.save(checkpoint(0))


def test_clear_removes_all(folder, tmp_path):
    folder.save(checkpoint(0))
    folder.clear()
    assert not (tmp_path / "trial").exists()
