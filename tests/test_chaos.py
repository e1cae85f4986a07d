"""The short form of ``make chaos``: real processes, a real PostgreSQL, one of everything."""

import tempfile
from pathlib import Path

import pytest
from chaos import Plan, run_chaos


@pytest.mark.postgres
def test_nothing_is_lost_and_nothing_counted_twice(tiny_config, monkeypatch):
    monkeypatch.setenv("AUTOML_PRUNE_LEASE_S", "6")  # put back afterwards
    plan = Plan(
        workers=2,
        trials=8,
        kills=2,
        child_kills=1,
        restarts=1,
        down_s=1.0,
        lease_s=6.0,
        pause_s=(2.0, 5.0),
    )
    content = tiny_config.model_dump(mode="json")
    content["inner"]["steps"] = content["finetune"]["steps"] = 60  # long enough to be killed in
    content["compute"]["checkpoint_every_s"] = 0.2
    config = type(tiny_config).model_validate(content)
    with tempfile.TemporaryDirectory(prefix="chaos-") as folder:  # a short name, for the socket
        counts = run_chaos(plan, config, Path(folder))
    assert counts.wrong(plan) == [], counts
