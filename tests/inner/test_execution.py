"""Weight steps and mask gradients: what must not move, and that both forms do the same."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import nn

from automl_prune.graph import trace_coupling
from automl_prune.inner.compact import CompactExecution
from automl_prune.inner.execution import MaskedExecution, WeightRule
from automl_prune.mask import weight_factor
from automl_prune.models import digits_net, resnet20, vgg16_bn
from automl_prune.prune import prune_model

FORMS = {"masked": MaskedExecution, "compact": CompactExecution}
RULE = WeightRule(momentum=0.9, weight_decay=0.01)


class GroupedNet(nn.Module):
    """Depthwise and grouped convolutions, biases, a PReLU per channel, dropout, a flatten with
    several positions."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(1, 12, 3, padding=1)
        self.slopes = nn.PReLU(12)
        self.depthwise = nn.Conv2d(12, 12, 3, padding=1, groups=12)
        self.norm = nn.BatchNorm2d(12)
        self.grouped = nn.Conv2d(12, 16, 3, stride=2, padding=1, groups=2)
        self.pool = nn.AdaptiveAvgPool2d(2)
        self.hidden = nn.Linear(64, 20)
        self.dropout = nn.Dropout(0.3)
        self.head = nn.Linear(20, 10)

    def forward(self, x):
        x = F.relu(self.norm(self.depthwise(self.slopes(self.stem(x)))))
        x = self.pool(F.relu(self.grouped(x))).flatten(1)
        return self.head(self.dropout(F.relu(self.hidden(x))))


NETS = {
    "digits_net": (lambda: digits_net(num_classes=10, in_channels=1), (1, 8, 8)),
    "grouped": (GroupedNet, (1, 8, 8)),
    "resnet20": (lambda: resnet20(num_classes=10, in_channels=1), (1, 16, 16)),
    "vgg16_bn": (lambda: vgg16_bn(num_classes=10, in_channels=1, width=0.125), (1, 32, 32)),
    "resnet18": (lambda: torchvision.models.resnet18(num_classes=10), (3, 32, 32)),
    "mobilenet_v2": (lambda: torchvision.models.mobilenet_v2(num_classes=10), (3, 64, 64)),
    "densenet121": (lambda: torchvision.models.densenet121(num_classes=10), (3, 64, 64)),
}


class Setting:
    """A net in float64 (or another dtype) with warm momenta and statistics, one form to run it."""

    def __init__(self, net, form, dtype=torch.float64):
        builder, self.shape = NETS[net]
        torch.manual_seed(0)
        self.model = builder().to(dtype, memory_format=torch.channels_last)
        self.graph = trace_coupling(self.model, self.shape)
        generator = torch.Generator().manual_seed(1)
        for buffer in self.model.buffers():
            if buffer.dim():
                buffer.copy_(torch.rand(buffer.shape, generator=generator) + 0.5)
        self.momenta = {
            n: 0.01
            * torch.randn(p.shape, generator=generator)
            .to(dtype)
            .contiguous(
                memory_format=torch.channels_last if p.dim() == 4 else torch.contiguous_format
            )
            for n, p in self.model.named_parameters()
        }
        self.form = FORMS[form](self.model, self.graph, F.cross_entropy, self.momenta, RULE)

    def batch(self, number=0, size=6):
        generator = torch.Generator().manual_seed(100 + number)
        images = torch.randn(size, *self.shape, generator=generator)
        labels = torch.randint(10, (size,), generator=generator)
        return images.contiguous(memory_format=torch.channels_last), labels

    def keep(self, number=0, share=0.6):
        """A random hard mask with at least one unit per group."""
        generator = torch.Generator().manual_seed(200 + number)
        keep = torch.rand(self.graph.num_units, generator=generator) < share
        for group in self.graph.groups:
            keep[group.first_unit] = True
            if torch.rand(1, generator=generator) < 0.2:
                keep[group.units] = True  # some groups are whole for a while
        return keep

    def soft_mask(self, number=0):
        generator = torch.Generator().manual_seed(300 + number)
        soft = torch.rand(self.graph.num_units, generator=generator).double()
        return torch.where(self.keep(number), soft, 0.0)

    def train(self, number=0, keep=None, lr=0.05):
        torch.manual_seed(number)
        keep = self.keep(number) if keep is None else keep
        return self.form.train_step(*self.batch(number), keep, lr)

    def state(self):
        self.form.write_back()
        state = {f"model/{k}": v.clone() for k, v in self.model.state_dict().items()}
        return state | {f"momentum/{k}": v.clone() for k, v in self.momenta.items()}


def frozen_elements(setting, keep_U):
    """Name in the state to a bool tensor: the elements that belong to removed units."""
    keep = torch.cat([keep_U, torch.ones(1, dtype=torch.bool)])
    frozen = {}
    for name, layer in setting.graph.layers.items():
        module = setting.model.get_submodule(name)
        for own, tensor in module.state_dict(keep_vars=True).items():
            if tensor.dim() == 0:
                continue
            held = keep[layer.out_units].view(-1, *(1,) * (tensor.dim() - 1)).expand(tensor.shape)
            if own == "weight" and layer.kind in ("conv", "linear"):
                held = held & weight_factor(keep.double(), layer, tensor).bool()
            frozen[f"model/{name}.{own}"] = ~held
            if f"{name}.{own}" in setting.momenta:
                frozen[f"momentum/{name}.{own}"] = ~held
    return frozen


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("net", ["digits_net", "grouped", "resnet20"])
def test_a_removed_unit_keeps_every_bit(net, form):
    setting = Setting(net, form, torch.float32)
    keep = setting.keep()
    before = setting.state()
    for number in range(3):
        setting.train(number, keep)
    after = setting.state()
    frozen = frozen_elements(setting, keep)
    assert sum(int(f.sum()) for f in frozen.values()) > 100
    for name, elements in frozen.items():
        assert torch.equal(before[name][elements], after[name][elements]), name
        if name.endswith("num_batches_tracked") or bool(elements.all()):
            continue
        assert not torch.equal(before[name][~elements], after[name][~elements]), name


@pytest.mark.parametrize("form", FORMS)
def test_a_kept_unit_trains_as_in_the_pruned_model(form):
    setting = Setting("digits_net", form)
    keep = setting.keep()
    pruned = prune_model(setting.model, setting.graph, keep)
    optimizer = torch.optim.SGD(pruned.parameters(), lr=0.05, weight_decay=0.01)
    setting.form = FORMS[form](
        setting.model,
        setting.graph,
        F.cross_entropy,
        setting.momenta,
        WeightRule(weight_decay=0.01),
    )
    for number in range(3):
        images, labels = setting.batch(number)
        optimizer.zero_grad()
        F.cross_entropy(pruned(images.double()), labels).backward()
        optimizer.step()
        setting.train(number, keep)
    setting.form.write_back()
    again = prune_model(setting.model, setting.graph, keep).state_dict()
    for name, tensor in pruned.state_dict().items():
        torch.testing.assert_close(again[name], tensor, rtol=0, atol=1e-12, msg=name)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("net", ["digits_net", "grouped"])
def test_mask_gradient_changes_nothing(net, form):
    setting = Setting(net, form)
    setting.train()
    before = setting.state()
    setting.form.mask_gradient(*setting.batch(), setting.soft_mask())
    after = setting.state()
    for name, tensor in before.items():
        assert torch.equal(tensor, after[name]), name
    assert all(parameter.grad is None for parameter in setting.model.parameters())


@pytest.mark.parametrize("form", FORMS)
def test_mask_gradient_is_the_slope_of_the_loss(form):
    setting = Setting("digits_net", form)
    mask = setting.soft_mask()
    mask[3] = 0.5
    batch = setting.batch()
    _, gradient = setting.form.mask_gradient(*batch, mask)
    step = 1e-5
    for unit in (3, 20, 40):
        mask[unit] = 0.5
        _, gradient = setting.form.mask_gradient(*batch, mask)
        higher, lower = mask.clone(), mask.clone()
        higher[unit] += step
        lower[unit] -= step
        rise = setting.form.mask_gradient(*batch, higher)[0]
        fall = setting.form.mask_gradient(*batch, lower)[0]
        slope = float(rise - fall) / (2 * step)
        assert float(gradient[unit]) == pytest.approx(slope, rel=1e-4, abs=1e-8)


def assert_same_states(first, second, tolerance):
    for name, tensor in first.items():
        scale = 1.0 if tolerance < 1e-6 else max(float(tensor.double().abs().max()), 1e-3)
        difference = float((tensor.double() - second[name].double()).abs().max())
        assert difference <= tolerance * scale, f"{name}: {difference}"


def assert_same_mask_gradients(masked, compact, number, *, rtol, atol):
    soft = masked.soft_mask(number)
    torch.manual_seed(number)
    loss, gradient = masked.form.mask_gradient(*masked.batch(number), soft)
    torch.manual_seed(number)
    other, narrow = compact.form.mask_gradient(*compact.batch(number), soft)
    assert float(loss) == pytest.approx(float(other), abs=atol)
    active = soft > 0
    torch.testing.assert_close(gradient[active], narrow[active], rtol=rtol, atol=atol)


@pytest.mark.parametrize("net", NETS)
def test_both_forms_agree_over_changing_draws(net):
    steps = 3 if net in ("densenet121", "mobilenet_v2", "resnet18") else 8
    masked, compact = Setting(net, "masked"), Setting(net, "compact")
    for number in range(steps):
        keep = masked.keep(number // 2, share=0.3 + 0.1 * (number // 2))
        loss, other = masked.train(number, keep, lr=0.01), compact.train(number, keep, lr=0.01)
        assert float(loss) == pytest.approx(float(other), abs=1e-9)
        if number % 2:
            assert_same_mask_gradients(masked, compact, number, rtol=0, atol=1e-9)
    assert_same_states(masked.state(), compact.state(), 1e-9)


@pytest.mark.parametrize("net", ["digits_net", "resnet20", "grouped"])
def test_one_step_in_float32_agrees(net):
    masked, compact = Setting(net, "masked", torch.float32), Setting(net, "compact", torch.float32)
    masked.train()
    compact.train()
    assert_same_states(masked.state(), compact.state(), 1e-4)


def test_the_compact_form_takes_over_what_was_written_from_outside():
    setting = Setting("digits_net", "compact")
    keep = setting.keep()
    setting.train(0, keep)
    saved = setting.state()
    setting.train(1, keep)
    expected = setting.state()
    with torch.no_grad():
        for name, tensor in setting.model.state_dict().items():
            tensor.copy_(saved[f"model/{name}"])
        for name, tensor in setting.momenta.items():
            tensor.copy_(saved[f"momentum/{name}"])
    setting.form.read_again()
    setting.train(1, keep)
    for name, tensor in setting.state().items():
        assert torch.equal(tensor, expected[name]), name


def up_to_eights(widths):
    """As the pruned model's, filled up."""
    return [tuple(8 * math.ceil(w / 8) if w > 1 else w for w in pair) for pair in widths]


def test_the_compact_form_computes_less(monkeypatch):
    setting = Setting("vgg16_bn", "compact")
    seen = []
    original = F.conv2d

    def counting(x, weight, *args):
        seen.append(tuple(weight.shape[:2]))
        return original(x, weight, *args)

    keep = setting.keep(share=0.5)
    monkeypatch.setattr(F, "conv2d", counting)
    setting.train(0, keep)
    pruned = prune_model(copy.deepcopy(setting.model), setting.graph, keep)
    expected = [
        tuple(module.weight.shape[:2])
        for module in pruned.modules()
        if isinstance(module, nn.Conv2d)
    ]
    assert seen == up_to_eights(expected)
    assert any(o % 8 and o < 56 for o, _ in expected), "the draw has odd widths"


def test_what_reads_a_filler_stays_at_zero():
    setting = Setting("vgg16_bn", "compact", torch.float32)
    keep = setting.keep(share=0.5)
    for number in range(3):
        setting.train(number, keep)
    trainer, fillers = setting.form._trainer, 0
    for held in trainer.layers.values():
        if held.consumes:
            is_filler = ~torch.cat([keep, torch.ones(1).bool()])[held.held_layer.in_units]
            fillers += int(is_filler.sum())
            assert not held.own.weight[:, is_filler].any()
            assert held.own.weight[:, ~is_filler].all()
            assert not held.momenta["weight"][:, is_filler].any()
    assert fillers > 0


def test_a_user_s_dropout_elsewhere_still_runs():
    class Net(GroupedNet):
        def forward(self, x):
            x = self.dropout(F.relu(self.stem(x))) * 1.0
            return self.head(F.relu(self.hidden(self.pool(self.grouped(x)).flatten(1))))

    setting = Setting("grouped", "compact")
    torch.manual_seed(0)
    setting.model = Net().double()
    setting.graph = trace_coupling(setting.model, (1, 8, 8))
    momenta = {n: torch.zeros_like(p) for n, p in setting.model.named_parameters()}
    form = CompactExecution(setting.model, setting.graph, F.cross_entropy, momenta, RULE)
    loss = form.train_step(*setting.batch(), setting.keep(), 0.01)
    assert torch.isfinite(loss)
