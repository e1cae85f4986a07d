import json
import time

import pytest
import torch

from automl_prune.trial_state import (
    InnerNotes,
    PhaseClock,
    TrialCheckpoint,
    TrialInterruptedError,
    Watch,
)


@pytest.fixture
def notes():
    return InnerNotes(
        keep_U=torch.tensor([True, False, True]),
        final_ratios=(0.5, 1 / 3),
        weight_steps=12,
        ratio_step_count=6,
        equivalence_error=1e-7,
        accuracy_before=91.25,
        ratio_steps=(2, 4),
        ratios=((0.6, 0.5), (0.4, 1 / 3)),
        macs_ratio=(0.5, 0.4),
        search_loss=(1.0, 0.9),
        inner_loss=((1, 2.0), (2, 1.5)),
    )


def test_notes_survive_a_checkpoint_bit_for_bit(notes):
    values = json.loads(json.dumps(notes.values()))
    saved = TrialCheckpoint(phase="finetune", tensors=notes.tensors(), values=values)
    again = InnerNotes.from_checkpoint(saved)
    assert torch.equal(again.keep_U, notes.keep_U)
    assert again.values() == notes.values()


def test_mean_ratio(notes):
    assert notes.mean_ratio == pytest.approx((0.5 + 1 / 3) / 2)


class Recorder:
    def __init__(self, due):
        self._due, self.saved = due, []

    def load(self):
        return None

    def due(self):
        return self._due

    def save(self, checkpoint):
        self.saved.append(checkpoint)


@pytest.mark.parametrize(("due", "expected"), [(True, ["made"]), (False, [])])
def test_a_checkpoint_is_made_only_when_it_is_due(due, expected):
    recorder = Recorder(due)
    watch = Watch(on_progress=None, checkpoints=recorder, should_stop=lambda: False)
    watch.between_steps(lambda: "made")
    assert recorder.saved == expected


def test_a_stop_writes_a_checkpoint_first():
    recorder = Recorder(due=False)
    watch = Watch(on_progress=None, checkpoints=recorder, should_stop=lambda: True)
    with pytest.raises(TrialInterruptedError):
        watch.between_steps(lambda: "made")
    assert recorder.saved == ["made"]


def test_the_clock_goes_on_where_a_checkpoint_left_off():
    clock = PhaseClock({"inner": 100.0})
    with clock.phase("inner"):
        time.sleep(0.01)
        assert clock.seconds()["inner"] > 100.0
    with clock.phase("finetune"):
        pass
    seconds = clock.seconds()
    assert 100.01 <= seconds["inner"] < 101
    assert set(seconds) == {"inner", "finetune"}
