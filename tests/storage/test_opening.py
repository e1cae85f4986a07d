import multiprocessing
import socket

import psycopg
import pytest
import sqlalchemy as sa

from automl_prune.errors import StorageError, StudyNotFoundError
from automl_prune.storage import migrate_storage, open_storage
from automl_prune.storage.schema import SCHEMA_VERSION
from automl_prune.storage.tables import metadata


def one_line(error):
    text = str(error)
    assert "\n" not in text
    assert "geheim" not in text
    return text


def open_in_a_process(url, barrier, answers):
    barrier.wait()
    try:
        storage = open_storage(url)
        answers.put(storage.study_names())
    except BaseException as error:
        answers.put(repr(error))


def test_a_new_storage_has_all_tables(storage_url):
    storage = open_storage(storage_url)
    tables = storage.database.read(lambda c: sa.inspect(c).get_table_names())
    assert set(metadata.tables) | {"studies", "trials", "alembic_version"} <= set(tables)
    assert storage.study_names() == []
    storage.close()


def test_opening_again_changes_nothing(storage_url):
    open_storage(storage_url).close()
    storage = open_storage(storage_url, must_exist=True)
    assert migrate_storage(storage_url) == (SCHEMA_VERSION, SCHEMA_VERSION)
    storage.close()


def test_many_that_come_first_make_it_once(storage_url):
    context = multiprocessing.get_context("spawn")
    barrier, answers = context.Barrier(4), context.Queue()
    processes = [
        context.Process(target=open_in_a_process, args=(storage_url, barrier, answers))
        for _ in range(4)
    ]
    for process in processes:
        process.start()
    assert [answers.get(timeout=60) for _ in processes] == [[]] * 4
    for process in processes:
        process.join()
    storage = open_storage(storage_url, must_exist=True)
    versions = storage.database.read(
        lambda c: c.scalar(sa.text("SELECT count(*) FROM ap_schema_version"))
    )
    assert versions == 1
    storage.close()


def test_reading_makes_nothing(storage_url, tmp_path):
    with pytest.raises(StudyNotFoundError, match="holds no studies of automl-prune"):
        open_storage(storage_url, must_exist=True)
    with pytest.raises(StudyNotFoundError):
        migrate_storage(storage_url)
    assert not (tmp_path / "study.db").exists()


def test_the_url_is_shown_without_its_password_and_handed_on_with_it(postgres_url):
    storage = open_storage(postgres_url.replace("postgres:@", "postgres:geheim@"))
    assert "geheim" not in storage.shown
    assert "geheim" in storage.url
    assert not storage.is_sqlite
    storage.close()


def test_the_folder_of_a_file_must_exist(tmp_path):
    with pytest.raises(StorageError, match=r"folder .*nowhere of .* does not exist"):
        open_storage(f"sqlite:///{tmp_path}/nowhere/study.db")


def test_a_file_that_is_no_database_is_refused(tmp_path):
    (tmp_path / "study.db").write_bytes(b"this is a text and no database at all" * 100)
    with pytest.raises(StorageError, match="not a database") as caught:
        open_storage(f"sqlite:///{tmp_path}/study.db")
    one_line(caught.value)


def test_a_port_where_nobody_listens_is_named_at_once():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with pytest.raises(StorageError, match=r"refused.*Check address") as caught:
        open_storage(f"postgresql://u:geheim@127.0.0.1:{port}/d")
    one_line(caught.value)


def test_an_unknown_host_is_named():
    with pytest.raises(StorageError, match=r"no-such-host\.invalid") as caught:
        open_storage("postgresql://u:geheim@no-such-host.invalid/d")
    one_line(caught.value)


@pytest.mark.postgres
def test_an_unknown_database_is_named(postgres_server):
    with pytest.raises(StorageError, match=r'"nowhere" does not exist') as caught:
        open_storage(postgres_server.get_uri("nowhere"))
    one_line(caught.value)


@pytest.mark.postgres
def test_a_wrong_password_is_named_and_not_shown(postgres_server, postgres_url):
    rules = postgres_server.pgdata / "pg_hba.conf"
    before = rules.read_text()
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        connection.execute("DROP ROLE IF EXISTS guarded")
        connection.execute("CREATE ROLE guarded LOGIN SUPERUSER PASSWORD 'richtig'")
        rules.write_text("local all guarded scram-sha-256\n" + before)
        connection.execute("SELECT pg_reload_conf()")
    try:
        right = postgres_url.replace("postgres:@", "guarded:richtig@")
        wrong = postgres_url.replace("postgres:@", "guarded:geheim@")
        with pytest.raises(StorageError, match="password authentication failed") as caught:
            open_storage(wrong)
        one_line(caught.value)
        open_storage(right).close()
    finally:
        rules.write_text(before)
        with psycopg.connect(postgres_url, autocommit=True) as connection:
            connection.execute("SELECT pg_reload_conf()")


def test_a_worker_joins_and_leaves(storage_url, tmp_path):
    from made_up_trials import made_up_config, made_up_facts

    from automl_prune.study import StudyHandle

    storage = open_storage(storage_url)
    handle = StudyHandle.create_or_check(
        storage, made_up_config(), made_up_facts(), tmp_path / "artifacts"
    )
    worker_id = storage.join(handle.study_id, device="cpu")
    assert [(w.id, w.alive, w.device) for w in handle.workers()] == [(worker_id, True, "cpu")]
    storage.leave(worker_id)
    assert handle.workers() == []
    storage.close()
