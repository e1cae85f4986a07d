import dataclasses
import sys

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from automl_prune.config import DataConfig
from automl_prune.data import load_data
from automl_prune.errors import ModelError
from automl_prune.evaluate import evaluate, hardware_name, measure_latency
from automl_prune.models import digits_net, resnet20

DIGITS = DataConfig(source="digits", eval_batch_size=37)


@pytest.fixture(scope="module")
def digits():
    return load_data(DIGITS, seed=0)


class Constant(nn.Module):
    """Always says class 3, with the same confidence."""

    def forward(self, images_BCHW):
        logits = torch.zeros(len(images_BCHW), 10)
        logits[:, 3] = 2.0
        return logits


@pytest.mark.parametrize("split", ["train", "search", "select", "test"])
def test_a_constant_answer_is_right_as_often_as_its_class_occurs(digits, split):
    found = evaluate(Constant(), digits, split, DIGITS, device="cpu")
    labels = digits.labels(split)
    assert found.num_images == digits.split_sizes[split] == len(labels)
    assert found.accuracy == pytest.approx(100 * (labels == 3).float().mean().item())
    logits = torch.zeros(len(labels), 10)
    logits[:, 3] = 2.0
    assert found.loss == pytest.approx(F.cross_entropy(logits, labels).item(), rel=1e-6)


def test_batches_decide_nothing_but_the_last_bits(digits):
    model = digits_net().train()
    one = evaluate(model, digits, "select", DIGITS, device="cpu")
    whole = DIGITS.model_copy(update={"eval_batch_size": 1000})
    other = evaluate(model, digits, "select", whole, device="cpu")
    assert one.accuracy == other.accuracy
    assert one.loss == pytest.approx(other.loss, rel=1e-5)


def test_the_model_is_left_as_it_was(digits):
    model = digits_net().train()
    model.bn2.eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    evaluate(model, digits, "select", DIGITS, device="cpu")
    assert all(torch.equal(before[n], v) for n, v in model.state_dict().items())
    assert model.training
    assert model.bn1.training
    assert not model.bn2.training


METRIC_MODULE = """
def share_of_first_class(logits, labels):
    assert len(logits) == len(labels) and logits.shape[1] == 10
    return 100.0 * float((labels == 0).float().mean())

def broken(logits, labels):
    return float("nan")

def loss(logits, labels):
    return logits.sum() * 0 + 7.0
"""


@pytest.fixture
def metric_module(tmp_path, monkeypatch):
    (tmp_path / "my_metric_module.py").write_text(METRIC_MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    yield "my_metric_module"
    sys.modules.pop("my_metric_module", None)


def test_the_users_metric_and_loss_take_the_place_of_ours(metric_module):
    config = DIGITS.model_copy(
        update={
            "metric": f"{metric_module}:share_of_first_class",
            "loss": f"{metric_module}:loss",
        }
    )
    data = load_data(config, seed=0, trusted=(metric_module,))
    found = evaluate(Constant(), data, "test", config, device="cpu")
    assert found.accuracy == pytest.approx(100 * (data.labels("test") == 0).float().mean().item())
    assert found.loss == pytest.approx(7.0)


def test_a_metric_that_is_not_finite_is_refused(metric_module):
    config = DIGITS.model_copy(update={"metric": f"{metric_module}:broken"})
    data = load_data(config, seed=0, trusted=(metric_module,))
    with pytest.raises(ModelError, match=r"data\.metric gave nan"):
        evaluate(Constant(), data, "test", config, device="cpu")


def latency_of(model, shape, **kwargs):
    settings = {"batch_size": 8, "threads": 1, "device": "cpu"} | kwargs
    return measure_latency(model, shape, **settings)


def test_latency_is_larger_for_a_net_with_sixteen_times_the_work():
    small = latency_of(resnet20(width=0.5), (3, 32, 32))
    large = latency_of(resnet20(width=2.0), (3, 32, 32))
    assert 0 < small.median_ms < large.median_ms
    assert small.spread_ms >= 0
    assert (small.batch_size, small.threads) == (8, 1)
    assert small.hardware == hardware_name("cpu")


def test_latency_beside_a_reference_is_a_share_of_the_latency_noted_for_it():
    small, large = resnet20(width=0.5), resnet20(width=2.0)
    noted = dataclasses.replace(latency_of(large, (3, 32, 32)), median_ms=1000.0)
    same = latency_of(large, (3, 32, 32), reference=(large, noted))
    less = latency_of(small, (3, 32, 32), reference=(large, noted))
    assert same.median_ms == pytest.approx(1000.0, rel=0.3)
    assert 0 < less.median_ms < 700.0
    assert less.hardware == hardware_name("cpu")


class Observer(nn.Module):
    """Notes how it is called."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))
        self.seen = []

    def __deepcopy__(self, memo):
        copy = Observer()
        copy.seen = self.seen
        return copy

    def forward(self, x):
        channels_last = x.is_contiguous(memory_format=torch.channels_last)
        self.seen.append(
            (
                tuple(x.shape),
                channels_last,
                torch.is_inference_mode_enabled(),
                torch.get_num_threads(),
                self.training,
            )
        )
        return x * self.weight


def test_latency_is_measured_as_it_says_and_threads_are_restored():
    before = torch.get_num_threads()
    model = Observer().train()
    latency_of(model, (3, 4, 4), threads=before + 1)
    assert set(model.seen) == {((8, 3, 4, 4), True, True, before + 1, False)}
    assert len(model.seen) > 7
    assert torch.get_num_threads() == before
    assert model.training


def test_threads_are_restored_after_a_failure():
    before = torch.get_num_threads()
    with pytest.raises(RuntimeError):
        latency_of(digits_net(), (5, 8, 8), threads=before + 1)
    assert torch.get_num_threads() == before


def test_hardware_has_a_name():
    assert hardware_name().strip()
    assert hardware_name() == hardware_name(torch.device("cpu"))
