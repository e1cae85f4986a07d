import sqlalchemy as sa
from alembic.migration import MigrationContext
from alembic.operations import Operations

from automl_prune.storage.migrations import v0001_core, v0004_parents


def test_trials_that_were_there_start_from_the_dense_model():
    engine = sa.create_engine("sqlite://")
    with engine.begin() as connection, Operations.context(MigrationContext.configure(connection)):
        v0001_core.upgrade()
        v0004_parents.upgrade()
        columns = {c["name"]: c for c in sa.inspect(connection).get_columns("ap_slots")}
        assert columns["parent"]["nullable"]
    engine.dispose()
