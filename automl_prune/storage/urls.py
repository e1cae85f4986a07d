"""Storage URLs: what is accepted, one spelling for each, and no password in any text."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError

from automl_prune.errors import StorageError

if TYPE_CHECKING:
    from sqlalchemy.engine import URL

EXAMPLES = "sqlite:///runs/study.db or postgresql://user:password@host:5432/database"


def parse_url(text: str) -> URL:
    """A storage URL with the driver that we use: psycopg 3 for PostgreSQL.

    Args:
        text: ``sqlite:///FILE``, ``postgresql://...``, ``postgres://...`` or
            ``postgresql+psycopg://...``.

    Raises:
        StorageError: not a URL, another kind of database, or an in-memory SQLite database.
    """
    try:
        url = make_url(text)
    except (ArgumentError, ValueError):
        raise StorageError(
            f"--storage: {_without_credentials(text)!r} is no storage URL; write {EXAMPLES}"
        ) from None
    kind = url.drivername.partition("+")[0]
    if kind in ("postgresql", "postgres"):
        return url.set(drivername="postgresql+psycopg")
    if kind == "sqlite":
        if url.database in (None, "", ":memory:"):
            raise StorageError(
                "--storage: an in-memory SQLite database is gone when the process ends; "
                "name a file, as in sqlite:///runs/study.db"
            )
        return url.set(drivername="sqlite")
    raise StorageError(
        f"--storage: {url.drivername!r} databases are not supported; write {EXAMPLES}"
    )


def shown(url: URL) -> str:
    """The URL as it may be shown: the password is ``***``."""
    return url.render_as_string(hide_password=True)


def sqlite_file(url: URL) -> Path | None:
    """The database file of a SQLite URL; None for PostgreSQL."""
    if url.get_backend_name() != "sqlite":
        return None
    assert url.database is not None
    return Path(url.database.removeprefix("file:"))


def _without_credentials(text: str) -> str:
    """A text that is no URL may still hold a password: keep what follows the last ``@``."""
    scheme, separator, rest = text.partition("://")
    if "@" not in text:
        return text
    return f"{scheme}{separator}***@{rest.rpartition('@')[2]}" if separator else "***"
