import pytest
import torch
import torch.nn.functional as F

from automl_prune.models import (
    ChannelPad,
    digits_net,
    resnet20,
    resnet32,
    resnet44,
    resnet56,
    resnet110,
    vgg16_bn,
)

RESNETS = {resnet20: 20, resnet32: 32, resnet44: 44, resnet56: 56, resnet110: 110}


@pytest.mark.parametrize("builder", RESNETS, ids=lambda b: b.__name__)
def test_resnets_have_as_many_weighted_layers_as_their_name_says(builder):
    layers = [m for m in builder().modules() if isinstance(m, torch.nn.Conv2d | torch.nn.Linear)]
    assert len(layers) == RESNETS[builder]


@pytest.mark.parametrize(
    ("builder", "params"),
    # He et al. 2016, table 6, gives 0.27 M and 0.85 M; exact numbers counted by hand:
    # convolutions, two per channel of batch norm, classifier with bias
    [(resnet20, 269_722), (resnet56, 853_018)],
)
def test_resnet_sizes_are_the_published_ones(builder, params):
    assert sum(p.numel() for p in builder().parameters()) == params


def test_resnet20_has_the_parameter_names_of_published_weights():
    norm = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    expected = {"conv1.weight", "linear.weight", "linear.bias"}
    expected |= {f"bn1.{entry}" for entry in norm}
    for layer in (1, 2, 3):
        for block in range(3):
            for part in (1, 2):
                place = f"layer{layer}.{block}"
                expected.add(f"{place}.conv{part}.weight")
                expected |= {f"{place}.bn{part}.{entry}" for entry in norm}
    assert set(resnet20().state_dict()) == expected


@pytest.mark.parametrize(
    ("builder", "shape"),
    [
        (resnet20, (3, 32, 32)),
        (resnet20, (1, 28, 28)),
        (vgg16_bn, (3, 32, 32)),
        (vgg16_bn, (1, 28, 28)),
        (digits_net, (1, 8, 8)),
    ],
)
@pytest.mark.parametrize("width", [1.0, 0.5])
def test_networks_take_images_and_give_one_logit_per_class(builder, shape, width):
    model = builder(num_classes=7, in_channels=shape[0], width=width)
    assert model(torch.randn(2, *shape)).shape == (2, 7)


def test_width_multiplies_every_layer():
    narrow, wide = resnet20().state_dict(), resnet20(width=2.0).state_dict()
    assert wide["conv1.weight"].shape == (32, 3, 3, 3)
    for name in narrow:
        if name.endswith("conv2.weight"):
            assert wide[name].shape[:2] == tuple(2 * n for n in narrow[name].shape[:2])
    assert vgg16_bn(width=0.5).classifier.in_features == 256
    assert digits_net(width=0.5).linear.in_features == 16


def test_channel_pad_puts_zeros_around_every_second_pixel():
    x_BCHW = torch.randn(2, 3, 4, 6)
    y_BCHW = ChannelPad(2, 1, stride=2)(x_BCHW)
    assert y_BCHW.shape == (2, 6, 2, 3)
    assert torch.equal(y_BCHW[:, 2:5], x_BCHW[:, :, ::2, ::2])
    assert not y_BCHW[:, :2].any()
    assert not y_BCHW[:, 5:].any()


def test_channel_pad_widths_can_be_changed_later():
    pad = ChannelPad(2, 1)
    pad.pad_before, pad.pad_after = 0, 4
    x_BCHW = torch.randn(2, 3, 4, 4)
    expected = torch.cat([x_BCHW, torch.zeros(2, 4, 4, 4)], dim=1)
    assert torch.equal(pad(x_BCHW), expected)
    pad.pad_after = 0
    assert torch.equal(pad(x_BCHW), x_BCHW)


def test_residual_blocks_add_what_comes_in():
    """With the last normalisation silenced, a block is its shortcut alone."""
    model = resnet20().eval()
    block = model.layer2[0]
    torch.nn.init.zeros_(block.bn2.weight)
    x_BCHW = torch.rand(2, 16, 8, 8)
    expected = F.pad(x_BCHW[:, :, ::2, ::2], (0, 0, 0, 0, 8, 8))
    assert torch.equal(block(x_BCHW), expected)
