import copy

import pytest
import torch

from automl_prune.inner.execution import MaskedExecution, WeightRule
from automl_prune.mask import masked_forward


@pytest.fixture
def setting(tiny_bench):
    model = copy.deepcopy(tiny_bench.dense).double().requires_grad_(True)
    momenta = {name: torch.randn_like(p) * 0.01 for name, p in model.named_parameters()}
    rule = WeightRule(momentum=0.9, weight_decay=1e-3)
    execution = MaskedExecution(
        model, tiny_bench.graph, torch.nn.functional.cross_entropy, momenta, rule
    )
    images, labels = next(iter(tiny_bench.data.in_order("train", batch_size=32, device="cpu")))
    return model, momenta, execution, images.double(), labels


def test_masked_units_keep_every_bit(tiny_bench, setting):
    model, momenta, execution, images, labels = setting
    graph = tiny_bench.graph
    keep_U = torch.ones(graph.num_units, dtype=torch.bool)
    group = graph.groups[0]
    keep_U[group.first_unit] = False
    before = copy.deepcopy(model.state_dict())
    old_momenta = copy.deepcopy(momenta)
    execution.train_step(images, labels, keep_U, 0.1)
    moved = 0
    for name, layer in graph.layers.items():
        dead_out = layer.out_units == group.first_unit
        for suffix in ("weight", "bias", "running_mean", "running_var"):
            key = f"{name}.{suffix}"
            if key not in before:
                continue
            new = model.state_dict()[key]
            assert torch.equal(new[dead_out], before[key][dead_out]), key
            moved += int(not torch.equal(new, before[key]))
            if key in momenta:
                assert torch.equal(momenta[key][dead_out], old_momenta[key][dead_out]), key
        if layer.kind in ("conv", "linear"):
            dead_in = layer.in_units == group.first_unit
            weight = model.state_dict()[f"{name}.weight"]
            assert torch.equal(weight[:, dead_in], before[f"{name}.weight"][:, dead_in]), name
    assert moved > 5, "nothing was trained"


def test_a_step_with_all_units_is_plain_sgd(tiny_bench, setting):
    model, momenta, execution, images, labels = setting
    twin = copy.deepcopy(model)
    optimizer = torch.optim.SGD(
        twin.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-3, nesterov=True
    )
    for name, parameter in twin.named_parameters():
        optimizer.state[parameter]["momentum_buffer"] = momenta[name].clone()
    twin.train()
    torch.nn.functional.cross_entropy(twin(images), labels).backward()
    optimizer.step()
    keep_U = torch.ones(tiny_bench.graph.num_units, dtype=torch.bool)
    execution.train_step(images, labels, keep_U, 0.1)
    for name, tensor in twin.state_dict().items():
        torch.testing.assert_close(model.state_dict()[name], tensor, rtol=0, atol=1e-12)


def test_gradient_by_the_mask_is_the_finite_difference(tiny_bench, setting):
    model, _, execution, images, labels = setting
    graph = tiny_bench.graph
    mask_U = torch.full((graph.num_units,), 0.7, dtype=torch.float64)
    before = copy.deepcopy(model.state_dict())
    _, gradient_U = execution.mask_gradient(images, labels, mask_U)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name]), f"{name} was changed"
    twin = copy.deepcopy(model).train()
    for unit in (0, graph.num_units // 2, graph.num_units - 1):
        step = torch.zeros_like(mask_U)
        step[unit] = 1e-6
        with torch.no_grad():
            above, below = (
                torch.nn.functional.cross_entropy(masked_forward(twin, graph, m, images), labels)
                for m in (mask_U + step, mask_U - step)
            )
        difference = float(above - below) / 2e-6
        assert difference == pytest.approx(float(gradient_U[unit]), rel=1e-3, abs=1e-7)
