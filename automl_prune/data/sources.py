"""Names of data sets, and import paths, to images with labels."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from automl_prune.data.folders import (
    MEMORY_LIMIT_BYTES,
    fit_to_size,
    read_image_folder,
    to_bytes_hwc,
)
from automl_prune.data.images import Images, LazyImages, MemoryImages
from automl_prune.errors import AutoMLPruneError, ConfigError, DataError
from automl_prune.trust import resolve

if TYPE_CHECKING:
    from collections.abc import Sequence

    from automl_prune.config import DataConfig

IMAGENET_SIZE = 224
_FOLDER_OF_TORCHVISION = {
    "fashion-mnist": "FashionMNIST",
    "cifar10": "cifar-10-batches-py",
    "cifar100": "cifar-100-python",
}
_CLASS_OF_TORCHVISION = {
    "fashion-mnist": "FashionMNIST",
    "cifar10": "CIFAR10",
    "cifar100": "CIFAR100",
}
_LABEL_ATTRIBUTES = ("targets", "labels", "_labels", "y")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Source:
    """A data set before it is split."""

    train: Images
    test: Images | None
    """None: the set has no test images, some are held out."""
    class_names: tuple[str, ...]


def open_source(config: DataConfig, trusted: tuple[str, ...] = ()) -> Source:
    """Find and read the data set of a study.

    A user's ``package.module:function`` is called with ``config.kwargs`` and returns a pair
    ``(train, test)``; ``test`` may be None. Each is a map-style data set of (image, label), or a
    pair (images, labels) of tensors or arrays. Images are (N, H, W), (N, C, H, W) or PIL images;
    bytes are normalised later, floats are taken as they are.

    Raises:
        DataError: missing, damaged or unfit; says what to do.
        ConfigError: no such source, or keyword arguments that it does not take.
        TrustError: nobody allowed the function's package.
    """
    name = config.source
    if ":" in name:
        return _open_import_path(config, trusted)
    if config.kwargs:
        raise ConfigError(
            f"data.kwargs: found {', '.join(config.kwargs)}, but {name!r} takes none"
        )
    if name == "digits":
        return _open_digits(config)
    if name in _CLASS_OF_TORCHVISION:
        return _open_torchvision(config, resolve(f"torchvision.datasets:{_class_of(config)}"))
    if name in ("image-folder", "imagenet"):
        size = config.image_size or (IMAGENET_SIZE if name == "imagenet" else None)
        train, test, class_names = read_image_folder(_root(config), image_size=size)
        return Source(train=train, test=test, class_names=class_names)
    known = ["digits", *_CLASS_OF_TORCHVISION, "imagenet", "image-folder"]
    raise ConfigError(
        f"data.source: found {name!r}; allowed: {', '.join(known)}, torchvision.datasets:NAME, "
        "or your own package.module:function"
    )


def _class_of(config: DataConfig) -> str:
    return _CLASS_OF_TORCHVISION[config.source]


def _open_digits(config: DataConfig) -> Source:
    from sklearn.datasets import load_digits

    bunch = load_digits()
    # 17 grey levels, 0..16
    images_NHW = torch.from_numpy(np.rint(bunch.images * (255 / 16)).astype(np.uint8))
    labels_N = torch.from_numpy(bunch.target.astype(np.int64))
    train = _from_arrays((images_NHW, labels_N), config)
    return Source(train=train, test=None, class_names=tuple(str(d) for d in range(10)))


def _root(config: DataConfig) -> Path:
    if config.root is None:
        raise DataError(
            f"data set {config.source!r} needs a folder; set data.root in the study file or with "
            "--set data.root=FOLDER"
        )
    root = Path(config.root).expanduser()
    if not root.is_dir():
        raise DataError(
            f"data.root: folder {config.root!r} does not exist (looked in {Path.cwd()}); set it "
            "with --set data.root=FOLDER"
        )
    return root


def _open_torchvision(config: DataConfig, dataset_class: Any) -> Source:
    """A data set class with ``train=`` or ``split=``, read from disk, never downloaded."""
    parameters = inspect.signature(dataset_class).parameters
    kwargs: dict[str, Any] = dict(config.kwargs)
    if "root" in parameters:
        root = _root(config)
        inside = _FOLDER_OF_TORCHVISION.get(config.source, dataset_class.__name__)
        if root.name == "raw" and root.parent.name == inside:
            root = root.parent
        kwargs["root"] = root.parent if root.name == inside else root
    if "download" in parameters:
        kwargs["download"] = False
    variants: list[dict[str, Any]]
    if "train" in parameters:
        variants = [{"train": True}, {"train": False}]
    elif "split" in parameters:
        variants = [{"split": "train"}, {"split": "test"}]
    else:
        variants = [{}]
    read = []
    for variant in variants:
        try:
            read.append(dataset_class(**kwargs, **variant))
        except Exception as error:  # torchvision raises anything, from RuntimeError to EOFError
            name = dataset_class.__name__
            raise DataError(
                f"{name} cannot be read from data.root = {config.root!r}: "
                f"{type(error).__name__}: {str(error).partition(chr(10))[0]}; check the folder, "
                f"or fetch the set with torchvision.datasets.{name}(FOLDER, download=True)"
            ) from error
    images = [_from_any(dataset, config) for dataset in read]
    test = images[1] if len(images) == 2 else None
    return Source(train=images[0], test=test, class_names=_class_names(read[0], images))


def _open_import_path(config: DataConfig, trusted: tuple[str, ...]) -> Source:
    function = resolve(config.source, trusted)
    if config.source.startswith("torchvision.datasets:"):
        return _open_torchvision(config, function)
    try:
        result = function(**config.kwargs)
    except AutoMLPruneError:
        raise
    except Exception as error:  # a user's function may raise anything
        raise DataError(
            f"{config.source} failed: {type(error).__name__}: {error}; check data.kwargs"
        ) from error
    if not isinstance(result, tuple) or len(result) != 2:
        raise DataError(
            f"{config.source} returned {type(result).__name__}; it must return the pair "
            "(train, test), where test may be None"
        )
    train = _from_any(result[0], config)
    test = None if result[1] is None else _from_any(result[1], config)
    images = [train] if test is None else [train, test]
    return Source(train=train, test=test, class_names=_class_names(result[0], images))


def _class_names(dataset: Any, images: Sequence[Images]) -> tuple[str, ...]:
    num_classes = 1 + max(int(i.labels.max()) for i in images)
    names = getattr(dataset, "classes", None)
    if isinstance(names, list | tuple) and len(names) >= num_classes:
        return tuple(str(name) for name in names)
    return tuple(str(number) for number in range(num_classes))


def _from_any(dataset: Any, config: DataConfig) -> Images:
    if isinstance(dataset, tuple | list) and len(dataset) == 2 and _is_array(dataset[0]):
        return _from_arrays((dataset[0], dataset[1]), config)
    arrays = getattr(dataset, "data", None), getattr(dataset, "targets", None)
    if _is_array(arrays[0]) and arrays[1] is not None and _has_no_transform(dataset):
        images = torch.as_tensor(arrays[0])
        if images.ndim == 4 and images.shape[-1] in (1, 3):  # torchvision's CIFAR: N, H, W, C
            images = images.permute(0, 3, 1, 2)
        return _from_arrays((images, arrays[1]), config)
    return _from_map_style(dataset, config)


def _is_array(value: Any) -> bool:
    return isinstance(value, Tensor | np.ndarray)


def _has_no_transform(dataset: Any) -> bool:
    names = ("transform", "transforms", "target_transform")
    return all(getattr(dataset, name, None) is None for name in names)


def _from_arrays(pair: tuple[Any, Any], config: DataConfig) -> MemoryImages:
    images, labels_N = torch.as_tensor(pair[0]), _check_labels(pair[1])
    if images.ndim == 3:
        images = images.unsqueeze(1)
    if images.ndim != 4 or len(images) != len(labels_N):
        raise DataError(
            f"images of shape {tuple(images.shape)} and {len(labels_N)} labels do not go "
            "together; needed: (N, H, W) or (N, C, H, W), and N labels"
        )
    if images.dtype != torch.uint8 and not images.is_floating_point():
        raise DataError(f"images have dtype {images.dtype}; give bytes (uint8) or floats")
    size = config.image_size
    if size is not None and tuple(images.shape[2:]) != (size, size):
        resized = F.interpolate(
            images.float(), (size, size), mode="bilinear", antialias=True, align_corners=False
        )
        is_bytes = images.dtype == torch.uint8
        images = resized.round().clamp(0, 255).to(torch.uint8) if is_bytes else resized
    if images.is_floating_point():
        images = images.float()
    return MemoryImages(images.permute(0, 2, 3, 1), labels_N)


def _from_map_style(dataset: Any, config: DataConfig) -> Images:
    try:
        num_images, first = len(dataset), dataset[0][0]
    except Exception as error:  # a user's data set may raise anything
        raise DataError(
            f"{config.source}: {type(dataset).__name__} is no map-style data set of (image, "
            f"label): {type(error).__name__}: {error}"
        ) from error
    decode = _ItemDecoder(dataset)
    first_HWC = decode(0, config.image_size)
    if num_images * first_HWC.numel() * first_HWC.element_size() > MEMORY_LIMIT_BYTES:
        if config.image_size is None:
            raise DataError(
                f"{config.source}: {num_images} images of {tuple(first_HWC.shape)} are too many "
                "to keep in memory; set data.image_size"
            )
        return LazyImages(
            decode,
            _labels_of(dataset),
            channels=first_HWC.shape[2],
            size=config.image_size,
            checksum=f"{config.source}:{sorted(config.kwargs.items())}:{num_images}",
            is_float=first_HWC.is_floating_point(),
        )
    if isinstance(first, Image.Image):
        decode.mode = "L" if first_HWC.shape[2] == 1 else "RGB"
    images, labels = [], []
    for index in range(num_images):
        item, label = dataset[index][:2]
        image_HWC = decode.convert(item, config.image_size)
        if image_HWC.shape != first_HWC.shape:
            raise DataError(
                f"{config.source}: image {index} has shape {tuple(image_HWC.shape)}, the first "
                f"{tuple(first_HWC.shape)} (height, width, channels); set data.image_size"
            )
        images.append(image_HWC)
        labels.append(int(label))
    return MemoryImages(torch.stack(images), _check_labels(labels))


def _labels_of(dataset: Any) -> Tensor:
    for name in _LABEL_ATTRIBUTES:
        labels = getattr(dataset, name, None)
        if labels is not None and len(labels) == len(dataset):
            return _check_labels(labels)
    raise DataError(
        f"{type(dataset).__name__} is too large to read whole and has none of the attributes "
        f"{', '.join(_LABEL_ATTRIBUTES)}; give it one with all labels"
    )


def _check_labels(labels: Any) -> Tensor:
    try:
        labels_N = torch.as_tensor(labels).flatten().to(torch.int64)
    except (TypeError, ValueError, RuntimeError) as error:
        raise DataError(f"labels must be whole numbers from 0: {error}") from error
    if len(labels_N) == 0 or int(labels_N.min()) < 0:
        raise DataError(
            "labels must be whole numbers from 0, one for each image; found none or a negative one"
        )
    return labels_N


class _ItemDecoder:
    """Items of a map-style data set as (H, W, C) tensors; picklable if the data set is."""

    def __init__(self, dataset: Any) -> None:
        self._dataset = dataset
        self.mode: str | None = None

    def __call__(self, index: int, size: int | None) -> Tensor:
        return self.convert(self._dataset[index][0], size)

    def convert(self, item: Any, size: int | None) -> Tensor:
        """One item, resized to ``size`` if given."""
        if isinstance(item, Image.Image):
            mode = self.mode or ("L" if item.mode in ("1", "L") else "RGB")
            image = item if item.mode == mode else item.convert(mode)
            return to_bytes_hwc(image if size is None else fit_to_size(image, size))
        image_CHW = torch.as_tensor(item)
        if image_CHW.ndim == 2:
            image_CHW = image_CHW.unsqueeze(0)
        if image_CHW.ndim != 3:
            raise DataError(f"an image has shape {tuple(image_CHW.shape)}; needed: (C, H, W)")
        if size is not None and tuple(image_CHW.shape[1:]) != (size, size):
            resized = F.interpolate(
                image_CHW[None].float(), (size, size), mode="bilinear", antialias=True
            )[0]
            is_bytes = image_CHW.dtype == torch.uint8
            image_CHW = resized.round().to(torch.uint8) if is_bytes else resized
        if image_CHW.dtype != torch.uint8:
            image_CHW = image_CHW.float()
        return image_CHW.permute(1, 2, 0)
