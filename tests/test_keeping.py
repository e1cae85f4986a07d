import multiprocessing
import os
import time

import optuna
import pytest
from made_up_trials import finish_one, made_up_config, made_up_facts

from automl_prune.errors import StorageError, StudyNotFoundError
from automl_prune.keeping import StudyKeeper
from automl_prune.optuna_storage import open_optuna
from automl_prune.storage import open_storage
from automl_prune.storage.artifacts import ORPHAN_AGE_S
from automl_prune.study import StudyHandle
from automl_prune.tested import note_test


@pytest.fixture
def handle(storage_url, tmp_path):
    storage = open_storage(storage_url)
    handle = StudyHandle.create_or_check(
        storage, made_up_config(), made_up_facts(), tmp_path / "artifacts"
    )
    yield handle
    handle.close()
    storage.close()


def num_files(handle):
    return len(list(handle.artifact_dir.iterdir()))


def test_artifacts_that_nobody_needs_go_and_rows_stay(handle, tmp_path):
    for _ in range(4):
        finish_one(handle, 4, tmp_path / "m")
    size = sum(a.num_bytes for n in (1, 3) for a in handle.artifacts_of(n).values())
    would = handle.remove_artifacts(keep={0, 2}, dry_run=True)
    assert (would.num_bytes, would.num_trials) == (size, 2)
    assert num_files(handle) == 12
    assert handle.remove_artifacts(keep={0, 2}) == would
    assert num_files(handle) == 6
    assert len(handle.rows()) == 4
    assert handle.artifact(0, "manifest.json")
    with pytest.raises(StudyNotFoundError, match="automl-prune gc"):
        handle.artifact(1, "manifest.json")
    assert handle.remove_artifacts(keep={0, 2}).num_bytes == 0


def test_files_of_workers_that_died_go_when_they_are_old(handle, tmp_path):
    finish_one(handle, 1, tmp_path / "m")
    orphan = handle.artifacts.put("model.safetensors", b"12345")
    handle.remove_artifacts(keep={0})
    assert num_files(handle) == 4, "a worker may be about to hand it in"
    past = time.time() - ORPHAN_AGE_S - 60
    for path in handle.artifact_dir.iterdir():
        os.utime(path, (past, past))
    assert handle.remove_artifacts(keep={0}).num_bytes == orphan.num_bytes
    assert num_files(handle) == 3


def test_a_deleted_study_leaves_nothing(handle, tmp_path):
    for _ in range(3):
        finish_one(handle, 3, tmp_path / "m")
    other = StudyHandle.create_or_check(
        handle.storage, made_up_config("other"), made_up_facts(), tmp_path / "artifacts"
    )
    finish_one(other, 1, tmp_path / "m")
    other.close()
    note_test(handle, 0, accuracy=90.0, num_images=10, weights_digest="any")
    handle.delete()
    assert not (handle.artifact_dir / "tested" / handle.name).exists()
    assert handle.storage.study_names() == ["other"]
    assert num_files(handle) == 3, "those of the other study"
    theirs = open_optuna(handle.storage.database)
    assert optuna.get_all_study_names(theirs) == ["other"]
    theirs.remove_session()
    theirs.engine.dispose()
    assert len(other.rows()) == 1
    again = StudyHandle.create_or_check(
        handle.storage, made_up_config(), made_up_facts(), tmp_path / "artifacts"
    )
    assert again.rows() == []


def test_nothing_is_carried_over_while_the_study_is_deleted(handle, tmp_path, monkeypatch):
    finish_one(handle, 1, tmp_path / "m")
    delete, carriers = StudyKeeper.delete, [handle._carrier]

    def watched(self):
        carriers.append(self._carrier)
        delete(self)

    monkeypatch.setattr(StudyKeeper, "delete", watched)
    handle.delete()
    assert carriers[0] is not None
    assert carriers[1] is None


def test_a_deletion_that_was_cut_off_can_be_repeated(handle, tmp_path):
    finish_one(handle, 1, tmp_path / "m")
    theirs = open_optuna(handle.storage.database)
    theirs.delete_study(handle.optuna_study_id)
    theirs.remove_session()
    theirs.engine.dispose()
    handle.delete()
    assert handle.storage.study_names() == []


def work_on(url, started, end):
    storage = open_storage(url)
    handle = StudyHandle.load(storage, "made-up")
    handle.ask(5)
    started.set()
    end.wait()
    handle.close()
    storage.close()


def test_a_study_that_is_worked_on_is_not_deleted(handle, storage_url):
    context = multiprocessing.get_context("spawn")
    started, end = context.Event(), context.Event()
    process = context.Process(target=work_on, args=(storage_url, started, end))
    process.start()
    assert started.wait(60)
    with pytest.raises(StorageError, match=rf"process {process.pid}\); stop these workers first"):
        handle.delete()
    process.kill()
    process.join()
    handle.delete()
    assert handle.storage.study_names() == []
