"""One engine, one way to run a transaction: back-off where the database is away, clear errors."""

from __future__ import annotations

import fcntl
import logging
import random
import time
import zlib
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.exc import DBAPIError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from automl_prune.errors import StorageError
from automl_prune.storage.urls import shown, sqlite_file

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from sqlalchemy.engine import URL, Connection, Engine

logger = logging.getLogger(__name__)

T = TypeVar("T")

PATIENCE_S = 600.0
"""How long a transaction waits for a database that is away before it gives up."""
OPENING_PATIENCE_S = 20.0
"""The same on first contact, and only where the server answers that it is busy."""
FIRST_DELAY_S = 0.05
LONGEST_DELAY_S = 5.0
SQLITE_BUSY_S = 60.0
POSTGRES_OPTIONS: dict[str, object] = {
    "connect_timeout": 10,
    "keepalives": 1,
    "keepalives_idle": 30,
    "keepalives_interval": 10,
    "keepalives_count": 3,
    "application_name": "automl-prune",
}
WAITING_HELPS = ("40001", "40P01", "53300", "55P03", "57P01", "57P02", "57P03", "57P05", "25P03")
"""SQL states: conflicts, too many connections, shutting down, starting up, idle too long."""
BUSY_TEXTS = ("starting up", "shutting down", "too many clients", "connection slots")


class Database:
    """A database that may be away for a while.

    Safe to use from several threads; not to be carried over a fork.
    """

    def __init__(self, url: URL, *, patience_s: float = PATIENCE_S) -> None:
        """Connect to nothing yet."""
        self.url = url
        self.patience_s = patience_s
        self.engine = _make_engine(url)
        self._writing = self.engine.execution_options(ap_write=True)

    @property
    def is_sqlite(self) -> bool:
        """Whether this is one file for one worker."""
        return sqlite_file(self.url) is not None

    def read(self, work: Callable[[Connection], T]) -> T:
        """Run ``work`` in a transaction that changes nothing.

        Raises:
            StorageError: the database stayed away, or refused.
        """
        return self._run(self.engine, work)

    def write(self, work: Callable[[Connection], T]) -> T:
        """Run ``work`` in one transaction; on SQLite it holds the write lock from the beginning.

        ``work`` may run several times, and what it did the last time may be stored although the
        acknowledgement was lost: it has to look before it repeats anything.

        Raises:
            StorageError: the database stayed away, or refused.
        """
        return self._run(self._writing, work)

    def check(self) -> None:
        """Make the first contact; waits only where the server says that it is busy.

        Raises:
            StorageError: it cannot be reached, or does not let us in.
        """
        deadline = time.monotonic() + OPENING_PATIENCE_S
        for delay_s in _delays():
            try:
                with self.engine.connect() as connection:
                    connection.execute(sa.text("SELECT 1"))
                    return
            except DBAPIError as error:
                busy = any(text in str(error.orig) for text in BUSY_TEXTS)
                if not busy or time.monotonic() + delay_s > deadline:
                    raise self.explain(error) from error
            time.sleep(delay_s)

    def explain(self, error: Exception) -> StorageError:
        """An error of the database as one line of ours, without a password."""
        original = getattr(error, "orig", None) or error
        text = " ".join(str(original).split())
        if self.url.password:
            text = text.replace(str(self.url.password), "***")
        return StorageError(
            f"the storage {shown(self.url)} cannot be used: {text[:400]}. "
            "Check address, user and password, and that the database is up"
        )

    @contextmanager
    def exclusive(self, purpose: str) -> Iterator[None]:
        """Hold a lock of this database across processes and hosts; for rare, short work.

        Raises:
            StorageError: the database cannot be reached.
        """
        file = sqlite_file(self.url)
        if file is not None:
            with file.with_name(f".{file.name}.lock").open("w") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                yield
            return
        key = lock_key(purpose)
        with self.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.execute(sa.text("SELECT pg_advisory_lock(:key)"), {"key": key})
            try:
                yield
            finally:
                try:
                    connection.execute(sa.text("SELECT pg_advisory_unlock(:key)"), {"key": key})
                except DBAPIError:  # the server lets go of it with the lost connection
                    connection.invalidate()

    def set_write_ahead_log(self) -> None:
        """Switch a SQLite file to its write-ahead log, for good: readers do not block a writer."""
        with self.engine.connect() as connection:
            raw = connection.connection.driver_connection
            assert raw is not None
            connection.rollback()
            raw.execute("PRAGMA journal_mode=WAL").fetchone()

    def close(self) -> None:
        """Close all connections; the next use opens new ones."""
        self.engine.dispose()

    def _run(self, engine: Engine, work: Callable[[Connection], T]) -> T:
        deadline = time.monotonic() + self.patience_s
        for delay_s in _delays():
            try:
                with engine.begin() as connection:
                    return work(connection)
            except (DBAPIError, PoolTimeoutError) as error:
                if not waiting_helps(error) or time.monotonic() + delay_s > deadline:
                    raise self.explain(error) from error
                logger.info("storage: %s; again in %.2f s", type(error).__name__, delay_s)
            time.sleep(delay_s)
        raise AssertionError("delays never end")


def now(connection: Connection) -> float:
    """Seconds since 1970 by the database's clock, so that hosts need not agree."""
    if connection.dialect.name == "sqlite":
        return time.time()
    return float(connection.scalar(sa.text("SELECT extract(epoch FROM clock_timestamp())")) or 0)


def lock_key(purpose: str) -> int:
    """Key of a PostgreSQL advisory lock: ours in the upper half, the purpose in the lower."""
    return (0x6170 << 32) | zlib.crc32(purpose.encode())


def waiting_helps(error: Exception) -> bool:
    """Whether the same transaction may succeed later."""
    if isinstance(error, PoolTimeoutError):
        return True
    if not isinstance(error, DBAPIError):
        return False
    if error.connection_invalidated:
        return True
    state = getattr(error.orig, "sqlstate", None)
    if state is not None:
        return state in WAITING_HELPS or str(state).startswith("08")
    if "sqlite3" in type(error.orig).__module__:
        return "locked" in str(error.orig) or "busy" in str(error.orig)
    return isinstance(error, OperationalError)  # psycopg without a state: no connection


def _delays() -> Iterator[float]:
    """Doubling, with jitter so that workers do not come back all at once; without end."""
    delay_s = FIRST_DELAY_S
    while True:
        yield delay_s * random.uniform(0.5, 1.5)
        delay_s = min(2 * delay_s, LONGEST_DELAY_S)


def _make_engine(url: URL) -> Engine:
    if sqlite_file(url) is not None:
        engine = sa.create_engine(url, connect_args={"timeout": SQLITE_BUSY_S})
        event.listen(engine, "connect", _sqlite_connected)
        event.listen(engine, "begin", _sqlite_begins)
        return engine
    # One idle connection per process; the thread that renews leases brings its own for a moment.
    return sa.create_engine(
        url,
        pool_size=1,
        max_overflow=3,
        pool_pre_ping=True,
        connect_args=dict(POSTGRES_OPTIONS),
    )


def _sqlite_connected(connection: object, _record: object) -> None:
    connection.isolation_level = None  # type: ignore[attr-defined]  # we say BEGIN ourselves
    connection.execute("PRAGMA foreign_keys=ON")  # type: ignore[attr-defined]
    connection.execute("PRAGMA synchronous=NORMAL")  # type: ignore[attr-defined]


def _sqlite_begins(connection: Connection) -> None:
    write = connection.get_execution_options().get("ap_write", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if write else "BEGIN")
