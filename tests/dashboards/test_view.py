import pytest
from invented import fill, invent_facts

from automl_prune.errors import StudyNotFoundError
from automl_prune.report import compare_with_uniform, pareto_rows
from automl_prune.study import StudyHandle
from dashboards.view import Studies


def test_a_snapshot_is_what_the_study_has(studies, stored_study):
    snapshot = studies.view("invented").snapshot()
    rows = stored_study.rows()
    assert snapshot.rows == rows
    assert snapshot.front == pareto_rows(rows)
    assert snapshot.by_number[5].state == "failed"
    assert snapshot.comparison(stored_study) == compare_with_uniform(rows, stored_study.facts)
    kept = snapshot.kept_on_front(stored_study)
    assert set(kept) == {row.number for row in snapshot.front}


def test_rows_are_read_again_only_when_something_finished(studies, stored_study, tmp_path):
    view = studies.view("invented")
    first = view.snapshot()
    assert view.snapshot() is first
    fill(stored_study, tmp_path, 13)
    second = view.snapshot()
    assert second is not first
    assert len(second.rows) == len(first.rows) + 1


def test_a_study_that_was_made_again_is_another_one(studies, stored_study, tmp_path):
    before = studies.view("invented")
    config, storage = stored_study.config, stored_study.storage
    stored_study.delete()
    with pytest.raises(StudyNotFoundError):
        studies.view("invented")
    StudyHandle.create_or_check(storage, config, invent_facts(), tmp_path / "artifacts")
    after = studies.view("invented")
    assert after is not before or after.reader.study_id == before.reader.study_id
    assert after.snapshot().rows == []


def test_names_and_what_is_not_there(studies, tmp_path):
    assert studies.names() == ["invented"]
    with pytest.raises(StudyNotFoundError):
        Studies.open(f"sqlite:///{tmp_path / 'nothing.db'}")


def test_reading_ahead_fills_the_first_snapshot(studies):
    studies.warm().join(timeout=60)
    view = studies.view("invented")
    assert view._snapshot is not None
    assert view.snapshot() is view._snapshot
