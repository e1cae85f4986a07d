import sys

import pytest
import torch
from safetensors.torch import save_file

from automl_prune.config import ModelConfig
from automl_prune.errors import CheckpointError, ConfigError, ModelError, TrustError
from automl_prune.models import WeightsLeftOut, build_architecture, build_model, digits_net

DIGITS = "automl_prune.models:digits_net"

USER_MODULE = """
import torch
from torch import nn

def linear(num_classes, scale=1.0):
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, num_classes))
    with torch.no_grad():
        net[1].bias.fill_(scale)
    return net

def fixed_classes():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 3))

def failing(num_classes):
    raise KeyError("inside")

def no_module(num_classes):
    return [num_classes]

class Pair(nn.Module):
    def __init__(self, num_classes):
        super().__init__()
        self.linear = nn.Linear(64, num_classes)
    def forward(self, x):
        y = self.linear(x.flatten(1))
        return y, y
"""


@pytest.fixture
def user_module(tmp_path, monkeypatch):
    (tmp_path / "my_build_module.py").write_text(USER_MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    yield "my_build_module"
    sys.modules.pop("my_build_module", None)


def build(builder, num_classes=10, input_shape=(1, 8, 8), trusted=("my_build_module",), **config):
    return build_model(
        ModelConfig(builder=builder, **config),
        num_classes=num_classes,
        input_shape=input_shape,
        trusted=trusted,
    )


def test_classes_and_channels_are_filled_in_from_the_data():
    model = build("automl_prune.models:resnet20", num_classes=7, input_shape=(1, 28, 28))
    assert model.linear.out_features == 7
    assert model.conv1.in_channels == 1
    assert not model.training


def test_keyword_arguments_reach_the_builder():
    assert build(DIGITS, kwargs={"width": 2.0}).conv1.out_channels == 32


def test_torchvision_builders_take_the_classes_through_their_open_kwargs():
    model = build("torchvision.models:resnet18", input_shape=(3, 32, 32))
    assert model.fc.out_features == 10


def test_auxiliary_heads_are_removed():
    model = build(
        "torchvision.models:googlenet", input_shape=(3, 32, 32), kwargs={"init_weights": False}
    )
    assert not any(name.startswith("aux") for name, _ in model.named_parameters())
    logits = model.train()(torch.randn(2, 3, 32, 32))
    assert isinstance(logits, torch.Tensor), "in training mode too"


def test_initial_weights_depend_on_the_seed_alone():
    config = ModelConfig(builder=DIGITS)
    shape = {"num_classes": 10, "input_shape": (1, 8, 8)}
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    first = build_model(config, seed=1, **shape).conv1.weight
    assert torch.equal(torch.rand(3), expected), "the global generator was touched"
    assert torch.equal(build_model(config, seed=1, **shape).conv1.weight, first)
    assert not torch.equal(build_model(config, seed=2, **shape).conv1.weight, first)


def test_a_checkpoint_is_loaded(tmp_path):
    trained = digits_net()
    save_file(trained.state_dict(), tmp_path / "a.safetensors")
    model = build(DIGITS, checkpoint=str(tmp_path / "a.safetensors"))
    assert torch.equal(model.conv1.weight, trained.conv1.weight)


def test_a_checkpoint_for_other_classes_is_refused(tmp_path):
    save_file(digits_net(num_classes=7).state_dict(), tmp_path / "a.safetensors")
    with pytest.raises(CheckpointError, match=r"linear\.bias \(file \(7,\), model \(10,\)\)"):
        build(DIGITS, checkpoint=str(tmp_path / "a.safetensors"))


def test_the_users_own_builder(user_module):
    model = build(f"{user_module}:linear", kwargs={"scale": 3.0})
    assert model[1].bias.tolist() == [3.0] * 10
    with pytest.raises(TrustError, match=f"--trust {user_module}"):
        build(f"{user_module}:linear", trusted=())


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("fixed_classes", r"\(2, 3\) for 2 images, but the data have 10 classes"),
        ("failing", r"failing\(num_classes=10\) failed: KeyError: 'inside'"),
        ("no_module", "returned list; it must be an nn.Module"),
        ("Pair", "returns tuple; its forward must return one tensor"),
    ],
)
def test_unfit_builders_are_refused(user_module, name, message):
    with pytest.raises(ModelError, match=message):
        build(f"{user_module}:{name}")


def test_classes_that_the_study_sets_wrong_are_refused_with_the_number_to_set():
    with pytest.raises(ModelError, match=r"set model\.kwargs\.num_classes = 10"):
        build(DIGITS, kwargs={"num_classes": 7})


def test_images_that_do_not_go_through_are_refused(user_module):
    with pytest.raises(ModelError, match=r"cannot take images of shape \(1, 9, 9\)"):
        build(f"{user_module}:linear", input_shape=(1, 9, 9))


def test_wrong_arguments_and_names_are_refused():
    with pytest.raises(ModelError, match=r"colour=3.*failed: TypeError.*check model\.kwargs"):
        build(DIGITS, kwargs={"colour": 3})
    with pytest.raises(ConfigError, match="no 'resnet21'"):
        build("automl_prune.models:resnet21")


def test_architecture_alone_reads_no_weights(monkeypatch):
    """Rebuilding a model folder must not download what it is about to overwrite."""

    def refuse(*_args, **_kwargs):
        raise AssertionError("weights were asked for")

    monkeypatch.setattr("torch.hub.load_state_dict_from_url", refuse)
    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", refuse)
    config = ModelConfig(
        builder="torchvision.models:googlenet",
        kwargs={"weights": "IMAGENET1K_V1", "init_weights": False},
        checkpoint="builder",
    )
    model = build_architecture(config, num_classes=1000, input_shape=(3, 64, 64))
    assert model.transform_input, "what torchvision sets together with these weights"
    assert not any(name.startswith("aux") for name, _ in model.named_parameters())
    with pytest.raises(ModelError, match="weights were asked for"):
        build_model(config, num_classes=1000, input_shape=(3, 64, 64))


def test_weights_that_are_left_out_are_not_drawn_and_all_else_is_as_ever():
    class Noisy(torch.nn.Conv2d):
        def __init__(self, **kwargs):
            super().__init__(4, 8, 3, **kwargs)
            self.register_buffer("noise", torch.empty(5).uniform_(), persistent=False)

    state = torch.get_rng_state()
    with WeightsLeftOut():
        built = torch.nn.Sequential(Noisy(), torch.nn.BatchNorm2d(8))
        undisturbed = torch.nn.Parameter(torch.full((3,), 7.0)).requires_grad_(False)
        torch.nn.init.normal_(undisturbed)
    assert torch.equal(undisturbed, torch.full((3,), 7.0))
    assert torch.equal(built[1].weight, torch.ones(8)), "constants are still written"
    assert len(set(built[0].noise.tolist())) == 5, "what is no parameter is still drawn"
    torch.set_rng_state(state)
    assert torch.equal(built[0].noise, torch.empty(5).uniform_()), "and nothing else was"
