import pytest
from made_up_trials import finish_one, made_up_config, made_up_facts

from automl_prune.parents import Parents
from automl_prune.storage import open_storage
from automl_prune.study import StudyHandle


@pytest.fixture
def handle(storage_url, tmp_path):
    storage = open_storage(storage_url)
    handle = StudyHandle.create_or_check(
        storage, made_up_config(), made_up_facts(), tmp_path / "artifacts"
    )
    yield handle
    handle.close()
    storage.close()


def parents(handle):
    units = {group.name: group.units for group in handle.facts.groups}
    return Parents(handle.storage.database, study_id=handle.study_id, units=units)


def test_without_a_model_that_is_large_enough_there_is_no_parent(handle, tmp_path):
    assert parents(handle).smallest_above(0) is None
    finish_one(handle, 12, tmp_path / "m", macs=400)
    assert parents(handle).smallest_above(401) is None
    assert parents(handle).smallest_above(400).macs == 400


def test_a_dominated_model_is_no_parent(handle, tmp_path):
    finish_one(handle, 12, tmp_path / "m", macs=400, accuracy=90.0)
    finish_one(handle, 12, tmp_path / "m", macs=500, accuracy=80.0)
    finish_one(handle, 12, tmp_path / "m", macs=600, accuracy=95.0)
    assert parents(handle).smallest_above(450).parent.number == 2


def test_what_finishes_later_is_seen(handle, tmp_path):
    known = parents(handle)
    finish_one(handle, 12, tmp_path / "m", macs=500, accuracy=80.0)
    assert known.smallest_above(100).parent.number == 0
    finish_one(handle, 12, tmp_path / "m", macs=400, accuracy=90.0)
    assert known.smallest_above(100).parent.number == 1


def test_an_ancestor_has_the_shares_that_it_kept(handle, tmp_path):
    finish_one(handle, 12, tmp_path / "m", macs=400, kept_units={"l0": 4, "l1": 16, "l2": 1})
    assert parents(handle).smallest_above(0).kept == {"l0": 0.25, "l1": 1.0, "l2": 1 / 16}


def test_the_parent_of_an_open_trial_is_not_removed(handle, tmp_path):
    for _ in range(3):  # the baselines
        finish_one(handle, 12, tmp_path / "m", macs=900_000)
    assignment = handle.ask(12)
    assert assignment.parent is not None
    handle.remove_artifacts(keep=[])
    assert handle.artifacts_of(assignment.parent.number)
    handle.release(assignment)
    handle.remove_artifacts(keep=[])
    assert handle.ask(12).parent == assignment.parent, "a repetition starts from the same"
    assert handle.artifacts_of(assignment.parent.number)
