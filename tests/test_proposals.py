import pytest
from made_up_trials import finish_one, made_up_config, made_up_facts

from automl_prune.proposals import Proposer
from automl_prune.storage import open_storage
from automl_prune.study import StudyHandle


@pytest.fixture(params=["tpe"])
def handle(request, storage_url, tmp_path):
    storage = open_storage(storage_url)
    config = made_up_config(search={"baselines": 2, "sampler": request.param})
    handle = StudyHandle.create_or_check(storage, config, made_up_facts(), tmp_path / "artifacts")
    yield handle
    handle.close()
    storage.close()


def proposer(handle):
    return Proposer(
        handle.storage.database,
        study_id=handle.study_id,
        config=handle.config,
        facts=handle.facts,
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


sweeping = pytest.mark.parametrize("handle", ["sweep"], indirect=True)


@sweeping
def test_a_sweep_goes_from_large_to_small_and_comes_back(handle):
    trade_offs = [proposer(handle).propose(number, salt=None).trade_off for number in range(2, 12)]
    assert trade_offs == sorted(trade_offs), "one round of ten"
    again = proposer(handle).propose(12, salt=None).trade_off
    assert again < trade_offs[1]
    assert again not in trade_offs


@sweeping
def test_what_is_swept_belongs_to_its_number_however_many_workers(handle):
    one, other = (proposer(handle).propose(5, salt=salt) for salt in (None, "worker"))
    assert one == other
    assert one.number == 5


@sweeping
def test_a_trial_starts_from_the_smallest_model_of_the_front_that_is_large_enough(
    handle, tmp_path
):
    for macs, accuracy in ((900_000, 94.0), (500_000, 90.0), (550_000, 80.0), (90_000, 50.0)):
        finish_one(handle, 20, tmp_path / "m", macs=macs, accuracy=accuracy)
    for number in range(2, 12):
        found = proposer(handle).propose(number, salt=None)
        wanted = 1_000_000 / (1 + found.trade_off)
        expected = next(
            (n for n, macs in ((3, 90e3), (1, 500e3), (0, 900e3)) if macs >= wanted), None
        )
        assert (found.parent and found.parent.number) == expected
    assert found.parent.weights_digest == handle.record(3).weights_digest
    assert found.parent.steps == handle.record(3).steps_of_line


@sweeping
def test_a_trial_never_starts_from_a_model_that_was_removed(handle, tmp_path):
    for accuracy in (94.0, 90.0):
        finish_one(handle, 20, tmp_path / "m", macs=900_000, accuracy=accuracy)
    asked = proposer(handle)
    assert asked.propose(6, salt=None).parent.number == 0
    handle.remove_artifacts(keep=[1])
    assert asked.propose(6, salt=None).parent.number == 1
    handle.remove_artifacts(keep=[])
    assert asked.propose(6, salt=None).parent is None
