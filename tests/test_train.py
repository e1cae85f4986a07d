import copy
import itertools
import sys

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from automl_prune.config import StudyConfig
from automl_prune.data import load_data
from automl_prune.errors import ModelError
from automl_prune.evaluate import evaluate
from automl_prune.models import digits_net
from automl_prune.train import (
    FineTuner,
    distillation_loss,
    one_cycle,
    recalibrate,
    train_dense,
)


def study(**tables):
    content = {
        "name": "t",
        "data": {"source": "digits", "batch_size": 32, "augment": "crop"},
        "model": {"builder": "automl_prune.models:digits_net"},
        "dense": {"epochs": 1},
        "finetune": {"steps": 20},
    }
    return StudyConfig.model_validate(
        {
            key: value | tables.get(key, {}) if isinstance(value, dict) else value
            for key, value in content.items()
        }
    )


@pytest.fixture(scope="module")
def digits():
    return load_data(study().data, seed=0)


class SplitGuard:
    """Data that note which splits are read."""

    def __init__(self, data):
        self._data, self.read = data, set()

    def __getattr__(self, name):
        return getattr(self._data, name)

    def stream(self, split, **kwargs):
        self.read.add(split)
        return self._data.stream(split, **kwargs)

    def in_order(self, split, **kwargs):
        self.read.add(split)
        return self._data.in_order(split, **kwargs)


class NoisyNet(nn.Module):
    """The digits net with dropout."""

    def __init__(self):
        super().__init__()
        self.net = digits_net(width=0.5)
        self.dropout = nn.Dropout(0.3)

    def forward(self, x_BCHW):
        return self.dropout(self.net(x_BCHW))


def fresh(width=0.5):
    torch.manual_seed(11)
    return digits_net(width=width)


def state_of(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def equal(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[n], other[n]) for n in one)


@given(st.integers(1, 500))
def test_one_cycle_rises_once_and_falls_once_within_its_peak(total):
    rates = [one_cycle(step, total, 0.3) for step in range(total)]
    top = rates.index(max(rates))
    assert all(a < b for a, b in itertools.pairwise(rates[: top + 1]))
    assert all(a > b for a, b in itertools.pairwise(rates[top:]))
    assert min(rates) > 0
    assert max(rates) <= 0.3
    if total >= 20:
        assert max(rates) > 0.25
        assert rates[-1] < 0.1 * 0.3
        assert 0.1 * total <= top <= 0.3 * total


def test_dense_training_learns_digits():
    config = study(dense={"epochs": 6}, data={"batch_size": 64})
    data = load_data(config.data, seed=0)
    model = fresh(width=1.0)
    guard = SplitGuard(data)
    progress = []
    train_dense(model, guard, config, device="cpu", on_progress=lambda *p: progress.append(p))
    assert guard.read == {"train"}
    assert not model.training
    assert evaluate(model, data, "test", config.data, device="cpu").accuracy > 95
    total = 6 * (data.split_sizes["train"] // 64)
    assert progress[-1][:2] == (total, total)
    assert [step for step, _, _ in progress] == sorted({step for step, _, _ in progress})
    assert progress[-1][2] < progress[0][2]


def test_dense_training_repeats_to_the_bit_and_leaves_the_generator_alone(digits):
    states = []
    for start in (9, 10):
        model = NoisyNet()
        model.load_state_dict({f"net.{k}": v for k, v in fresh().state_dict().items()})
        torch.manual_seed(start)
        expected = torch.rand(3)
        torch.manual_seed(start)
        train_dense(model, digits, study(), device="cpu")
        assert torch.equal(torch.rand(3), expected)
        states.append(state_of(model))
    assert equal(*states)


def test_label_smoothing_changes_the_loss(digits):
    plain, smooth = [], []
    for config, into in ((study(), plain), (study(dense={"label_smoothing": 0.2}), smooth)):
        train_dense(
            fresh(), digits, config, device="cpu", on_progress=lambda *p, i=into: i.append(p)
        )
    assert plain[-1][2] != smooth[-1][2]


def broken():
    model = fresh()
    torch.nn.init.constant_(model.linear.weight, torch.inf)
    return model


def test_a_loss_that_is_not_finite_stops_the_training(digits):
    with pytest.raises(ModelError, match=r"no longer finite at step \d+; lower dense\.lr"):
        train_dense(broken(), digits, study(), device="cpu")
    tuner = FineTuner(broken(), fresh(), digits, study(), seed=0, device="cpu")
    with pytest.raises(ModelError, match=r"no longer finite at step \d+; lower finetune\.lr"):
        tuner.run(20)


def tuner_on(data, config, *, model=None, seed=5, steps=None):
    model = fresh() if model is None else model
    teacher = fresh(width=1.0)
    return model, FineTuner(model, teacher, data, config, seed=seed, device="cpu", steps=steps)


@pytest.mark.parametrize("stops", [(7,), (1, 2, 13), (10, 20)])
def test_finetuning_goes_on_to_the_same_bits(digits, stops):
    def noisy():
        model = NoisyNet()
        model.load_state_dict({f"net.{k}": v for k, v in fresh().state_dict().items()})
        return model

    config = study()
    whole_model, whole = tuner_on(digits, config, model=noisy())
    whole.run(20)
    state = None
    for until in (*stops, 20):
        model, tuner = tuner_on(digits, config, model=noisy())
        if state is not None:
            tuner.load_state_dict(state)
        tuner.run(until)
        assert tuner.step == until
        state = tuner.state_dict()
    assert equal(state_of(model), state_of(whole_model))
    assert tuner.losses == whole.losses


def test_state_is_a_copy_of_plain_cpu_tensors_and_json_values(digits):
    import json

    _, tuner = tuner_on(digits, study())
    tuner.run(3)
    state = tuner.state_dict()
    before = {name: tensor.clone() for name, tensor in state["tensors"].items()}
    tuner.run(6)
    assert equal(before, dict(state["tensors"]))
    assert json.loads(json.dumps(state["values"])) == state["values"]
    assert all(t.device.type == "cpu" and t.is_contiguous() for t in before.values())


def test_finetuning_reads_train_alone_and_leaves_the_teacher_alone(digits):
    guard = SplitGuard(digits)
    model, teacher = fresh(), fresh(width=1.0)
    before = state_of(teacher)
    tuner = FineTuner(model, teacher, guard, study(), seed=5, device="cpu")
    tuner.run(tuner.total_steps)
    assert guard.read == {"train"}
    assert equal(before, state_of(teacher))
    assert not teacher.training
    assert not model.training
    assert all(p.grad is None for p in teacher.parameters())


def test_steps_come_from_the_config_unless_given(digits):
    assert tuner_on(digits, study())[1].total_steps == 20
    _, tuner = tuner_on(digits, study(), steps=4)
    tuner.run(100)
    assert tuner.step == tuner.total_steps == 4


def test_progress_tells_every_step_once_and_the_curve_stays_short(digits):
    _, tuner = tuner_on(digits, study(data={"batch_size": 4}), steps=450)
    seen = []
    for until in (7, 30, 450):
        tuner.run(until, lambda step, loss: seen.append((step, loss)))
    assert [step for step, _ in seen] == list(range(1, 451))
    assert set(tuner.losses) <= set(seen)
    assert tuner.losses[0] == seen[0]
    assert tuner.losses[-1] == seen[-1]
    assert 150 <= len(tuner.losses) <= 202


def test_the_loss_is_what_the_docstring_says(digits):
    """First step, by hand, from the same batch."""
    config = study(finetune={"distillation": 0.7, "temperature": 3.0})
    model, tuner = tuner_on(digits, config)
    reference, teacher = copy.deepcopy(model).train(), fresh(width=1.0).eval()
    seen = []
    # the tuner's own stream, seen from outside
    tuner._batches, images = itertools.tee(tuner._batches)
    x_BCHW, labels_B = next(images)
    tuner.run(1, lambda step, loss: seen.append(loss))
    student, target = reference(x_BCHW) / 3.0, teacher(x_BCHW) / 3.0
    p = target.softmax(1)
    divergence = (p * (p.log() - student.log_softmax(1))).sum(1).mean()
    expected = 0.3 * F.cross_entropy(student * 3.0, labels_B) + 0.7 * 9.0 * divergence
    assert seen[0] == pytest.approx(expected.item(), rel=1e-5)


def test_distillation_of_equal_outputs_costs_nothing_and_of_others_something():
    logits = torch.randn(4, 5)
    assert distillation_loss(logits, logits, temperature=2.0).abs() < 1e-6
    assert distillation_loss(logits, logits + torch.randn(4, 5), temperature=2.0) > 0.01
    shifted = logits + 3.0  # softmax does not see a shift
    assert distillation_loss(logits, shifted, temperature=2.0).abs() < 1e-6


def test_without_distillation_the_teacher_is_never_asked(digits):
    class Silent(nn.Module):
        def forward(self, x):
            raise AssertionError("asked")

    config = study(finetune={"distillation": 0.0})
    tuner = FineTuner(fresh(), Silent(), digits, config, seed=0, device="cpu")
    tuner.run(2)
    with pytest.raises(AssertionError, match="asked"):
        FineTuner(fresh(), Silent(), digits, study(), seed=0, device="cpu").run(1)


def test_the_users_loss_is_used(tmp_path, monkeypatch):
    (tmp_path / "my_train_loss.py").write_text("def loss(z, y):\n    return z.sum() * 0 + 42.0\n")
    monkeypatch.syspath_prepend(tmp_path)
    config = study(data={"loss": "my_train_loss:loss"}, finetune={"distillation": 0.0})
    data = load_data(config.data, seed=0, trusted=("my_train_loss",))
    sys.modules.pop("my_train_loss")
    _, tuner = tuner_on(data, config)
    tuner.run(2)
    assert [loss for _, loss in tuner.losses] == [42.0, 42.0]
    progress = []
    train_dense(fresh(), data, config, device="cpu", on_progress=lambda *p: progress.append(p[2]))
    assert set(progress) == {42.0}


def test_recalibration_gives_the_plain_mean_over_batches():
    """Of the first layer, whose input is known, over batches of the whole split."""
    config = study(data={"batch_size": 2000})
    data = load_data(config.data, seed=0)
    model = fresh()
    images = next(data.in_order("train", batch_size=5000, device="cpu"))[0]
    recalibrate(model, data, batches=3, batch_size=5000, seed=1, device="cpu")
    with torch.no_grad():
        activations = model.conv1(images)
    torch.testing.assert_close(
        model.bn1.running_mean, activations.mean((0, 2, 3)), rtol=1e-4, atol=1e-5
    )
    torch.testing.assert_close(
        model.bn1.running_var, activations.var((0, 2, 3)), rtol=1e-4, atol=1e-5
    )
    assert int(model.bn1.num_batches_tracked) == 3


def test_recalibration_is_cumulative_over_unequal_batches(digits):
    model = fresh()
    stream = SplitGuard(digits)
    recalibrate(model, stream, batches=4, batch_size=32, seed=1, device="cpu")
    assert stream.read == {"train"}
    means = []
    for number in range(1, 5):
        other = fresh()
        recalibrate(other, digits, batches=number, batch_size=32, seed=1, device="cpu")
        means.append(other.bn1.running_mean)
    torch.testing.assert_close(means[3], model.bn1.running_mean)
    single = [
        means[0],
        *(n * b - (n - 1) * a for n, (a, b) in enumerate(itertools.pairwise(means), 2)),
    ]
    torch.testing.assert_close(torch.stack(single).mean(0), means[3])


def test_recalibration_keeps_weights_modes_and_momentum(digits):
    model = NoisyNet().eval()
    model.net.bn2.train()
    model.net.bn3.momentum = 0.42
    parameters = {n: p.detach().clone() for n, p in model.named_parameters()}
    model.net.bn1.running_mean.fill_(123.0)
    recalibrate(model, digits, batches=2, batch_size=32, seed=1, device="cpu")
    assert all(torch.equal(parameters[n], p) for n, p in model.named_parameters())
    assert [m.training for m in model.modules()] == [m is model.net.bn2 for m in model.modules()]
    assert model.net.bn3.momentum == 0.42
    assert model.net.bn1.momentum == 0.1
    assert model.net.bn1.running_mean.abs().max() < 100, "what was there before is forgotten"


def test_no_recalibration_batches_change_nothing(digits):
    model = fresh()
    model.bn1.running_mean.fill_(3.0)
    before = state_of(model)
    recalibrate(model, digits, batches=0, batch_size=32, seed=1, device="cpu")
    assert equal(before, state_of(model))
