import pytest
import torch

from automl_prune.inner.optimizer import RatioOptimizer, weight_step


def minimise(gradient_of, *, start, steps=400, lr=0.01, **bounds):
    start_G = torch.tensor(start, dtype=torch.float64)
    low_G = torch.tensor(bounds.get("low", [0.1] * len(start)), dtype=torch.float64)
    high_G = torch.tensor(bounds.get("high", [1.0] * len(start)), dtype=torch.float64)
    optimizer = RatioOptimizer(start_G, low_G, high_G, momentum=0.8)
    for number in range(steps):
        optimizer.step(gradient_of(optimizer.ratios_G), lr * (1 - number / steps))
    return optimizer.ratios_G


def test_it_stops_where_the_gradient_vanishes():
    goal_G = torch.tensor([0.3, 0.7], dtype=torch.float64)
    end_G = minimise(lambda r: r - goal_G, start=[0.9, 0.2])
    torch.testing.assert_close(end_G, goal_G, rtol=0, atol=0.02)


def test_the_size_of_the_gradient_does_not_matter():
    goal_G = torch.tensor([0.3, 0.7], dtype=torch.float64)
    small, large = (
        minimise(lambda r, s=s: s * (r - goal_G), start=[0.9, 0.2]) for s in (1e-3, 1e3)
    )
    torch.testing.assert_close(small, large)


def test_ratios_stop_at_their_bounds():
    end_G = minimise(lambda r: torch.ones_like(r), start=[0.9, 0.5], low=[0.2, 0.4])
    assert end_G.tolist() == [0.2, 0.4]


def test_a_group_kept_whole_never_moves():
    end_G = minimise(
        lambda r: torch.ones_like(r), start=[1.0, 0.9], low=[1.0, 0.1], high=[1.0, 1.0]
    )
    assert end_G[0] == 1.0
    assert end_G[1] < 0.9


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_weight_step_is_nesterov_sgd(momentum):
    torch.manual_seed(0)
    ours = torch.randn(5, requires_grad=True)
    theirs = ours.detach().clone().requires_grad_(True)
    buffer = torch.zeros(5)
    optimizer = torch.optim.SGD(
        [theirs], lr=0.1, momentum=momentum, weight_decay=0.01, nesterov=momentum > 0
    )
    for _ in range(3):
        for parameter in (ours, theirs):
            (parameter**2).sum().backward()
        weight_step([ours], [buffer], lr=0.1, momentum=momentum, weight_decay=0.01)
        optimizer.step()
        optimizer.zero_grad()
        assert ours.grad is None
    torch.testing.assert_close(ours, theirs)
