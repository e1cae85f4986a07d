import io
import uuid

import pytest
from optuna.artifacts.exceptions import ArtifactNotFound

from automl_prune.errors import EnvironmentProblemError
from dashboards.optuna_store import VerifiedStore


def test_an_artifact_is_read_by_its_id(studies, stored_study):
    artifact = stored_study.artifacts_of(3)["model.safetensors"]
    assert VerifiedStore(studies).open_reader(artifact.id).read() == b"weights of 3"


def test_a_damaged_artifact_is_not_served(studies, stored_study):
    artifact = stored_study.artifacts_of(3)["model.safetensors"]
    (stored_study.artifact_dir / artifact.id).write_bytes(b"weights of 4")
    with pytest.raises(ArtifactNotFound, match="damaged"):
        VerifiedStore(studies).open_reader(artifact.id)


UNKNOWN_ID = "00000000-0000-4000-8000-000000000000"


@pytest.mark.parametrize(
    "name", ["../study.db", "/etc/passwd", "%", "", "model.safetensors", UNKNOWN_ID]
)
def test_nothing_but_ids_of_trials_is_read(studies, stored_study, name):
    with pytest.raises(ArtifactNotFound):
        VerifiedStore(studies).open_reader(name)


def test_a_file_beside_the_artifacts_is_not_one(studies, stored_study):
    stray = stored_study.artifact_dir / str(uuid.uuid4())
    stray.write_bytes(b"nobody handed this in")
    with pytest.raises(ArtifactNotFound):
        VerifiedStore(studies).open_reader(stray.name)


def test_nothing_is_written_or_removed(studies, stored_study):
    artifact = stored_study.artifacts_of(3)["model.safetensors"]
    store = VerifiedStore(studies)
    with pytest.raises(EnvironmentProblemError):
        store.write(artifact.id, io.BytesIO(b"x"))
    with pytest.raises(EnvironmentProblemError):
        store.remove(artifact.id)
    assert store.open_reader(artifact.id).read() == b"weights of 3"
