import pytest

from automl_prune.errors import StorageError
from automl_prune.storage.urls import parse_url, shown, sqlite_file


@pytest.mark.parametrize(
    "text",
    [
        "postgresql://u:p@h:5/d",
        "postgres://u:p@h:5/d",
        "postgresql+psycopg://u:p@h:5/d",
        "postgresql+psycopg2://u:p@h:5/d",
    ],
)
def test_every_spelling_of_postgres_means_psycopg_3(text):
    url = parse_url(text)
    assert url.render_as_string(hide_password=False) == "postgresql+psycopg://u:p@h:5/d"
    assert sqlite_file(url) is None


def test_the_password_is_not_shown():
    assert shown(parse_url("postgresql://u:geheim@h/d")) == "postgresql+psycopg://u:***@h/d"


def test_a_sqlite_file_is_found_in_its_url():
    assert str(sqlite_file(parse_url("sqlite:///runs/study.db"))) == "runs/study.db"
    assert str(sqlite_file(parse_url("sqlite:////tmp/study.db"))) == "/tmp/study.db"


@pytest.mark.parametrize("text", ["sqlite://", "sqlite:///:memory:", "sqlite:///"])
def test_a_database_in_memory_is_refused(text):
    with pytest.raises(StorageError, match=r"gone when the process ends.*sqlite:///runs"):
        parse_url(text)


def test_another_kind_of_database_is_refused():
    with pytest.raises(StorageError, match=r"'mysql' databases are not supported.*postgresql://"):
        parse_url("mysql://u:geheim@h/d")


@pytest.mark.parametrize(
    "text", ["study.db", "", "u:geheim@host", "postgresql://u:geheim@h:notaport/d"]
)
def test_what_is_no_url_is_refused_without_its_password(text):
    with pytest.raises(StorageError, match="is no storage URL") as caught:
        parse_url(text)
    assert "geheim" not in str(caught.value)
    assert caught.value.__cause__ is None
