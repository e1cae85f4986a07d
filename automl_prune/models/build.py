"""Import path and keyword arguments to a network that fits the data."""

from __future__ import annotations

import inspect
import logging
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from automl_prune.errors import AutoMLPruneError, ModelError
from automl_prune.models.checkpoint import load_checkpoint
from automl_prune.seeds import derive_seed
from automl_prune.trust import resolve

if TYPE_CHECKING:
    from collections.abc import Callable

    from automl_prune.config import ModelConfig

logger = logging.getLogger(__name__)

_WEIGHT_ARGUMENTS = frozenset({"weights", "weights_backbone", "pretrained", "checkpoint_path"})
_AUXILIARY_HEADS = ("aux1", "aux2", "AuxLogits")
_DRAWN_IN_PLACE = (
    torch.Tensor.normal_,
    torch.Tensor.uniform_,
    nn.init.normal_,
    nn.init.uniform_,
    nn.init.kaiming_normal_,
    nn.init.kaiming_uniform_,
)
_TRANSFORMING = ("torchvision.models:googlenet", "torchvision.models:inception_v3")


def build_model(
    config: ModelConfig,
    *,
    num_classes: int,
    input_shape: tuple[int, int, int],
    trusted: tuple[str, ...] = (),
    seed: int = 0,
) -> nn.Module:
    """The network of a study, on the CPU, in evaluation mode, with its checkpoint if it has one.

    ``num_classes`` and the number of image channels are filled in where the builder takes them
    and ``config.kwargs`` does not say otherwise. Auxiliary heads are removed.

    Args:
        config: builder, keyword arguments, checkpoint.
        num_classes: classes of the data.
        input_shape: (channels, height, width) of one image.
        trusted: packages whose code may run.
        seed: of the initial weights; the global generator is left as it was.

    Raises:
        TrustError: nobody allowed the builder's package.
        ConfigError: there is no such builder.
        ModelError: the builder fails, or the network does not fit the data.
        CheckpointError: the checkpoint does not fit the network.
    """
    model = _call_builder(config, dict(config.kwargs), num_classes, input_shape, trusted, seed)
    if config.checkpoint is not None and config.checkpoint != "builder":
        load_checkpoint(model, config.checkpoint)
    _remove_auxiliary_heads(model)
    _check_output(model, config, num_classes, input_shape)
    return model


def build_architecture(
    config: ModelConfig,
    *,
    num_classes: int,
    input_shape: tuple[int, int, int],
    trusted: tuple[str, ...] = (),
) -> nn.Module:
    """Like :func:`build_model`, but without trained weights: nothing is downloaded or read.

    For whoever has the weights already, such as the reader of a model folder.
    """
    kwargs: dict[str, Any] = {k: v for k, v in config.kwargs.items() if k not in _WEIGHT_ARGUMENTS}
    if config.builder in _TRANSFORMING and config.kwargs.get("weights"):
        kwargs.setdefault("transform_input", True)  # what torchvision sets for its weights
    model = _call_builder(config, kwargs, num_classes, input_shape, trusted, seed=0)
    _remove_auxiliary_heads(model)
    return model


class WeightsLeftOut(TorchFunctionMode):
    """What is built meanwhile draws no random values for its parameters.

    They hold whatever was in memory. For whoever loads all of them next: drawing them takes longer
    than loading.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Every call of torch."""
        kwargs = kwargs or {}
        if func in _DRAWN_IN_PLACE:
            target = args[0] if args else kwargs["tensor"]
            if isinstance(target, nn.Parameter):
                return target
        return func(*args, **kwargs)


def _call_builder(
    config: ModelConfig,
    kwargs: dict[str, Any],
    num_classes: int,
    input_shape: tuple[int, int, int],
    trusted: tuple[str, ...],
    seed: int,
) -> nn.Module:
    builder = resolve(config.builder, trusted)
    parameters = inspect.signature(builder).parameters
    takes_any = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    if "num_classes" in parameters or takes_any:
        kwargs.setdefault("num_classes", num_classes)
    if "in_channels" in parameters:
        kwargs.setdefault("in_channels", input_shape[0])
    if config.builder.startswith("timm:") and input_shape[0] != 3:
        kwargs.setdefault("in_chans", input_shape[0])
    shown = f"{config.builder}({', '.join(f'{k}={v!r}' for k, v in kwargs.items())})"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(seed, "initial-weights"))
        try:
            model = builder(**kwargs)
        except AutoMLPruneError:
            raise
        except Exception as error:  # a user's builder may raise anything
            raise ModelError(
                f"{shown} failed: {type(error).__name__}: {error}; check model.kwargs (the data "
                f"have {num_classes} classes)"
            ) from error
    if not isinstance(model, nn.Module):
        raise ModelError(f"{shown} returned {type(model).__name__}; it must be an nn.Module")
    return model.eval()


def _remove_auxiliary_heads(model: nn.Module) -> None:
    """Heads that only training looks at would be pruned, counted and saved for nothing."""
    if not getattr(model, "aux_logits", False):
        return
    for name in _AUXILIARY_HEADS:
        if getattr(model, name, None) is not None:
            logger.info("auxiliary head %s removed from %s", name, type(model).__name__)
            setattr(model, name, None)
    setattr(model, "aux_logits", False)  # noqa: B010 - nn.Module's annotations allow no bool


def _check_output(
    model: nn.Module, config: ModelConfig, num_classes: int, input_shape: tuple[int, int, int]
) -> None:
    try:
        with torch.no_grad():
            logits = model(torch.zeros(2, *input_shape))
    except Exception as error:  # a user's forward may raise anything
        raise ModelError(
            f"{config.builder} cannot take images of shape {input_shape} (channels, height, "
            f"width): {type(error).__name__}: {error}; check model.kwargs and data.image_size"
        ) from error
    if not isinstance(logits, torch.Tensor):
        raise ModelError(
            f"{config.builder} returns {type(logits).__name__}; its forward must return one "
            "tensor of logits (batch, classes)"
        )
    if tuple(logits.shape) != (2, num_classes):
        raise ModelError(
            f"{config.builder} gives an output of shape {tuple(logits.shape)} for 2 images, but "
            f"the data have {num_classes} classes, so (2, {num_classes}) is needed; set "
            f"model.kwargs.num_classes = {num_classes}, or bring a model and checkpoint for "
            "these classes"
        )
