import pytest
import torch
from torch import nn

from automl_prune.inner.optimizer import RatioOptimizer, weight_step


def tensor(*values):
    return torch.tensor(values, dtype=torch.float64)


def optimizer(start, low=0.1, high=1.0, momentum=0.8):
    start = tensor(*start)
    return RatioOptimizer(
        start, torch.full_like(start, low), torch.full_like(start, high), momentum=momentum
    )


def test_the_first_step_has_the_learning_rate_s_length():
    ratios = optimizer([0.5, 0.5])
    ratios.step(tensor(30.0, 40.0), 0.01)
    torch.testing.assert_close(ratios.ratios_G, tensor(0.5 - 0.006, 0.5 - 0.008))


def test_the_scale_of_the_loss_does_not_matter():
    small, large = optimizer([0.5, 0.5]), optimizer([0.5, 0.5])
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        gradient = torch.randn(2, generator=generator).double()
        small.step(gradient, 0.01)
        large.step(1000 * gradient, 0.01)
    torch.testing.assert_close(small.ratios_G, large.ratios_G)


def test_ratios_stay_in_their_bounds_and_turn_back_at_once():
    ratios = optimizer([0.15, 0.5])
    for _ in range(50):
        ratios.step(tensor(1.0, 0.0), 0.05)
    assert ratios.ratios_G.tolist() == [0.1, 0.5]
    ratios.step(tensor(-1.0, 0.0), 0.05)
    assert float(ratios.ratios_G[0]) == pytest.approx(0.15)


def test_a_group_with_equal_bounds_does_not_move_or_count():
    start = tensor(1.0, 0.5)
    ratios = RatioOptimizer(start, tensor(1.0, 0.1), tensor(1.0, 1.0), momentum=0.0)
    ratios.step(tensor(1e6, 1.0), 0.01)
    torch.testing.assert_close(ratios.ratios_G, tensor(1.0, 0.49))


@pytest.mark.parametrize("start", [0.15, 0.95])
@pytest.mark.parametrize("noise", [0.0, 1.0])
def test_it_settles_where_the_mean_gradient_is_zero(start, noise):
    # gradient of (r - 0.4)^2 and (r - 0.7)^2, with as much noise as signal at the start
    ratios, generator = optimizer([start, start]), torch.Generator().manual_seed(1)
    goal, steps = tensor(0.4, 0.7), 400
    for number in range(steps):
        noisy = noise * torch.randn(2, generator=generator).double()
        ratios.step(ratios.ratios_G - goal + noisy, 0.05 * (1 - number / steps))
    torch.testing.assert_close(ratios.ratios_G, goal, rtol=0, atol=0.03 if noise == 0 else 0.1)


def test_weight_step_is_nesterov_sgd():
    torch.manual_seed(0)
    ours, theirs = nn.Linear(3, 2), nn.Linear(3, 2)
    theirs.load_state_dict(ours.state_dict())
    momenta = [torch.zeros_like(p) for p in ours.parameters()]
    torchs = torch.optim.SGD(
        theirs.parameters(), lr=0.1, momentum=0.9, weight_decay=0.01, nesterov=True
    )
    for _ in range(4):
        x = torch.randn(5, 3)
        ours(x).square().sum().backward()
        weight_step(list(ours.parameters()), momenta, lr=0.1, momentum=0.9, weight_decay=0.01)
        torchs.zero_grad()
        theirs(x).square().sum().backward()
        torchs.step()
    for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(mine, other)
        assert mine.grad is None
