import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from automl_prune.inner.window import hard_draw, ramp, window_widths

SIZES = st.integers(2, 64)


@st.composite
def windows(draw):
    """C, k in [1, C] and tau in [1, C] of one group."""
    size = draw(SIZES)
    k = draw(st.floats(1.0, size))
    tau = draw(st.floats(1.0, size))
    return size, torch.tensor([k], dtype=torch.float64), torch.tensor([tau], dtype=torch.float64)


def one_group(size):
    return torch.arange(size), torch.zeros(size, dtype=torch.int64)


@given(windows())
def test_mask_falls_with_rank_and_lies_between_0_and_1(window):
    size, k, tau = window
    mask = ramp(k, tau, *one_group(size))
    assert torch.all(mask.diff() <= 0)
    assert float(mask.min()) >= 0
    assert float(mask.max()) <= 1


@given(windows())
def test_mask_is_the_written_formula(window):
    size, k, tau = window
    expected = torch.tensor(
        [min(max(1 + (float(k) - 1 - i) / float(tau), 0.0), 1.0) for i in range(size)],
        dtype=torch.float64,
    )
    torch.testing.assert_close(ramp(k, tau, *one_group(size)), expected, rtol=0, atol=1e-12)


@given(windows())
def test_one_unit_is_always_whole(window):
    size, k, tau = window
    assert float(ramp(k, tau, *one_group(size))[0]) == 1.0
    never = torch.zeros(1, dtype=torch.float64)
    assert bool(hard_draw(k, tau, never, *one_group(size))[0])


@given(SIZES, st.data())
def test_sum_is_k_at_width_one(size, data):
    k = torch.tensor([data.draw(st.floats(1.0, size))], dtype=torch.float64)
    mask = ramp(k, torch.ones(1, dtype=torch.float64), *one_group(size))
    assert float(mask.sum()) == pytest.approx(float(k), abs=1e-9)


@given(SIZES, st.data())
def test_sum_of_a_wider_window_that_fits(size, data):
    tau = data.draw(st.integers(1, size - 1))
    k = data.draw(st.integers(1, size - tau))
    mask = ramp(
        torch.tensor([k], dtype=torch.float64),
        torch.tensor([tau], dtype=torch.float64),
        *one_group(size),
    )
    assert float(mask.sum()) == pytest.approx(k + (tau - 1) / 2)


@settings(deadline=None, max_examples=30)
@given(windows())
def test_mean_of_hard_draws_is_the_ramp(window):
    size, k, tau = window
    rank, group = one_group(size)
    num = 1000
    grid = (torch.arange(num, dtype=torch.float64) + 0.5) / num
    draws = torch.stack([hard_draw(k, tau, u.view(1), rank, group) for u in grid])
    # on an even grid of u the mean is exact up to one grid step
    torch.testing.assert_close(
        draws.double().mean(0), ramp(k, tau, rank, group), rtol=0, atol=1.01 / num
    )


@given(windows())
def test_slope_is_that_of_the_formula(window):
    size, k, tau = window
    rank, group = one_group(size)
    k = k.clone().requires_grad_(True)
    (slope,) = torch.autograd.grad(ramp(k, tau, rank, group).sum(), k)
    height = 1 + (k.detach() - 1 - rank) / tau
    inside = int(((height > 0) & (height <= 1)).sum())
    assert float(slope) == pytest.approx(inside / float(tau))


@pytest.mark.parametrize("k", [1.0, 2.0, 3.7, 5.0, 8.0])
def test_one_unit_moves_at_width_one(k):
    rank, group = one_group(8)
    k = torch.tensor([k], dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(ramp(k, torch.ones(1).double(), rank, group).sum(), k)
    assert float(slope) == 1.0  # at a whole k too, where two pieces of the ramp meet


def test_groups_do_not_touch():
    group = torch.tensor([0, 0, 0, 1, 1, 1, 1])
    rank = torch.tensor([2, 0, 1, 0, 1, 2, 3])
    k = torch.tensor([1.0, 3.5], dtype=torch.float64)
    mask = ramp(k, torch.ones(2, dtype=torch.float64), rank, group)
    assert mask.tolist() == [0.0, 1.0, 0.0, 1.0, 1.0, 1.0, 0.5]


def test_window_narrows_in_a_straight_line_to_one_channel():
    sizes = torch.tensor([40.0, 2.0], dtype=torch.float64)

    def at(progress):
        return window_widths(sizes, progress, start=0.25, anneal_fraction=0.8).tolist()

    assert at(0.0) == [10.0, 1.0]
    assert at(0.4) == pytest.approx([5.5, 1.0])
    assert at(0.8) == at(1.0) == [1.0, 1.0]
