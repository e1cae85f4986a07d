import threading
import time

import pytest
import sqlalchemy as sa
from sqlalchemy.exc import OperationalError

from automl_prune.errors import StorageError
from automl_prune.storage.database import Database, lock_key, now, waiting_helps
from automl_prune.storage.urls import parse_url


def test_what_was_written_is_read(database):
    database.write(lambda c: c.execute(sa.text("CREATE TABLE t (x INTEGER)")))
    database.write(lambda c: c.execute(sa.text("INSERT INTO t VALUES (7)")))
    assert database.read(lambda c: c.scalar(sa.text("SELECT x FROM t"))) == 7


def test_a_transaction_that_raises_leaves_nothing(database):
    database.write(lambda c: c.execute(sa.text("CREATE TABLE t (x INTEGER)")))

    def insert_and_raise(connection):
        connection.execute(sa.text("INSERT INTO t VALUES (7)"))
        raise KeyError("ours")

    with pytest.raises(KeyError):
        database.write(insert_and_raise)
    assert database.read(lambda c: c.scalar(sa.text("SELECT count(*) FROM t"))) == 0


def test_writers_do_not_lose_each_others_increments(database):
    database.write(lambda c: c.execute(sa.text("CREATE TABLE t (x INTEGER)")))
    database.write(lambda c: c.execute(sa.text("INSERT INTO t VALUES (0)")))

    def increment(connection):
        lock = "" if database.is_sqlite else " FOR UPDATE"
        value = connection.scalar(sa.text(f"SELECT x FROM t{lock}"))
        time.sleep(0.002)
        connection.execute(sa.text("UPDATE t SET x = :x"), {"x": value + 1})

    threads = [
        threading.Thread(target=lambda: [database.write(increment) for _ in range(5)])
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert database.read(lambda c: c.scalar(sa.text("SELECT x FROM t"))) == 20


def test_an_exclusive_section_has_one_inside(database):
    inside, most = [], []

    def enter():
        with database.exclusive("test"):
            inside.append(1)
            most.append(len(inside))
            time.sleep(0.02)
            inside.pop()

    threads = [threading.Thread(target=enter) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1, 1, 1, 1]


def test_the_clock_goes_on(database):
    first = database.read(now)
    assert abs(first - time.time()) < 60
    assert database.read(now) >= first


def test_lock_keys_are_ours_and_differ():
    assert lock_key("a") != lock_key("b")
    assert 0 < lock_key("a") < 2**63


@pytest.mark.postgres
def test_a_database_that_restarts_costs_a_wait(postgres_server, postgres_url):
    database = Database(parse_url(postgres_url), patience_s=60.0)
    assert database.read(lambda c: c.scalar(sa.text("SELECT 1"))) == 1
    postgres_server.stop()
    answers = []
    try:
        thread = threading.Thread(
            target=lambda: answers.append(database.read(lambda c: c.scalar(sa.text("SELECT 2"))))
        )
        thread.start()
        time.sleep(0.7)
        assert answers == []
    finally:
        postgres_server.start()
    thread.join(timeout=30)
    assert answers == [2]
    database.close()


@pytest.mark.postgres
def test_patience_ends_with_one_line(postgres_server, postgres_url):
    database = Database(parse_url(postgres_url), patience_s=0.3)
    postgres_server.stop()
    try:
        with pytest.raises(StorageError, match="cannot be used") as caught:
            database.read(lambda c: c.scalar(sa.text("SELECT 1")))
    finally:
        postgres_server.start()
    assert "\n" not in str(caught.value)
    database.close()


@pytest.mark.postgres
def test_a_connection_that_the_server_ended_is_replaced(postgres_url):
    database = Database(parse_url(postgres_url), patience_s=10.0)
    other = Database(parse_url(postgres_url))
    tries = []

    def cut_off_once(connection):
        tries.append(1)
        if len(tries) == 1:
            pid = connection.scalar(sa.text("SELECT pg_backend_pid()"))
            other.write(lambda c: c.execute(sa.text(f"SELECT pg_terminate_backend({pid})")))
        return connection.scalar(sa.text("SELECT 3"))

    assert database.write(cut_off_once) == 3
    assert len(tries) == 2
    database.close()
    other.close()


def test_a_mistake_is_not_repeated(database):
    tries = []

    def wrong(connection):
        tries.append(1)
        connection.execute(sa.text("SELECT nothing FROM nowhere"))

    with pytest.raises(StorageError):
        database.read(wrong)
    assert len(tries) == 1


def test_only_what_passes_by_itself_is_waited_for():
    def error(text, state=None):
        original = type("E", (Exception,), {"__module__": "psycopg"})(text)
        original.sqlstate = state
        return OperationalError("SELECT 1", {}, original)

    assert waiting_helps(error("could not connect"))
    for state in ("57P01", "57P03", "40001", "40P01", "53300", "08006"):
        assert waiting_helps(error("x", state)), state
    for state in ("28P01", "42P01", "23505"):
        assert not waiting_helps(error("x", state)), state
    assert not waiting_helps(ValueError("x"))
