"""Artifacts of trials: bytes in a folder, laid out as Optuna's ``FileSystemArtifactStore``."""

from __future__ import annotations

import hashlib
import json
import mimetypes
import time
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING

from automl_prune.atomic import write_file
from automl_prune.errors import EnvironmentProblemError

if TYPE_CHECKING:
    from pathlib import Path

OPTUNA_ATTRIBUTE = "artifacts:"
"""Prefix of the system attribute by which Optuna knows an artifact."""
ORPHAN_AGE_S = 24 * 3600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Artifact:
    """One stored file of a trial."""

    name: str
    id: str
    sha256: str
    num_bytes: int

    def optuna_attribute(self) -> tuple[str, str]:
        """Key and value under which the Optuna dashboard finds it."""
        kind, encoding = mimetypes.guess_type(self.name)
        content = {
            "artifact_id": self.id,
            "filename": self.name,
            "mimetype": kind or "application/octet-stream",
            "encoding": encoding,
        }
        return f"{OPTUNA_ATTRIBUTE}{self.id}", json.dumps(content)


class ArtifactFolder:
    """Bytes under random names; what they are stands in the database."""

    def __init__(self, folder: Path) -> None:
        """Use ``folder``; it is made when the first artifact is written."""
        self.folder = folder

    def put(self, name: str, content: bytes) -> Artifact:
        """Write an artifact, whole and through to the disk, before anything refers to it.

        Raises:
            EnvironmentProblemError: it cannot be written; nothing is left behind.
        """
        artifact = Artifact(
            name=name,
            id=str(uuid.uuid4()),
            sha256=hashlib.sha256(content).hexdigest(),
            num_bytes=len(content),
        )
        write_file(self.folder / artifact.id, content)
        return artifact

    def get(self, artifact: Artifact) -> bytes:
        """The bytes, compared with their digest.

        Raises:
            EnvironmentProblemError: the file is missing, or not what was written.
        """
        path = self.folder / artifact.id
        try:
            content = path.read_bytes()
        except OSError as error:
            raise EnvironmentProblemError(
                f"artifact {artifact.name} cannot be read from {path}: {error.strerror}. "
                "The artifact folder has to be reachable from here under this path"
            ) from error
        found = hashlib.sha256(content).hexdigest()
        if found != artifact.sha256:
            raise EnvironmentProblemError(
                f"artifact {artifact.name} in {path} is damaged: sha256 {found[:16]}..., "
                f"recorded {artifact.sha256[:16]}...; restore it from a backup"
            )
        return content

    def remove(self, ids: list[str]) -> None:
        """Remove artifacts; those that are gone already are no error."""
        for artifact_id in ids:
            (self.folder / artifact_id).unlink(missing_ok=True)

    def orphans(self, known: set[str]) -> list[str]:
        """Ids of old files that nothing refers to: of workers that died before they handed in."""
        if not self.folder.is_dir():
            return []
        before = time.time() - ORPHAN_AGE_S
        return [
            path.name
            for path in self.folder.iterdir()
            if path.name not in known and _is_id(path.name) and path.stat().st_mtime < before
        ]


def _is_id(name: str) -> bool:
    try:
        return str(uuid.UUID(name)) == name
    except ValueError:
        return False


def to_column(artifacts: list[Artifact]) -> str:
    """Artifacts of a trial as the JSON of a results row."""
    return json.dumps(
        {a.name: {"id": a.id, "sha256": a.sha256, "bytes": a.num_bytes} for a in artifacts}
    )


def from_column(text: str) -> dict[str, Artifact]:
    """Inverse of :func:`to_column`, by name."""
    return {
        name: Artifact(name=name, id=entry["id"], sha256=entry["sha256"], num_bytes=entry["bytes"])
        for name, entry in json.loads(text).items()
    }
