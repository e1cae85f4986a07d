"""Notes of the inner loop: curves kept, states that come back, losses that are not finite."""

import pytest
import torch

from automl_prune.errors import ModelError
from automl_prune.inner.notes import InnerProgress, LoopNotes, finite


def _notes() -> LoopNotes:
    notes = LoopNotes(400)
    notes.ratio_step(5, torch.tensor([0.5, 0.7], dtype=torch.float64), 0.4, torch.tensor(1.25))
    notes.ratio_step(10, torch.tensor([0.4, 0.6], dtype=torch.float64), 0.3, torch.tensor(1.5))
    return notes


def test_curve_is_thinned_and_every_step_is_told() -> None:
    told: list[InnerProgress] = []
    notes = LoopNotes(400)
    pending = [(torch.tensor(float(step)), 0.5, 0.7) for step in range(1, 11)]

    notes.weight_steps(10, pending, told.append)

    assert [progress.step for progress in told] == list(range(1, 11))
    assert notes.losses == [(1, 1.0), (2, 2.0), (4, 4.0), (6, 6.0), (8, 8.0), (10, 10.0)]


def test_state_comes_back() -> None:
    notes, other = _notes(), LoopNotes(400)
    notes.weight_steps(2, [(torch.tensor(3.0), 0.5, 0.7)] * 2, None)

    other.load(notes.tensors(), notes.values(), torch.device("cpu"))

    assert other.ratio_steps == [5, 10]
    assert torch.equal(torch.stack(other.ratios), torch.stack(notes.ratios))
    assert other.macs_ratio == [0.4, 0.3]
    assert [float(loss) for loss in other.search_losses] == [1.25, 1.5]
    assert other.losses == notes.losses


def test_state_before_the_first_ratio_step_comes_back() -> None:
    other = _notes()
    empty = LoopNotes(400)

    other.load(empty.tensors(), empty.values(), torch.device("cpu"))

    assert (other.ratio_steps, other.ratios, other.search_losses) == ([], [], [])


def test_loss_that_is_not_finite_names_step_and_option() -> None:
    with pytest.raises(ModelError, match=r"step 7; lower inner\.weight_lr"):
        finite([torch.tensor(1.0), torch.tensor(float("nan"))], 7)
