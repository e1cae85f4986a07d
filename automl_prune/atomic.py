"""Files that are there whole or not at all: written beside their place, then renamed into it."""

from __future__ import annotations

import errno
import os
import shutil
import uuid
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from automl_prune.errors import EnvironmentProblemError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

NO_SPACE = {errno.ENOSPC: "the disk is full", errno.EDQUOT: "the quota is used up",
            errno.EFBIG: "the limit on a file's size is reached"}  # fmt: skip


def write_file(path: Path, content: bytes) -> None:
    """Write ``content`` to ``path``; a reader sees the old file or the new one, nothing between.

    Raises:
        EnvironmentProblemError: it cannot be written (disk full, no permission); what was at
            ``path`` before is still there.
    """
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")
    with _explained(path):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            _write_through(temporary, content)
            temporary.replace(path)
            _sync_folder(path.parent)
        finally:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)


def write_folder(folder: Path, files: Mapping[str, bytes]) -> None:
    """Write a folder of ``files``; a folder that stood there before is replaced at the end.

    Raises:
        EnvironmentProblemError: it cannot be written; what was at ``folder`` before is still
            there, and nothing of the new folder is.
    """
    mark = uuid.uuid4().hex[:8]
    temporary = folder.with_name(f".{folder.name}.{mark}.tmp")
    previous = folder.with_name(f".{folder.name}.{mark}.old")
    with _explained(folder):
        try:
            temporary.mkdir(parents=True)
            for name, content in files.items():
                _write_through(temporary / name, content)
            _sync_folder(temporary)
            if folder.exists():
                folder.rename(previous)
            try:
                temporary.rename(folder)
            except OSError:
                if previous.exists():
                    previous.rename(folder)
                raise
            _sync_folder(folder.parent)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        shutil.rmtree(previous, ignore_errors=True)


def _write_through(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        why = NO_SPACE.get(error.errno or 0, error.strerror or str(error))
        raise EnvironmentProblemError(
            f"{path} could not be written: {why}; nothing was changed. "
            "Make room or choose another place, then try again"
        ) from error
