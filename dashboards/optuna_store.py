"""Artifacts for the Optuna dashboard: found by id in our tables, compared with their digests."""

from __future__ import annotations

import io
import uuid
from typing import IO, TYPE_CHECKING, NoReturn

import sqlalchemy as sa
from optuna.artifacts.exceptions import ArtifactNotFound

from automl_prune.errors import AutoMLPruneError, EnvironmentProblemError
from automl_prune.storage.artifacts import from_column
from automl_prune.storage.tables import results, studies

if TYPE_CHECKING:
    from automl_prune.storage.artifacts import Artifact
    from dashboards.view import Studies


class VerifiedStore:
    """An Optuna artifact store that only reads, and only what a trial of ours handed in.

    An id is looked up in the results, never joined to a path as it came in.
    """

    def __init__(self, studies_there: Studies) -> None:
        """Serve the artifacts of all studies of a storage."""
        self._studies = studies_there

    def open_reader(self, artifact_id: str) -> IO[bytes]:
        """The bytes of an artifact.

        Raises:
            ArtifactNotFound: no trial has it, or its file is missing or damaged.
        """
        found = self._find(artifact_id)
        if found is None:
            raise ArtifactNotFound(f"no trial has an artifact {artifact_id!r}")
        name, artifact = found
        try:
            return io.BytesIO(self._studies.view(name).reader.artifacts.get(artifact))
        except AutoMLPruneError as error:
            raise ArtifactNotFound(str(error)) from error

    def write(self, artifact_id: str, content_body: IO[bytes]) -> NoReturn:
        """Refused.

        Raises:
            EnvironmentProblemError: always.
        """
        raise EnvironmentProblemError(
            f"artifact {artifact_id} is not written: only trials do that"
        )

    def remove(self, artifact_id: str) -> NoReturn:
        """Refused.

        Raises:
            EnvironmentProblemError: always.
        """
        raise EnvironmentProblemError(
            f"artifact {artifact_id} is not removed: `automl-prune gc` tidies up"
        )

    def _find(self, artifact_id: str) -> tuple[str, Artifact] | None:
        """Name of the study and the artifact; None: there is none of this id."""
        try:
            canonical = str(uuid.UUID(artifact_id))
        except ValueError:
            return None
        query = (
            sa.select(studies.c.name, results.c.artifacts)
            .join(studies, studies.c.id == results.c.study_id)
            .where(results.c.artifacts.contains(canonical, autoescape=True))
        )
        rows = self._studies.storage.database.read(lambda c: c.execute(query).all())
        for row in rows:
            for artifact in from_column(row.artifacts).values():
                if artifact.id == canonical:
                    return row.name, artifact
        return None
