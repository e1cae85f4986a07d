"""A lock that the whole host shares: whoever measures time measures alone."""

from __future__ import annotations

import fcntl
import os
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from automl_prune.errors import EnvironmentProblemError

if TYPE_CHECKING:
    from collections.abc import Iterator

LOCK_FILE = "automl-prune-latency.lock"


@contextmanager
def host_lock(folder: Path | None = None) -> Iterator[None]:
    """Held by one process of this host at a time, so that nobody measures the others.

    Args:
        folder: of the lock file; None: the host's folder for temporary files.

    Raises:
        EnvironmentProblemError: the lock file cannot be opened.
    """
    path = (folder or Path(tempfile.gettempdir())) / LOCK_FILE
    try:
        descriptor = _open_shared(path)
    except OSError as error:
        raise EnvironmentProblemError(
            f"the lock for latency measurements, {path}, cannot be opened: {error.strerror}; "
            "remove it or set TMPDIR"
        ) from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _open_shared(path: Path) -> int:
    """Without O_CREAT where the file exists: other users may have made it."""
    try:
        return os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return os.open(path, os.O_RDONLY | os.O_CREAT, 0o644)
