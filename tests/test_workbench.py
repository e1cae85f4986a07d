import pytest
import torch

from automl_prune.config import GroupsConfig, StudyConfig
from automl_prune.errors import ConfigError, EnvironmentProblemError, LimitError, TraceError
from automl_prune.graph.cost import count_macs, count_params
from automl_prune.weights import weights_digest
from automl_prune.workbench import Workbench, dense_digest, ratio_bounds


def changed(config, **sections):
    content = config.model_dump(mode="json")
    for section, values in sections.items():
        content[section].update(values)
    return StudyConfig.model_validate(content)


def test_facts_are_those_of_the_dense_model(tiny_bench):
    facts = tiny_bench.facts
    assert facts.dense_macs == count_macs(tiny_bench.dense, tiny_bench.data.input_shape)
    assert facts.dense_params == count_params(tiny_bench.dense)
    assert facts.dense_digest == weights_digest(tiny_bench.dense)
    assert facts.dense_accuracy > 80  # four epochs of digits; chance is 10
    assert facts.cost_scale > 0
    assert facts.min_macs < facts.max_macs == facts.dense_macs
    assert not facts.select_contaminated
    assert [row.name for row in facts.groups] == [g.name for g in tiny_bench.graph.groups]
    assert all(0 < row.macs_share < 1 for row in facts.groups)


def test_the_dense_model_is_trained_once(tiny_config, tiny_bench, tmp_path):
    first = Workbench.prepare(tiny_config, cache_dir=tmp_path)
    trained = []
    again = Workbench.prepare(
        tiny_config, cache_dir=tmp_path, on_dense_progress=lambda *step: trained.append(step)
    )
    assert trained == []
    assert again.facts.dense_digest == first.facts.dense_digest == tiny_bench.facts.dense_digest
    assert len(list(tmp_path.iterdir())) == 1


def test_the_cache_key_follows_what_makes_the_weights(tiny_config, tiny_bench):
    data = tiny_bench.data
    base = dense_digest(tiny_config, data)
    assert dense_digest(changed(tiny_config, inner={"steps": 99}), data) == base
    assert dense_digest(changed(tiny_config, dense={"lr": 0.05}), data) != base
    assert dense_digest(changed(tiny_config, data={"batch_size": 32}), data) != base


def test_bounds_follow_the_patterns(tiny_bench):
    first, *rest = tiny_bench.graph.groups
    low, high = ratio_bounds(tiny_bench.graph, GroupsConfig(min_ratio=0.2, keep=[first.name]))
    assert (low[0], high[0]) == (1.0, 1.0)
    assert rest
    assert torch.all(low[1:] == 0.2)
    low, high = ratio_bounds(tiny_bench.graph, GroupsConfig(bounds={rest[0].name: (0.4, 0.5)}))
    assert (low[1], high[1]) == (0.4, 0.5)


def test_a_pattern_without_a_match_is_refused(tiny_bench):
    with pytest.raises(ConfigError, match=r"nosuch\*.*groups of this model start at"):
        ratio_bounds(tiny_bench.graph, GroupsConfig(keep=["nosuch*"]))


def test_impossible_limits_name_the_reachable_range(tiny_config, tiny_bench, tmp_path):
    config = changed(tiny_config, search={"limits": {"max_macs": 5}})
    with pytest.raises(LimitError, match=f"{tiny_bench.facts.min_macs:,}"):
        Workbench.prepare(config, cache_dir=tmp_path)
    assert list(tmp_path.iterdir()) == []  # refused before anything was trained


@pytest.mark.parametrize(("device", "message"), [("nonsense", "no device"), ("cuda:99", "has")])
def test_a_device_that_is_not_there(tiny_config, tmp_path, device, message):
    with pytest.raises(EnvironmentProblemError, match=message):
        Workbench.prepare(tiny_config, cache_dir=tmp_path, device=device)


def only_a_classifier(num_classes):
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, num_classes))


def test_a_model_without_removable_channels_is_refused_with_the_reasons(tiny_config, tmp_path):
    content = tiny_config.model_dump(mode="json")
    content["model"]["builder"] = f"{__name__}:only_a_classifier"
    config = StudyConfig.model_validate(content)
    with pytest.raises(TraceError, match="no channels that could be removed: 1: output of"):
        Workbench.prepare(config, cache_dir=tmp_path, trusted=(__name__.partition(".")[0],))
    assert not list(tmp_path.iterdir())  # before anything was trained
