"""From what a person calls a study to its name, its config, its storage and its folders."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from automl_prune.config import load_study, shipped_studies
from automl_prune.embedded import EMBEDDED, embedded_exists, start_embedded
from automl_prune.errors import ConfigError, StudyNotFoundError

if TYPE_CHECKING:
    from automl_prune.config import StudyConfig
    from automl_prune.reading import StudyReader
    from automl_prune.storage import StudyStorage
    from automl_prune.study import StudyHandle

RUNS = Path("runs")


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a study lives."""

    name: str
    config: StudyConfig | None
    """From the file or shipped study; None when the study was named by its name in a storage."""
    storage: str | None
    """What the person said: a URL, ``embedded``, or nothing."""

    @property
    def default_storage(self) -> bool:
        """Whether nothing was said."""
        return self.storage is None

    @property
    def embedded(self) -> bool:
        """Whether the study has a PostgreSQL of its own in its run folder, or shall have."""
        if self.default_storage:
            return embedded_exists(self.run_dir)
        return self.storage == EMBEDDED

    @cached_property
    def url(self) -> str:
        """Of the storage; an embedded PostgreSQL is started.

        Raises:
            EnvironmentProblemError: it does not start.
        """
        if self.embedded:
            return start_embedded(self.run_dir)
        return self.storage or f"sqlite:///{self.database_file}"

    @property
    def database_file(self) -> Path:
        """SQLite file of the default storage."""
        return self.run_dir / "study.db"

    @property
    def begun(self) -> bool:
        """Whether the run folder holds a storage."""
        return self.database_file.is_file() or embedded_exists(self.run_dir)

    @property
    def run_dir(self) -> Path:
        """Folder of this study's files."""
        return RUNS / self.name

    @property
    def artifact_dir(self) -> Path:
        """Folder of the artifacts of trials."""
        return self.run_dir / "artifacts"

    @property
    def checkpoint_dir(self) -> Path:
        """Folder of the checkpoints of running trials."""
        return self.run_dir / "checkpoints"

    @property
    def dense_dir(self) -> Path:
        """Folder of dense models, shared by all studies of the current folder."""
        return RUNS / "dense"

    def make_database_folder(self) -> None:
        """Make the folder of the default database file."""
        if self.default_storage:
            self.run_dir.mkdir(parents=True, exist_ok=True)


def locate(study: str, storage: str | None, overrides: list[str] | None = None) -> Place:
    """Find out which study is meant; opens nothing.

    Raises:
        ConfigError: the study file is missing or wrong, or overrides have nothing to override.
    """
    config = None
    if study.endswith(".toml") or study in shipped_studies():
        config = load_study(study, tuple(overrides or ()))
    elif overrides:
        raise ConfigError(
            f"--set {overrides[0]!r} overrides a key of a study file, but {study!r} is neither a "
            "file nor a shipped study; name the file (.toml)"
        )
    name = config.name if config is not None else study
    return Place(name=name, config=config, storage=storage or None)


def open_for_reading(study: str, storage: str | None) -> StudyReader:
    """The stored study that is meant, to read.

    Raises:
        StudyNotFoundError: there is none; the message says what there is.
        StorageError: the storage cannot be reached.
    """
    from automl_prune.reading import StudyReader, find_study

    place = locate(study, storage)
    opened = open_existing(place)
    return StudyReader(opened, find_study(opened, place.name))


def open_for_changing(study: str, storage: str | None) -> StudyHandle:
    """The stored study that is meant, to search or tidy up.

    Raises:
        StudyNotFoundError: there is none; the message says what there is.
        StorageError: the storage cannot be reached.
    """
    from automl_prune.study import StudyHandle

    place = locate(study, storage)
    return StudyHandle.load(open_existing(place), place.name)


def storage_to_show(study: str | None, storage: str | None) -> tuple[str, str | None]:
    """URL of the storage that a dashboard shall show, and the study that it shall open at.

    Raises:
        ConfigError: neither was named, and there are several in the default folder, or none.
        StudyNotFoundError: the default storage of the study does not exist.
    """
    if study is not None:
        place = locate(study, storage)
        _require_begun(place)
        return place.url, place.name
    if storage and storage != EMBEDDED:
        return storage, None
    begun = _begun()
    if len(begun) == 1:
        return locate(begun[0], None).url, begun[0]
    there = (
        f"{RUNS.resolve()} has {len(begun)}: {', '.join(begun)}; name one of them"
        if begun
        else f"{RUNS.resolve()} has none; begin one with `automl-prune search`"
    )
    raise ConfigError(f"which study? {there}, or name a storage with --storage URL")


def open_existing(place: Place) -> StudyStorage:
    """The storage of a study that was begun before.

    Raises:
        StudyNotFoundError: the default storage does not exist.
        StorageError: the storage cannot be reached.
    """
    _require_begun(place)
    from automl_prune.storage import open_storage

    return open_storage(place.url, must_exist=True)


def _require_begun(place: Place) -> None:
    """Reading makes nothing: a storage of the run folder must be there."""
    if (place.default_storage or place.embedded) and not place.begun:
        raise StudyNotFoundError(_nothing_here(place))


def _begun() -> list[str]:
    """Names of the studies whose storage lies in the default folder."""
    folders = [path for path in RUNS.glob("*") if path.is_dir()]
    return sorted(f.name for f in folders if Place(name=f.name, config=None, storage=None).begun)


def _nothing_here(place: Place) -> str:
    begun = _begun()
    near = difflib.get_close_matches(place.name, [*begun, *shipped_studies()], n=1)
    lines = [f"no study {place.name!r} in {RUNS.resolve()}"]
    if near and near[0] != place.name:
        lines[0] += f"; did you mean {near[0]!r}?"
    if begun:
        lines.append(f"studies there: {', '.join(begun)}")
    if place.config is not None:
        lines.append(f"begin it with `automl-prune search {place.name}`,")
    lines.append("or name another storage with --storage URL")
    return "\n".join(lines)
