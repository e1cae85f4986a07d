"""On a GPU: recorded steps are the steps, both forms agree, and a study runs from end to end."""

import copy
import json
import random

import pytest
import torch
import torch.nn.functional as F
from inner.test_execution import Setting, assert_same_mask_gradients, assert_same_states
from test_trial import MemoryCheckpoints

from automl_prune.config import StudyConfig
from automl_prune.cuda_graphs import PLAIN_CALLS, GraphedStep
from automl_prune.data import load_data
from automl_prune.evaluate import evaluate
from automl_prune.filled import FilledModel
from automl_prune.models import resnet20
from automl_prune.train import FineTuner, train_dense
from automl_prune.trial import run_trial
from automl_prune.trial_state import TrialInterruptedError
from automl_prune.workbench import Workbench

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here"),
]
GPU = torch.device("cuda")


@pytest.fixture(scope="module")
def config(tiny_config):
    return tiny_config.model_copy(
        update={
            "inner": tiny_config.inner.model_copy(update={"steps": 24}),
            "finetune": tiny_config.finetune.model_copy(update={"steps": 24}),
        }
    )


@pytest.fixture(scope="module")
def gpu_bench(config, tmp_path_factory):
    return Workbench.prepare(config, cache_dir=tmp_path_factory.mktemp("dense"), device="cuda")


@pytest.fixture
def never_recorded(monkeypatch):
    monkeypatch.setattr("automl_prune.cuda_graphs.PLAIN_CALLS", 10**9)


def test_a_recorded_step_does_what_the_step_does():
    total = torch.zeros(4, device=GPU)

    def step(x):
        total.add_(x)
        return (total * 2,)

    graphed = GraphedStep(step, GPU)
    given = [torch.full((4,), float(n), device=GPU) for n in range(1, PLAIN_CALLS + 4)]
    outputs = [graphed(x)[0] for x in given]
    assert graphed.is_recorded
    for number, output in enumerate(outputs, 1):
        assert output.tolist() == [number * (number + 1.0)] * 4


def test_dropout_is_drawn_anew_at_every_replay():
    ones = torch.ones(1000, device=GPU)
    graphed = GraphedStep(lambda x: (F.dropout(x, 0.5),), GPU)
    draws = []
    for seed in (1, 2, 3, 4, 5, 6, 5):
        torch.manual_seed(seed)
        draws.append(graphed(ones)[0])
    assert graphed.is_recorded
    assert not torch.equal(draws[4], draws[5])
    assert torch.equal(draws[4], draws[6])


@pytest.mark.parametrize(
    "step",
    [
        lambda x: (x * float(x.sum()),),
        lambda x: (x * random.random(),),
        lambda x: (x * torch.rand(1).to(x.device),),
    ],
    ids=["waits for the GPU", "Python's random numbers", "torch's random numbers on the CPU"],
)
def test_a_step_that_cannot_be_recorded_goes_on_as_it_is(step):
    graphed = GraphedStep(step, GPU)
    for _ in range(PLAIN_CALLS + 3):
        (output,) = graphed(torch.ones(8, device=GPU))
    assert not graphed.is_recorded
    assert output.isfinite().all()


def trained(bench):
    model = copy.deepcopy(bench.dense).requires_grad_(True)
    tuner = FineTuner(model, bench.dense, bench.data, bench.config, seed=1, device=GPU)
    tuner.run(tuner.total_steps)
    return model, tuner


def test_recorded_fine_tuning_is_fine_tuning(gpu_bench, request):
    recorded, tuner = trained(gpu_bench)
    assert tuner._descend.is_recorded
    request.getfixturevalue("never_recorded")
    plain, tuner = trained(gpu_bench)
    assert not tuner._descend.is_recorded
    for name, tensor in plain.state_dict().items():
        torch.testing.assert_close(
            recorded.state_dict()[name], tensor, rtol=1e-3, atol=1e-4, msg=name
        )


def test_recorded_training_learns(config):
    bench = StudyConfig.model_validate(
        config.model_dump() | {"model": {"builder": "automl_prune.models:resnet20"}}
    )
    data = load_data(bench.data, seed=bench.seed)
    torch.manual_seed(0)
    model = resnet20(num_classes=10, in_channels=1)
    train_dense(model, data, bench, device=GPU)
    assert evaluate(model, data, "select", bench.data, device=GPU).accuracy > 80


def test_a_filled_model_is_fine_tuned_in_recorded_steps(config, tmp_path):
    model = config.model.model_copy(update={"builder": "automl_prune.models:resnet20"})
    heavy = config.model_copy(update={"model": model})
    bench = Workbench.prepare(heavy, cache_dir=tmp_path, device="cuda")
    keep_U = torch.arange(bench.graph.num_units) % 3 > 0
    full = copy.deepcopy(bench.dense).requires_grad_(True)
    filled = FilledModel(full, bench.graph, keep_U)
    tuner = FineTuner(filled.model, bench.dense, bench.data, heavy, seed=1, device=GPU)
    tuner.run(tuner.total_steps)
    assert tuner._descend.is_recorded
    pruned = filled.pruned()
    scores = [
        evaluate(net, bench.data, "select", heavy.data, device=GPU).accuracy
        for net in (pruned, filled.model)
    ]
    assert scores[0] == pytest.approx(scores[1], abs=0.5)
    assert scores[0] > 50


class GpuSetting(Setting):
    def __init__(self, net, form, dtype=torch.float64):
        super().__init__(net, form, dtype)
        self.model.to(GPU)
        self.momenta = {name: buffer.to(GPU) for name, buffer in self.momenta.items()}
        kind, loss, rule = type(self.form), self.form._loss, self.form._rule
        self.form = kind(self.model, self.graph, loss, self.momenta, rule)

    def batch(self, number=0, size=6):
        images_BCHW, labels_B = super().batch(number, size)
        return images_BCHW.to(GPU), labels_B.to(GPU)


@pytest.mark.parametrize("net", ["digits_net", "grouped", "resnet20"])
def test_both_forms_agree_while_the_masked_one_is_replayed(net):
    masked, compact = GpuSetting(net, "masked"), GpuSetting(net, "compact")
    for number in range(10):
        keep = masked.keep(number // 2, share=0.3 + 0.1 * (number // 2))
        loss, other = masked.train(number, keep, lr=0.01), compact.train(number, keep, lr=0.01)
        assert float(loss) == pytest.approx(float(other), abs=1e-7)
        assert_same_mask_gradients(masked, compact, number, rtol=1e-6, atol=1e-7)
    assert masked.form._descend.is_recorded
    assert masked.form._differentiate.is_recorded
    assert_same_states(masked.state(), compact.state(), 1e-7)


def whole_trial(bench, **kwargs):
    ratios = {group.name: 0.6 for group in bench.graph.groups}
    return run_trial(bench, ratios, 0.5, kind="search", seed=11, **kwargs)


def test_a_trial_prunes_and_proves(gpu_bench):
    record = whole_trial(gpu_bench).record
    assert record.equivalence_error <= 1e-4
    assert record.macs < gpu_bench.facts.dense_macs
    assert record.accuracy > 50
    assert record.hardware == torch.cuda.get_device_name()


def test_an_interrupted_trial_goes_on_to_the_same_model(gpu_bench):
    undisturbed = whole_trial(gpu_bench)
    checkpoints = MemoryCheckpoints()
    calls = iter(range(100))
    with pytest.raises(TrialInterruptedError):
        whole_trial(gpu_bench, checkpoints=checkpoints, should_stop=lambda: next(calls) == 3)
    resumed = whole_trial(gpu_bench, checkpoints=checkpoints)
    assert resumed.record.kept_units == undisturbed.record.kept_units
    for name, tensor in undisturbed.model.state_dict().items():
        torch.testing.assert_close(
            resumed.model.state_dict()[name], tensor, rtol=1e-2, atol=1e-3, msg=name
        )


def test_a_study_from_file_to_verified_model(tmp_path, monkeypatch):
    pytest.importorskip("optuna")
    from typer.testing import CliRunner

    from automl_prune.cli.app import app

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("AUTOML_PRUNE_STORAGE", f"sqlite:///{tmp_path / 'study.db'}")
    runner = CliRunner()

    def run(*words):
        result = runner.invoke(app, list(words))
        assert result.exit_code == 0, result.output
        return result.output

    small = ["--set", "search.trials=3", "--set", "search.baselines=1"]
    small += ["--set", "inner.steps=24", "--set", "finetune.steps=24", "--set", "dense.epochs=4"]
    run("search", "digits", "--device", "cuda", *small)
    run("pick", "digits", "--max-drop", "90", "--out", "picked")
    run("verify", "picked")
    manifest = json.loads((tmp_path / "picked" / "manifest.json").read_text())
    assert manifest["hardware"] == torch.cuda.get_device_name()
