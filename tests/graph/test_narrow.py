import pytest
import torch
from torch import nn

from automl_prune.graph.groups import Layer
from automl_prune.graph.narrow import (
    LayerWidths,
    narrow_layers,
    pad_sizes,
    resize_layer,
    unit_mask,
    widths_of_layer,
)
from automl_prune.models import ChannelPad


def layer(kind, out_units, in_units, groups=1):
    return Layer(
        name="x",
        kind=kind,
        out_units=torch.tensor(out_units),
        in_units=torch.tensor(in_units),
        groups=groups,
        positions=1,
        kernel=1,
    )


def narrowed(module, info, keep):
    model = nn.ModuleDict({"x": module})
    narrow_layers(model, {"x": info}, torch.tensor(keep))
    return model["x"]


def test_fixed_channels_always_stay():
    assert unit_mask(torch.tensor([False, True]))[torch.tensor([0, 1, -1])].tolist() == [
        False,
        True,
        True,
    ]


def test_convolution_loses_rows_and_columns():
    conv = nn.Conv2d(3, 2, 1)
    weight = conv.weight.detach().clone()
    small = narrowed(conv, layer("conv", [0, 1], [-1, 2, 3]), [True, False, False, True])
    assert (small.in_channels, small.out_channels) == (2, 1)
    assert torch.equal(small.weight, weight[[0]][:, [0, 2]])
    assert small.bias.shape == (1,)
    assert small.weight.requires_grad


def test_grouped_convolution_keeps_its_groups():
    conv = nn.Conv2d(4, 4, 1, groups=2)
    small = narrowed(
        conv, layer("conv", [2, 3, 2, 3], [0, 1, 0, 1], 2), [True, False, False, True]
    )
    assert (small.groups, small.in_channels, small.out_channels) == (2, 2, 2)
    assert small(torch.randn(1, 2, 3, 3)).shape == (1, 2, 3, 3)


def test_depthwise_convolution_with_a_multiplier():
    conv = nn.Conv2d(2, 4, 1, groups=2)
    small = narrowed(conv, layer("depthwise", [0, 0, 1, 1], [0, 1], 2), [False, True])
    assert (small.groups, small.in_channels, small.out_channels) == (1, 1, 2)


def test_batch_norm_loses_statistics_too():
    norm = nn.BatchNorm2d(3)
    norm.running_mean.copy_(torch.tensor([1.0, 2.0, 3.0]))
    small = narrowed(norm, layer("norm", [0, 1, -1], [0, 1, -1]), [False, True])
    assert small.num_features == 2
    assert small.running_mean.tolist() == [2.0, 3.0]
    assert int(small.num_batches_tracked) == 0


def test_channel_pad_pads_what_is_kept():
    small = narrowed(
        ChannelPad(2, 1), layer("pad", [0, 1, 2, 3, 4], [2, 3]), [True, False, True, True, False]
    )
    assert pad_sizes(small) == (1, 0)


@pytest.mark.parametrize(
    ("module", "widths"),
    [
        (nn.Conv2d(6, 8, 3, groups=2), LayerWidths(inputs=4, outputs=6, groups=2)),
        (nn.Linear(6, 8), LayerWidths(inputs=3, outputs=5)),
        (nn.BatchNorm2d(6), LayerWidths(inputs=4, outputs=4)),
        (ChannelPad(4, 4), LayerWidths(inputs=1, outputs=2)),
    ],
)
def test_resized_layers_have_the_widths_asked_for(module, widths):
    resize_layer(module, widths)
    assert widths_of_layer(module) == widths


def test_other_modules_have_no_widths():
    assert widths_of_layer(nn.ReLU()) is None
