import io
import json
import os
import time

import pytest
from optuna.artifacts import FileSystemArtifactStore
from optuna.artifacts.exceptions import ArtifactNotFound

from automl_prune.errors import EnvironmentProblemError
from automl_prune.storage.artifacts import (
    ORPHAN_AGE_S,
    Artifact,
    ArtifactFolder,
    from_column,
    to_column,
)


@pytest.fixture
def store(tmp_path):
    return ArtifactFolder(tmp_path / "artifacts")


def test_bytes_come_back(store):
    artifact = store.put("model.safetensors", b"weights")
    assert artifact.num_bytes == 7
    assert store.get(artifact) == b"weights"


def test_optunas_own_store_reads_what_we_write_and_we_what_it_writes(store):
    artifact = store.put("curves.json", b"[1]")
    theirs = FileSystemArtifactStore(store.folder)
    with theirs.open_reader(artifact.id) as file:
        assert file.read() == b"[1]"
    theirs.write(artifact.id, io.BytesIO(b"[1]"))
    assert store.get(artifact) == b"[1]"


def test_the_attribute_is_what_optuna_writes(store):
    key, text = store.put("curves.json", b"").optuna_attribute()
    content = json.loads(text)
    assert key == f"artifacts:{content['artifact_id']}"
    assert content["filename"] == "curves.json"
    assert content["mimetype"] == "application/json"
    assert content["encoding"] is None


def test_a_damaged_file_is_named(store):
    artifact = store.put("model.safetensors", b"weights")
    (store.folder / artifact.id).write_bytes(b"weighty")
    with pytest.raises(EnvironmentProblemError, match=r"model\.safetensors .* is damaged"):
        store.get(artifact)


def test_a_missing_file_is_named(store):
    artifact = store.put("model.safetensors", b"weights")
    store.remove([artifact.id])
    with pytest.raises(EnvironmentProblemError, match=r"cannot be read .* has to be reachable"):
        store.get(artifact)
    with pytest.raises(ArtifactNotFound):
        FileSystemArtifactStore(store.folder).open_reader(artifact.id)


def test_removing_twice_is_no_error(store):
    artifact = store.put("x", b"1")
    store.remove([artifact.id])
    store.remove([artifact.id])
    assert list(store.folder.iterdir()) == []


def test_a_folder_that_cannot_be_written_leaves_nothing(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(EnvironmentProblemError, match="could not be written"):
        ArtifactFolder(tmp_path / "file" / "artifacts").put("x", b"1")


def test_orphans_are_old_artifacts_that_nothing_refers_to(store):
    assert store.orphans(set()) == []
    known, old, young = (store.put("x", b"1").id for _ in range(3))
    foreign = store.folder / "notes.txt"
    foreign.write_text("mine")
    past = time.time() - ORPHAN_AGE_S - 60
    for path in (store.folder / known, store.folder / old, foreign):
        os.utime(path, (past, past))
    assert store.orphans({known}) == [old]
    assert (store.folder / young).exists()


def test_a_column_comes_back_by_name():
    artifacts = [
        Artifact(name=name, id=f"id-{name}", sha256="ab", num_bytes=3) for name in ("a", "b")
    ]
    assert from_column(to_column(artifacts)) == {a.name: a for a in artifacts}
    assert from_column("{}") == {}
