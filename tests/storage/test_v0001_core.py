import sqlalchemy as sa
from alembic.migration import MigrationContext
from alembic.operations import Operations

from automl_prune.storage.migrations import v0001_core, v0002_rungs


def test_it_makes_everything_but_the_rungs():
    engine = sa.create_engine("sqlite://")
    with engine.begin() as connection, Operations.context(MigrationContext.configure(connection)):
        v0001_core.upgrade()
        tables = sa.inspect(connection).get_table_names()
    assert sorted(tables) == ["ap_results", "ap_slots", "ap_studies", "ap_workers"]
    assert v0002_rungs.down_revision == v0001_core.revision
    engine.dispose()
