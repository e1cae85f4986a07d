import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext

from automl_prune.errors import SchemaError
from automl_prune.storage import migrate_storage, open_storage, schema
from automl_prune.storage.database import Database
from automl_prune.storage.tables import VERSION_TABLE, metadata
from automl_prune.storage.urls import parse_url


def set_version(url, version):
    database = Database(parse_url(url))
    statement = sa.text(f"UPDATE {VERSION_TABLE} SET version_num = :version")
    database.write(lambda c: c.execute(statement, {"version": version}))
    database.close()


def make_old(url, revision):
    """A storage as an earlier version of automl-prune left it."""
    database = Database(parse_url(url))
    schema._make_optuna_tables(database)
    schema._upgrade(database, revision)
    database.close()


def test_what_the_migrations_make_is_what_the_tables_say(database):
    def differences(connection):
        ours = MigrationContext.configure(
            connection,
            opts={
                "version_table": VERSION_TABLE,
                "include_name": lambda name, kind, _: kind != "table" or name in metadata.tables,
            },
        )
        return compare_metadata(ours, metadata)

    assert database.read(differences) == []


def test_a_newer_schema_is_named(storage_url):
    open_storage(storage_url).close()
    set_version(storage_url, "9999")
    with pytest.raises(SchemaError, match=r"schema 9999, .* up to .*; upgrade automl-prune"):
        open_storage(storage_url)
    with pytest.raises(SchemaError, match="9999"):
        migrate_storage(storage_url)


def test_an_older_schema_is_named_and_migrated(storage_url):
    make_old(storage_url, "0001")
    with pytest.raises(SchemaError, match=r"schema 0001, .* needs .*automl-prune migrate"):
        open_storage(storage_url)
    assert migrate_storage(storage_url) == ("0001", schema.SCHEMA_VERSION)
    storage = open_storage(storage_url, must_exist=True)
    columns = storage.database.read(lambda c: sa.inspect(c).get_columns("ap_studies"))
    assert "target" in [column["name"] for column in columns]
    assert storage.database.read(lambda c: sa.inspect(c).has_table("ap_rungs"))
    storage.close()


def test_the_newest_migration_is_the_version_that_is_asked_for():
    from importlib import import_module
    from pathlib import Path

    folder = Path(schema.__file__).with_name("migrations")
    names = sorted(path.stem for path in folder.glob("v*.py"))
    revisions = [import_module(f"automl_prune.storage.migrations.{n}") for n in names]
    assert revisions[-1].revision == schema.SCHEMA_VERSION
    assert [r.down_revision for r in revisions] == [None, *(r.revision for r in revisions[:-1])]


def test_optunas_tables_of_another_version_are_named(storage_url):
    make_old(storage_url, "0001")
    database = Database(parse_url(storage_url))
    database.write(lambda c: c.execute(sa.text(f"DROP TABLE {VERSION_TABLE}")))
    for name in reversed([t.name for t in metadata.sorted_tables]):
        database.write(lambda c, n=name: c.execute(sa.text(f"DROP TABLE IF EXISTS {n}")))
    database.write(lambda c: c.execute(sa.text("UPDATE alembic_version SET version_num='v0'")))
    database.close()
    with pytest.raises(SchemaError, match=r"Optuna's tables in .* are of another version"):
        open_storage(storage_url)
