import sqlalchemy as sa
from alembic.migration import MigrationContext
from alembic.operations import Operations

from automl_prune.storage.migrations import v0001_core, v0002_rungs


def test_it_adds_the_rungs_and_keeps_what_is_there():
    engine = sa.create_engine("sqlite://")
    with engine.begin() as connection, Operations.context(MigrationContext.configure(connection)):
        v0001_core.upgrade()
        connection.execute(
            sa.text(
                "INSERT INTO ap_studies VALUES (1, 's', 1, '{}', 'd', '{}', 'artifacts', 0, 0, 0)"
            )
        )
        v0002_rungs.upgrade()
        assert connection.scalar(sa.text("SELECT name FROM ap_studies")) == "s"
        assert sa.inspect(connection).has_table("ap_rungs")
    engine.dispose()
