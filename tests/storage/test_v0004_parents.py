import json

import sqlalchemy as sa
from alembic.migration import MigrationContext
from alembic.operations import Operations

from automl_prune.storage.migrations import v0001_core, v0004_parents

BEFORE = {"search": {"sampler": "tpe"}, "inner": {"budget_ratio": None, "steps": 7}}
WITH_A_BUDGET = {"search": {}, "inner": {"budget_ratio": 0.5}}


def test_studies_and_trials_that_were_there_go_on_as_before():
    engine = sa.create_engine("sqlite://")
    with engine.begin() as connection, Operations.context(MigrationContext.configure(connection)):
        v0001_core.upgrade()
        for number, config in enumerate((BEFORE, WITH_A_BUDGET)):
            connection.execute(
                sa.text(
                    "INSERT INTO ap_studies VALUES (:id, :name, 1, :text, '', '{}', '', 0, 0, 0)"
                ),
                {"id": number, "name": f"s{number}", "text": json.dumps(config)},
            )
        v0004_parents.upgrade()
        columns = {c["name"]: c for c in sa.inspect(connection).get_columns("ap_slots")}
        assert columns["parent"]["nullable"]
        texts = connection.scalars(sa.text("SELECT config FROM ap_studies ORDER BY id")).all()
    engine.dispose()
    before, budget = (json.loads(text) for text in texts)
    assert before == {
        "search": {"sampler": "tpe", "inherit": False},
        "inner": {"budget_ratio": "none", "steps": 7},
    }
    assert budget["inner"] == {"budget_ratio": 0.5}
