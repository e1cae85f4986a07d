import json

import pytest
import torch

from automl_prune.graph.cost import count_macs
from automl_prune.records import TrialRecord, from_json, to_json
from automl_prune.trial import run_trial
from automl_prune.trial_state import TrialCheckpoint, TrialInterruptedError
from automl_prune.workbench import Workbench

SEED = 11


class MemoryCheckpoints:
    """Holds checkpoints the way a file would: JSON text and cloned tensors."""

    def __init__(self, *, every_check: bool = False):
        self.saved = []
        self.every_check = every_check

    def load(self):
        if not self.saved:
            return None
        phase, tensors, values = self.saved[-1]
        tensors = {name: tensor.clone() for name, tensor in tensors.items()}
        return TrialCheckpoint(phase=phase, tensors=tensors, values=json.loads(values))

    def due(self):
        return self.every_check

    def save(self, checkpoint):
        tensors = {name: t.detach().clone() for name, t in checkpoint.tensors.items()}
        self.saved.append((checkpoint.phase, tensors, json.dumps(checkpoint.values)))


def ratios(bench, value):
    return {group.name: value for group in bench.graph.groups}


def run(bench, *, value=0.6, trade_off=0.5, kind="search", seed=SEED, **kwargs):
    return run_trial(bench, ratios(bench, value), trade_off, kind=kind, seed=seed, **kwargs)


@pytest.fixture(scope="module", params=["digits_net", "resnet20"])
def bench(request, tiny_config, tiny_bench, tmp_path_factory):
    """One whose models are trained as they are, and one whose models are filled up."""
    if request.param == "digits_net":
        return tiny_bench
    model = tiny_config.model.model_copy(update={"builder": "automl_prune.models:resnet20"})
    config = tiny_config.model_copy(update={"model": model})
    return Workbench.prepare(config, cache_dir=tmp_path_factory.mktemp("dense"))


@pytest.fixture(scope="module")
def undisturbed(bench):
    return run(bench)


def test_record_says_what_the_model_is(bench, undisturbed):
    record = undisturbed.record
    assert record.macs == count_macs(undisturbed.model, bench.data.input_shape)
    assert record.macs < bench.facts.dense_macs
    assert record.params == sum(p.numel() for p in undisturbed.model.parameters())
    assert 0 <= record.equivalence_error <= 1e-4
    assert record.kept_units == {
        g.name: int(undisturbed.keep_U[g.units].sum()) for g in bench.graph.groups
    }
    assert record.ratio_steps == 6
    assert record.weight_steps == 12
    assert from_json(TrialRecord, to_json(record)) == record


def test_the_same_seed_gives_the_same_bits(bench, undisturbed):
    assert run(bench).record.deterministic() == undisturbed.record.deterministic()


def test_another_seed_gives_other_weights(bench, undisturbed):
    other = run(bench, seed=SEED + 1).record
    assert other.weights_digest != undisturbed.record.weights_digest


def test_a_trial_leaves_the_workbench_as_it_was(bench):
    before = {name: t.clone() for name, t in bench.dense.state_dict().items()}
    run(bench)
    for name, tensor in bench.dense.state_dict().items():
        assert torch.equal(tensor, before[name]), name


def test_taking_checkpoints_changes_nothing(bench, undisturbed):
    checkpoints = MemoryCheckpoints(every_check=True)
    record = run(bench, checkpoints=checkpoints).record
    assert {phase for phase, *_ in checkpoints.saved} == {"inner", "finetune"}
    assert record.deterministic() == undisturbed.record.deterministic()


@pytest.mark.parametrize("checks_before_stop", [0, 1, 2, 3])
def test_an_interrupted_trial_goes_on_to_the_same_record(bench, undisturbed, checks_before_stop):
    checkpoints = MemoryCheckpoints()
    countdown = iter([False] * checks_before_stop + [True])
    with pytest.raises(TrialInterruptedError):
        run(bench, checkpoints=checkpoints, should_stop=lambda: next(countdown))
    resumed = run(bench, checkpoints=checkpoints)
    assert resumed.record.deterministic() == undisturbed.record.deterministic()
    assert resumed.curves == undisturbed.curves


def test_a_baseline_holds_its_ratios(bench):
    outcome = run(bench, kind="baseline", value=0.5)
    assert set(outcome.record.final_ratios.values()) == {0.5}
    assert outcome.record.ratio_steps == 0
    assert outcome.record.weight_steps == 12 + 6  # the ratio steps' compute goes into training


def test_progress_rises_to_the_end(bench):
    seen = []
    run(bench, on_progress=seen.append)
    fractions = [progress.fraction for progress in seen]
    assert fractions == sorted(fractions)
    assert fractions[-1] == pytest.approx(1.0)
    assert {progress.phase for progress in seen} == {"inner", "finetune"}


def test_the_model_computes_what_the_record_scores(bench, undisturbed):
    correct = total = 0
    for images, labels in bench.data.in_order("select", batch_size=50, device="cpu"):
        with torch.no_grad():
            correct += int((undisturbed.model(images).argmax(1) == labels).sum())
        total += len(labels)
    assert 100.0 * correct / total == pytest.approx(undisturbed.record.accuracy)


def test_being_looked_at_on_the_way_changes_nothing(bench, undisturbed):
    seen = []

    def is_hopeless(rung):
        seen.append(rung)
        return False

    watched = run(bench, is_hopeless=is_hopeless).record
    assert watched.deterministic() == undisturbed.record.deterministic()
    assert [rung.number for rung in seen] == sorted({rung.number for rung in seen})
    assert len(seen) >= 2
    assert seen[0].step == 0
    assert seen[0].accuracy == watched.accuracy_before_finetuning
    assert {rung.macs for rung in seen} == {watched.macs}


def test_a_hopeless_trial_ends_at_the_rung_and_can_be_repeated(bench, undisturbed):
    def second(rung):
        return rung.step > 0

    stopped = run(bench, is_hopeless=second).record
    assert stopped.state == "pruned"
    assert 0 < stopped.finetune_steps < undisturbed.record.finetune_steps
    assert stopped.macs == undisturbed.record.macs
    assert run(bench, is_hopeless=second).record.deterministic() == stopped.deterministic()
