"""Networks: the built-in ones, and any other by import path."""

from automl_prune.models.build import WeightsLeftOut, build_architecture, build_model
from automl_prune.models.checkpoint import load_checkpoint
from automl_prune.models.zoo import (
    ChannelPad,
    digits_net,
    resnet20,
    resnet32,
    resnet44,
    resnet56,
    resnet110,
    vgg16_bn,
)

__all__ = [
    "ChannelPad",
    "WeightsLeftOut",
    "build_architecture",
    "build_model",
    "digits_net",
    "load_checkpoint",
    "resnet20",
    "resnet32",
    "resnet44",
    "resnet56",
    "resnet110",
    "vgg16_bn",
]
