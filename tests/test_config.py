import pytest

from automl_prune.config import StudyConfig, load_study, shipped_studies
from automl_prune.errors import ConfigError

MINIMAL = """
name = "mine"
[data]
source = "digits"
[model]
builder = "automl_prune.models:digits_net"
"""


@pytest.fixture
def study_file(tmp_path):
    def write(text=MINIMAL):
        path = tmp_path / "mine.toml"
        path.write_text(text)
        return str(path)

    return write


def mistakes(text, study_file, overrides=()):
    with pytest.raises(ConfigError) as caught:
        load_study(study_file(text), overrides)
    return str(caught.value)


def test_the_shipped_studies_are_the_promised_ones_and_load():
    assert shipped_studies() == [
        "cifar10_resnet20",
        "cifar10_resnet56",
        "cifar10_vgg16",
        "digits",
        "fashion_mnist_resnet20",
        "imagenet_mobilenet_v2",
        "imagenet_resnet50",
    ]
    for name in shipped_studies():
        config = load_study(name)
        assert config.name == name
        assert config.description
        assert 0 < config.search.baselines < config.search.trials


def test_the_only_needed_keys_are_name_source_and_builder(study_file):
    config = load_study(study_file())
    assert config.data.search_fraction == 0.1
    assert config.search.ratio == (0.1, 0.95)
    for key in ("name", "source", "builder"):
        lines = [line for line in MINIMAL.splitlines() if not line.startswith(key)]
        assert f"{key}: is missing" in mistakes("\n".join(lines), study_file)


@pytest.mark.parametrize(
    ("override", "parts"),
    [
        ("inner.step=5", ["inner.step: unknown key", "allowed: ", "steps"]),
        ("nonsense.x=5", ["nonsense: unknown key", "allowed: ", "search"]),
        ("inner.steps='many'", ['inner.steps: found "many"', "valid integer"]),
        ("inner.steps=0", ["inner.steps: found 0", "greater than or equal to 1"]),
        ("inner.steps=1.5", ["inner.steps: found 1.5", "integer"]),
        ("search.trials=-3", ["search.trials: found -3", "greater than or equal to 1"]),
        ("search.ratio=[0.0, 0.9]", ["search.ratio.0: found 0.0", "greater than 0"]),
        ("search.ratio=[0.5, 1.2]", ["search.ratio.1: found 1.2", "less than or equal to 1"]),
        ("search.ratio=[0.9, 0.3]", ["search:", "ratio: lowest 0.9 must be below highest 0.3"]),
        ("search.tradeoff=[3, 3]", ["tradeoff: lowest 3 must be below highest 3"]),
        ("search.sampler='cmaes'", ['search.sampler: found "cmaes"', "'tpe', 'nsga2'"]),
        ("search.limits.min_accuracy=101", ["search.limits.min_accuracy", "101"]),
        ("search.limits.max_macs_ratio=0", ["search.limits.max_macs_ratio: found 0"]),
        ("data.search_fraction=0", ["data.search_fraction: found 0", "greater than 0"]),
        ("data.search_fraction=0.85", ["data:", "must stay below 0.9, found 0.95"]),
        ("data.augment='mixup'", ['data.augment: found "mixup"', "'crop-flip'"]),
        ("data.mean=[0.5]", ["data:", "mean and std go together"]),
        ("data.batch_size=0", ["data.batch_size: found 0"]),
        ("model.builder='resnet18'", ['model.builder: found "resnet18"', "pattern"]),
        ("groups.min_ratio=1.5", ["groups.min_ratio: found 1.5", "less than or equal to 1"]),
        ("groups.bounds.conv1=[0.9, 0.2]", ["bounds.conv1: lowest 0.9 is above highest 0.2"]),
        ("groups.bounds.conv1=[0.0, 0.2]", ["groups.bounds.conv1.0: found 0.0"]),
        ("finetune.distillation=2", ["finetune.distillation: found 2"]),
        ("dense.momentum=1", ["dense.momentum: found 1", "less than 1"]),
        ("compute.threads=0", ["compute.threads: found 0"]),
        ("name='a b'", ['name: found "a b"', "pattern"]),
        ("seed=-1", ["seed: found -1"]),
        ("inner=5", ["inner: found 5"]),
    ],
)
def test_a_mistake_is_refused_with_path_value_and_what_is_allowed(study_file, override, parts):
    message = mistakes(MINIMAL, study_file, (override,))
    for part in parts:
        assert part in message
    assert "1 mistake\n" in message


def test_all_mistakes_are_listed_at_once(study_file):
    overrides = ("inner.steps=0", "data.augment='x'", "search.sampler='y'", "dense.epoch=3")
    message = mistakes(MINIMAL, study_file, overrides)
    assert "4 mistakes" in message
    for key in ("inner.steps", "data.augment", "search.sampler", "dense.epoch"):
        assert f"  {key}: " in message


def test_a_huge_value_does_not_fill_the_screen(study_file):
    message = mistakes(MINIMAL, study_file, (f"search.sampler='{'x' * 5000}'",))
    assert len(message) < 500


def test_overrides_are_read_as_toml_else_as_text(study_file):
    config = load_study(
        study_file(),
        (
            "inner.steps=50",
            "data.root=some/folder",
            "data.image_size=16",
            "search.ratio=[0.2, 0.8]",
            "groups.keep=['conv1', 'layer3.*']",
            "compute.measure_latency=false",
            "search.limits.max_macs=1000",
            "data.root=a=b",
        ),
    )
    assert config.inner.steps == 50
    assert config.data.root == "a=b", "the last one wins, and only the first = divides"
    assert config.search.ratio == (0.2, 0.8)
    assert config.groups.keep == ["conv1", "layer3.*"]
    assert config.compute.measure_latency is False
    assert config.search.limits.max_macs == 1000


@pytest.mark.parametrize("override", ["inner.steps", "=5", ""])
def test_an_override_without_key_or_value_is_refused(study_file, override):
    with pytest.raises(ConfigError, match=r"write key\.path=value"):
        load_study(study_file(), (override,))


def test_an_override_below_a_value_is_refused(study_file):
    with pytest.raises(ConfigError, match="name is a value, not a table"):
        load_study(study_file(), ("name.x=5",))


def test_a_broken_or_absent_file_is_refused(study_file, tmp_path):
    with pytest.raises(ConfigError, match="not valid TOML"):
        load_study(study_file("name = = 3"))
    with pytest.raises(ConfigError, match="does not exist"):
        load_study(str(tmp_path / "absent.toml"))


def test_an_unknown_name_gives_the_nearest_and_all_shipped_ones():
    with pytest.raises(ConfigError, match=r"did you mean 'digits'.*cifar10_resnet20"):
        load_study("digit")


def test_json_gives_the_same_config_back(study_file):
    config = load_study(
        study_file(),
        ("groups.bounds.conv1=[0.2, 0.8]", "data.mean=[0.5]", "data.std=[0.25]", "seed=3"),
    )
    back = StudyConfig.from_json(config.to_json())
    assert back == config
    assert back.digest() == config.digest()
    assert config.differences(back) == []


def test_from_json_refuses_what_a_newer_version_may_have_written(study_file):
    text = load_study(study_file()).to_json().replace('"inner":', '"inner_loop":')
    with pytest.raises(ConfigError, match="inner_loop: unknown key"):
        StudyConfig.from_json(text)


def test_digest_changes_with_what_decides_a_result_and_with_nothing_else(study_file):
    path = study_file()
    config = load_study(path)
    same = load_study(path, ("description='words'", "search.trials=99"))
    assert same.digest() == config.digest()
    assert config.differences(same) == []
    for override in ("seed=1", "inner.steps=5", "data.limit=500", "compute.threads=1"):
        assert load_study(path, (override,)).digest() != config.digest()


def test_differences_name_key_and_both_values(study_file):
    path = study_file()
    other = load_study(path, ("inner.steps=5", "model.kwargs.width=2.0", "data.root=here"))
    assert load_study(path).differences(other) == [
        'data.root: null -> "here"',
        "inner.steps: 300 -> 5",
        "model.kwargs.width: null -> 2.0",
    ]


def test_a_config_cannot_be_changed(study_file):
    config = load_study(study_file())
    with pytest.raises(ValueError, match="frozen"):
        config.seed = 5
