"""Small nets, one for each way in which channels can be coupled or must stay whole."""

import torch
import torch.nn.functional as F
from torch import nn

from automl_prune.graph import FIXED
from automl_prune.models.zoo import ChannelPad


def conv(inputs, outputs, **kwargs):
    return nn.Conv2d(inputs, outputs, 3, padding=1, **kwargs)


class Net(nn.Module):
    """Named layers, a head over pooled ``width`` channels, and a function between them."""

    def __init__(self, body, width, **layers):
        super().__init__()
        torch.manual_seed(0)
        for name, layer in layers.items():
            setattr(self, name, layer)
        self.body = body
        self.head = nn.Linear(width, 5)

    def forward(self, x):
        return self.head(self.body(self, x).mean((2, 3)))


def by_name(graph):
    return {group.name: group for group in graph.groups}


def reasons(graph, layer):
    return [fixed.reason for fixed in graph.fixed if fixed.layer == layer]


def test_chain_with_batch_norm(traced):
    net = Net(lambda m, x: F.relu(m.bn(m.a(x))), 8, a=conv(3, 8), bn=nn.BatchNorm2d(8))
    graph = traced(net)
    (group,) = graph.groups
    assert (group.name, group.layers, group.num_units) == ("a", ("a", "bn"), 8)
    assert group.channels_per_unit == 1
    (fixed,) = graph.fixed
    assert (fixed.layer, fixed.channels, fixed.reason) == ("head", 5, "output of the model")
    assert bool((graph.layers["a"].in_units == FIXED).all())


def test_residual_sum_joins(traced):
    net = Net(lambda m, x: m.a(x) + m.b(x), 6, a=conv(3, 6), b=conv(3, 6))
    (group,) = traced(net).groups
    assert group.layers == ("a", "b")


def test_concatenated_inputs_stay_apart(traced):
    net = Net(lambda m, x: torch.cat([m.a(x), m.b(x)], 1), 10, a=conv(3, 4), b=conv(3, 6))
    groups = by_name(traced(net))
    assert {name: group.num_units for name, group in groups.items()} == {"a": 4, "b": 6}
    assert all(group.layers == (name,) for name, group in groups.items())


def test_shared_module_keeps_one_set_of_ids(traced):
    net = Net(lambda m, x: m.b(F.relu(m.b(m.a(x)))), 6, a=conv(3, 6), b=conv(6, 6))
    graph = traced(net)
    (group,) = graph.groups
    assert group.layers == ("a", "b")
    assert graph.layers["b"].positions == 2 * 64


def test_grouped_convolution_ties_the_same_place_of_its_groups(traced):
    net = Net(lambda m, x: m.b(m.a(x)), 12, a=conv(3, 16), b=conv(16, 12, groups=4))
    groups = by_name(traced(net))
    assert (groups["a"].num_units, groups["a"].channels_per_unit) == (4, 4)
    assert (groups["b"].num_units, groups["b"].channels_per_unit) == (3, 4)


def test_depthwise_passes_ids_on(traced):
    net = Net(lambda m, x: m.b(m.a(x)), 6, a=conv(3, 6), b=conv(6, 6, groups=6))
    graph = traced(net)
    (group,) = graph.groups
    assert group.layers == ("a", "b")
    assert graph.layers["b"].kind == "depthwise"


def test_depthwise_multiplier_repeats_ids(traced):
    net = Net(lambda m, x: m.b(m.a(x)), 12, a=conv(3, 6), b=conv(6, 12, groups=6))
    graph = traced(net)
    (group,) = graph.groups
    assert (group.layers, group.num_units) == (("a", "b"), 6)
    assert graph.layers["b"].out_units.tolist() == [u for u in range(6) for _ in range(2)]


def test_spatial_attention_is_kept_whole_and_its_input_is_free(traced):
    def body(m, x):
        x = m.a(x)
        return x * torch.sigmoid(m.gate(x))

    graph = traced(Net(body, 6, a=conv(3, 6), gate=conv(6, 1)))
    (group,) = graph.groups
    assert group.layers == ("a",)
    (reason,) = reasons(graph, "gate")
    assert "broadcast over channels" in reason


def test_squeeze_and_excitation_joins_by_position(traced):
    def body(m, x):
        x = m.a(x)
        gate = m.up(F.relu(m.down(x.mean((2, 3), keepdim=True))))
        return x * torch.sigmoid(gate)

    net = Net(body, 6, a=conv(3, 6), down=nn.Conv2d(6, 3, 1), up=nn.Conv2d(3, 6, 1))
    groups = by_name(traced(net))
    assert groups["a"].layers == ("a", "up")
    assert groups["down"].layers == ("down",)


def test_flatten_makes_one_unit_feed_several_inputs(traced):
    torch.manual_seed(0)
    net = nn.Sequential(conv(3, 4), nn.ReLU(), nn.MaxPool2d(4), nn.Flatten(), nn.Linear(16, 5))
    graph = traced(net)
    (group,) = graph.groups
    assert group.num_units == 4
    assert graph.layers["4"].in_units.tolist() == [u for u in range(4) for _ in range(4)]


def test_channel_shuffle_by_view_and_transpose(traced):
    def body(m, x):
        x = m.a(x)
        b, c, h, w = x.shape
        x = x.view(b, 2, c // 2, h, w).transpose(1, 2).reshape(b, c, h, w)
        return m.b(x)

    graph = traced(Net(body, 6, a=conv(3, 8), b=conv(8, 6)))
    # a narrower odd width cannot be viewed as halves: kept whole, and it says why
    assert list(by_name(graph)) == ["b"]
    (reason,) = reasons(graph, "a")
    assert "forward" in reason
    assert "width" in reason


def test_channel_shuffle_between_grouped_convolutions(traced):
    def body(m, x):
        x = m.a(x)
        b, c, h, w = x.shape
        x = x.view(b, 2, c // 2, h, w).transpose(1, 2).reshape(b, c, h, w)
        return m.b(x)

    net = Net(body, 6, a=conv(4, 8, groups=2), b=conv(8, 6))
    groups = by_name(traced(net, (4, 8, 8)))
    assert (groups["a"].num_units, groups["a"].channels_per_unit) == (4, 2)


def test_layer_norm_is_kept_whole(traced):
    def body(m, x):
        return m.b(m.norm(m.a(x).permute(0, 2, 3, 1)).permute(0, 3, 1, 2))

    graph = traced(Net(body, 6, a=conv(3, 8), norm=nn.LayerNorm(8), b=conv(8, 6)))
    assert list(by_name(graph)) == ["b"]
    (reason,) = reasons(graph, "a")
    assert "layer_norm" in reason
    assert "span channels" in reason


def test_group_norm_is_kept_whole(traced):
    net = Net(lambda m, x: m.norm(m.a(x)), 8, a=conv(3, 8), norm=nn.GroupNorm(2, 8))
    graph = traced(net)
    assert graph.groups == ()
    (reason,) = reasons(graph, "a")
    assert "group_norm" in reason


def test_padded_shortcut_splits_a_layer_into_groups(traced):
    def body(m, x):
        x = m.a(x)
        return m.b(x) + m.pad(x)

    graph = traced(Net(body, 12, a=conv(3, 6), b=conv(6, 12), pad=ChannelPad(2, 4)))
    groups = by_name(graph)
    assert [(g.num_units, set(g.layers)) for g in groups.values()] == [
        (6, {"a", "b", "pad"}),
        (6, {"b", "pad"}),
    ]
    assert graph.layers["pad"].kind == "pad"


def test_constant_pad_elsewhere_is_kept_whole(traced):
    def body(m, x):
        x = m.a(x)
        return m.b(x) + F.pad(x, (0, 0, 0, 0, 2, 4))

    graph = traced(Net(body, 12, a=conv(3, 6), b=conv(6, 12)))
    assert graph.groups == ()
    assert any("pad" in reason or "width" in reason for reason in reasons(graph, "b"))
    assert reasons(graph, "a")


def test_chunk_into_halves_is_kept_whole(traced):
    def body(m, x):
        first, second = m.a(x).chunk(2, 1)
        return m.b(first) + m.c(second)

    graph = traced(Net(body, 6, a=conv(3, 8), b=conv(4, 6), c=conv(4, 6)))
    assert list(by_name(graph)) == ["b"]
    assert sum(fixed.channels for fixed in graph.fixed if fixed.layer == "a") == 8
    assert all("forward" in reason for reason in reasons(graph, "a"))


def test_gated_halves_have_no_rule_and_stay(traced):
    graph = traced(Net(lambda m, x: m.b(F.glu(m.a(x), 1)), 6, a=conv(3, 8), b=conv(4, 6)))
    assert list(by_name(graph)) == ["b"]
    assert any("glu" in reason for reason in reasons(graph, "a"))


def test_parameter_applied_per_channel_is_kept_whole(traced):
    net = Net(lambda m, x: m.a(x) * m.scale, 6, a=conv(3, 6))
    net.scale = nn.Parameter(torch.randn(6, 1, 1))
    graph = traced(net)
    assert graph.groups == ()
    (reason,) = reasons(graph, "a")
    assert "applied channel by channel" in reason


def test_one_parameter_for_all_channels_is_free(traced):
    net = Net(lambda m, x: m.a(x) * m.scale, 6, a=conv(3, 6))
    net.scale = nn.Parameter(torch.randn(1, 8, 8))
    assert list(by_name(traced(net))) == ["a"]


class Sorter(nn.Module):
    def forward(self, x):
        return torch.linalg.cross(x, x.flip(2), dim=2)


def test_operation_without_a_rule_names_operation_and_module(traced):
    net = Net(lambda m, x: m.odd(m.a(x)), 6, a=conv(3, 6), odd=Sorter())
    graph = traced(net, (3, 3, 3))
    assert graph.groups == ()
    (reason,) = reasons(graph, "a")
    assert "linalg_cross" in reason
    assert "odd" in reason
