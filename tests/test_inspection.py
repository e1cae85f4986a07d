import pytest
import torch

from automl_prune.config import StudyConfig
from automl_prune.errors import LimitError
from automl_prune.inspection import inspect_study


def changed(config, **sections):
    content = config.model_dump(mode="json")
    for section, values in sections.items():
        content[section] = content[section] | values
    return StudyConfig.model_validate(content)


@pytest.fixture(scope="module")
def found(tiny_config):
    return inspect_study(tiny_config)


def test_it_says_what_the_study_would_store(found, tiny_bench):
    facts = tiny_bench.facts
    assert found.groups == facts.groups
    assert found.fixed == facts.fixed
    assert (found.min_macs, found.max_macs) == (facts.min_macs, facts.max_macs)
    assert (found.dense_macs, found.dense_params) == (facts.dense_macs, facts.dense_params)
    assert found.split_sizes == facts.split_sizes


def test_what_cannot_be_pruned_has_a_reason(found):
    assert found.fixed
    assert all(row.reason for row in found.fixed)


def test_it_writes_nothing_and_keeps_the_random_state(tiny_config, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(1)
    before = torch.get_rng_state()
    inspect_study(tiny_config)
    assert list(tmp_path.iterdir()) == []
    assert torch.equal(torch.get_rng_state(), before)


def test_the_estimate_is_the_right_size(tiny_config, tiny_outcome, found):
    """A guess that is off by more than a few times would mislead."""
    seconds = sum(tiny_outcome.record.phase_s.values())
    assert seconds / 6 < found.estimate.trial_s < seconds * 6


def test_the_estimate_follows_what_was_asked(tiny_config, found):
    estimate = found.estimate
    assert estimate.trials == tiny_config.search.trials
    assert estimate.total_s == pytest.approx(estimate.dense_s + estimate.trials * estimate.trial_s)
    more = changed(tiny_config, search={"trials": 400}, dense={"epochs": 0})
    much = inspect_study(more).estimate
    assert much.trials == 400
    assert much.dense_s == 0
    assert much.disk_bytes > estimate.disk_bytes
    assert much.memory_bytes > 50e6


def test_one_step_is_enough_to_inspect(tiny_config):
    config = changed(tiny_config, inner={"steps": 1}, finetune={"steps": 0})
    assert inspect_study(config).estimate.trial_s >= 0


def test_impossible_limits_name_the_reachable_range(tiny_config, found):
    config = changed(tiny_config, search={"limits": {"max_macs": 1}})
    with pytest.raises(LimitError, match=f"{found.min_macs:,}"):
        inspect_study(config)


def only_a_classifier(num_classes):
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, num_classes))


def test_a_model_without_groups_is_shown_with_the_reasons(tiny_config):
    content = tiny_config.model_dump(mode="json")
    content["model"]["builder"] = f"{__name__}:only_a_classifier"
    found = inspect_study(
        StudyConfig.model_validate(content), trusted=(__name__.partition(".")[0],)
    )
    assert found.groups == ()
    assert [row.reason for row in found.fixed] == ["output of the model"]
    assert found.min_macs == found.max_macs == found.dense_macs
