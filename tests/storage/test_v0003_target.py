import sqlalchemy as sa
from alembic.migration import MigrationContext
from alembic.operations import Operations

from automl_prune.storage.migrations import v0001_core, v0003_target


def test_a_study_that_was_there_has_the_target_of_its_config():
    engine = sa.create_engine("sqlite://")
    with engine.begin() as connection, Operations.context(MigrationContext.configure(connection)):
        v0001_core.upgrade()
        connection.execute(
            sa.text(
                "INSERT INTO ap_studies VALUES (1, 's', 1, '{}', 'd', '{}', 'artifacts', 0, 0, 0)"
            )
        )
        v0003_target.upgrade()
        assert connection.execute(sa.text("SELECT name, target FROM ap_studies")).all() == [
            ("s", None)
        ]
    engine.dispose()
