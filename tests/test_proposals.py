import pytest
from made_up_trials import finish_one, made_up_config, made_up_facts

from automl_prune.proposals import Proposer
from automl_prune.storage import open_storage
from automl_prune.study import StudyHandle


@pytest.fixture
def handle(storage_url, tmp_path):
    storage = open_storage(storage_url)
    config = made_up_config(search={"baselines": 2})
    handle = StudyHandle.create_or_check(storage, config, made_up_facts(), tmp_path / "artifacts")
    yield handle
    handle.close()
    storage.close()


def proposer(handle):
    return Proposer(
        handle.storage.database,
        study_id=handle.study_id,
        config=handle.config,
        space=handle.space,
    )


def test_baselines_come_first_and_begin_only_under_their_number(handle):
    found = proposer(handle).propose(1, salt="worker")
    assert (found.kind, found.number) == ("baseline", 1)
    assert set(found.ratios.values()) == {0.95}


def test_with_salt_a_search_trial_begins_under_any_number(handle):
    one, other = (proposer(handle).propose(5, salt=salt) for salt in (None, "worker"))
    assert (one.number, other.number) == (5, None)
    assert one.kind == other.kind == "search"
    assert one.ratios != other.ratios


def test_a_proposal_depends_on_the_stored_history_alone(handle, tmp_path):
    grown = proposer(handle)
    for number in range(14):
        if number >= 2:
            grown.propose(number, salt=None)
        finish_one(handle, 20, tmp_path / "m")
    assert grown.propose(14, salt=None) == proposer(handle).propose(14, salt=None)
    finish_one(handle, 20, tmp_path / "m", accuracy=5.0)
    assert grown.propose(15, salt=None) == proposer(handle).propose(15, salt=None)
