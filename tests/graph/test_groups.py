import torch

from automl_prune.graph import FIXED, Group, trace_coupling
from automl_prune.models import resnet20


def test_units_of_a_group_are_a_slice():
    group = Group(name="a", first_unit=3, num_units=4, layers=("a",), channels_per_unit=1)
    assert list(range(10))[group.units] == [3, 4, 5, 6]


def test_units_lie_group_by_group_and_index_into_every_layer():
    graph = trace_coupling(resnet20(num_classes=10), (3, 32, 32))
    numbers = [n for group in graph.groups for n in range(group.units.start, group.units.stop)]
    assert numbers == list(range(graph.num_units))
    for layer in graph.layers.values():
        for units in (layer.out_units, layer.in_units):
            assert units.min() >= FIXED
            assert units.max() < graph.num_units
    for group in graph.groups:
        own = graph.layers[group.layers[0]].out_units
        inside = (own >= group.units.start) & (own < group.units.stop)
        assert int(inside.sum()) == group.num_units * group.channels_per_unit


def test_padded_shortcuts_fall_apart_into_groups():
    graph = trace_coupling(resnet20(num_classes=10), (3, 32, 32))
    stream = {g.num_units for g in graph.groups if "conv1" in g.layers}
    assert stream == {16}
    pads = [layer for layer in graph.layers.values() if layer.kind == "pad"]
    assert len(pads) == 2
    assert all(torch.all(pad.out_units >= 0) for pad in pads)
