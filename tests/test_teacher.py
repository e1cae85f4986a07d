import pytest
import torch

from automl_prune.config import StudyConfig
from automl_prune.data import load_data
from automl_prune.models import digits_net
from automl_prune.teacher import teacher_can_be_remembered, teacher_outputs
from automl_prune.train import FineTuner
from automl_prune.trial import run_trial
from automl_prune.workbench import Workbench


def study(*, augment="none", **finetune):
    return StudyConfig.model_validate(
        {
            "name": "t",
            "data": {"source": "digits", "batch_size": 32, "augment": augment},
            "model": {"builder": "automl_prune.models:digits_net", "kwargs": {"width": 0.25}},
            "dense": {"epochs": 1},
            "search": {"trials": 2, "baselines": 0},
            "inner": {"steps": 8},
            "finetune": {"steps": 30, "recalibration_batches": 2, **finetune},
            "compute": {"measure_latency": False},
        }
    )


@pytest.fixture(scope="module")
def digits():
    return load_data(study().data, seed=0)


class Counting(torch.nn.Module):
    """A dense model that counts the images it is asked about."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(3)
        self.net, self.images = digits_net(width=1.0), 0

    def forward(self, x_BCHW):
        assert not self.training
        self.images += len(x_BCHW)
        return self.net(x_BCHW)


def tuned(data, config, teacher, outputs_NK, *, stops=(30,)):
    torch.manual_seed(4)
    start = digits_net(width=0.5).state_dict()
    state = None
    for until in stops:
        model = digits_net(width=0.5)
        model.load_state_dict(start)
        tuner = FineTuner(
            model, teacher, data, config, seed=5, device="cpu", teacher_NK=outputs_NK
        )
        if state is not None:
            tuner.load_state_dict(state)
        tuner.run(until)
        state = tuner.state_dict()
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def test_remembered_and_asked_again_train_the_same_model(digits):
    config, teacher = study(), Counting()
    outputs_NK = teacher_outputs(teacher, digits, config, device="cpu")
    assert outputs_NK.shape == (digits.split_sizes["train"], 10)
    assert teacher.images == digits.split_sizes["train"]
    remembered = tuned(digits, config, teacher, outputs_NK)
    assert teacher.images == digits.split_sizes["train"]
    asked = tuned(digits, config, teacher, None)
    assert teacher.images == digits.split_sizes["train"] + 30 * 32
    assert (remembered - asked).abs().max() < 1e-4 * asked.abs().max()
    # outputs of other images would have shown
    others = tuned(digits, config, teacher, outputs_NK.flip(0))
    assert (others - asked).abs().max() > 1e-2 * asked.abs().max()


def test_with_remembered_outputs_finetuning_goes_on_to_the_same_bits(digits):
    config, teacher = study(), Counting()
    outputs_NK = teacher_outputs(teacher, digits, config, device="cpu")
    whole = tuned(digits, config, teacher, outputs_NK)
    assert torch.equal(tuned(digits, config, teacher, outputs_NK, stops=(7, 29, 30)), whole)


@pytest.mark.parametrize(
    ("config", "why"),
    [
        (study(augment="crop"), "images change"),
        (study(distillation=0.0), "nobody asks"),
        (study(steps=2), "asked about fewer images than a pass through train has"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_the_teacher_is_not_remembered_where(config, why):
    data, teacher = load_data(config.data, seed=0), Counting()
    assert not teacher_can_be_remembered(data, config)
    assert teacher_outputs(teacher, data, config, device="cpu") is None
    assert teacher.images == 0


def test_outputs_that_do_not_fit_are_not_remembered(digits, monkeypatch):
    assert teacher_can_be_remembered(digits, study())
    monkeypatch.setattr("automl_prune.teacher._MOST_NUMBERS", digits.split_sizes["train"] * 10 - 1)
    assert not teacher_can_be_remembered(digits, study())


def test_trials_of_a_worker_share_the_outputs_and_replay_to_the_same_bits(tmp_path):
    bench = Workbench.prepare(study(), cache_dir=tmp_path)
    first, again = (run_trial(bench, {}, 1.0, kind="search", seed=7) for _ in range(2))
    assert "teacher_logits" in vars(bench)  # kept
    assert first.record.weights_digest == again.record.weights_digest
    other = run_trial(
        Workbench.prepare(study(), cache_dir=tmp_path), {}, 1.0, kind="search", seed=7
    )
    assert other.record.weights_digest == first.record.weights_digest
