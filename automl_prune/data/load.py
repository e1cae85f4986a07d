"""The data of a study: four splits of one set, and batches from them."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F

from automl_prune.cuda_graphs import sent
from automl_prune.data.batches import Augment, crop_and_flip, normalise, shuffled_positions
from automl_prune.data.sources import open_source
from automl_prune.data.splits import SPLITS, hold_out_test, split_training_images
from automl_prune.errors import DataError
from automl_prune.seeds import derive_seed
from automl_prune.trust import resolve

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from torch import Tensor

    from automl_prune.config import DataConfig
    from automl_prune.data.images import Images
    from automl_prune.data.sources import Source
    from automl_prune.data.splits import Split

_IMAGENET_MEAN, _IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Data:
    """Four disjoint splits of one data set; made by :func:`load_data`."""

    input_shape: tuple[int, int, int]
    """(channels, height, width) of an image."""
    class_names: tuple[str, ...]
    mean: tuple[float, ...]
    """Per channel, of pixels in 0..1 (floats: as they are)."""
    std: tuple[float, ...]
    split_sizes: dict[str, int]
    """Images in train, search, select and test."""
    digest: str
    """First 16 hex digits of the SHA-256 of images, splits and normalisation."""
    loss: Callable[[Tensor, Tensor], Tensor]
    """(logits_BK, labels_B) to the mean loss: cross entropy, or the user's own."""
    metric: Callable[[Tensor, Tensor], float] | None
    """The user's (logits_NK, labels_N) to percent; None: top-1 accuracy."""

    def __init__(self, config: DataConfig, *, seed: int, trusted: tuple[str, ...]) -> None:
        source = open_source(config, trusted)
        self._indices, self._images = _divide(config, source, seed)
        self.input_shape = source.train.image_shape
        self.class_names = source.class_names
        self.split_sizes = {name: len(self._indices[name]) for name in SPLITS}
        self.mean, self.std = _normalisation(config, source.train, self._indices["train"])
        self.augment: Augment = config.augment
        self.digest = self._digest()
        self.loss = F.cross_entropy if config.loss is None else resolve(config.loss, trusted)
        self.metric = None if config.metric is None else resolve(config.metric, trusted)

    @property
    def num_classes(self) -> int:
        """K."""
        return len(self.class_names)

    def stream(
        self,
        split: Split,
        *,
        batch_size: int,
        seed: int,
        augment: bool,
        device: torch.device | str,
        start: int = 0,
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Shuffled batches without end.

        Batch ``n`` depends on split, batch size, seed and n alone. In every epoch each image
        comes at most once: the last batch is dropped where it would be short. A split smaller
        than ``batch_size`` gives batches of the whole split.

        Args:
            split: where the images come from.
            batch_size: images of a batch.
            seed: of order and augmentation.
            augment: augment as the study file says.
            device: where the batches are wanted.
            start: number of the first batch to give.

        Yields:
            images (B, C, H, W), float32, normalised, channels-last; labels (B,), int64.
        """
        positions = self.order(split, batch_size=batch_size, seed=seed, start=start)
        augment = augment and self.augment != "none"
        batches = self._batches(split, positions, torch.device(device), margin=augment)
        _, height, width = self.input_shape
        scale_C, shift_C = self._scale_and_shift(torch.device(device))
        for number, (images_BHWC, labels_B) in enumerate(batches, start):
            if augment:
                images_BHWC = crop_and_flip(
                    images_BHWC,
                    height=height,
                    width=width,
                    flip=self.augment == "crop-flip",
                    seed=derive_seed(seed, split, "augment", number),
                )
            yield normalise(images_BHWC, scale_C, shift_C), labels_B

    def order(
        self, split: Split, *, batch_size: int, seed: int, start: int = 0
    ) -> Iterator[Tensor]:
        """Which images are in the batches of :meth:`stream` with the same arguments.

        Yields:
            Positions in :meth:`in_order`, (B,) int64 on the CPU.
        """
        return shuffled_positions(
            self.split_sizes[split],
            batch_size=batch_size,
            seed=derive_seed(seed, split, "order"),
            start=start,
        )

    def in_order(
        self, split: Split, *, batch_size: int, device: torch.device | str
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Every image of a split once, without augmentation; the last batch may be short.

        Yields:
            As :meth:`stream`.
        """
        positions = torch.split(torch.arange(self.split_sizes[split]), batch_size)
        scale_C, shift_C = self._scale_and_shift(torch.device(device))
        batches = self._batches(split, positions, torch.device(device), margin=False)
        for images_BHWC, labels_B in batches:
            yield normalise(images_BHWC, scale_C, shift_C), labels_B

    def labels(self, split: Split) -> Tensor:
        """(N,) int64 on the CPU, in the order of :meth:`in_order`."""
        return self._images[split].labels[self._indices[split]]

    def indices(self, split: Split) -> Tensor:
        """(N,) int64: which images of the set belong to the split, sorted."""
        return self._indices[split]

    def _batches(
        self, split: Split, positions: Iterable[Tensor], device: torch.device, *, margin: bool
    ) -> Iterator[tuple[Tensor, Tensor]]:
        images, indices = self._images[split], self._indices[split]
        pending: list[Tensor] = []

        def note() -> Iterator[Tensor]:
            for positions_B in positions:
                pending.append(indices[positions_B])
                yield pending[-1]

        for images_BHWC in images.batches(note(), device=device, margin=margin):
            labels_B = images.labels[pending.pop(0)]
            yield images_BHWC, sent(labels_B, device)

    def _scale_and_shift(self, device: torch.device) -> tuple[Tensor, Tensor]:
        mean_C = torch.tensor(self.mean, dtype=torch.float64)
        std_C = torch.tensor(self.std, dtype=torch.float64)
        largest = 1.0 if self._images["train"].is_float else 255.0
        scale_C, shift_C = 1.0 / (largest * std_C), -mean_C / std_C
        return scale_C.float().to(device), shift_C.float().to(device)

    def _digest(self) -> str:
        whole = hashlib.sha256(repr((self.input_shape, self.mean, self.std)).encode())
        for split in SPLITS:
            whole.update(split.encode())
            whole.update(self._indices[split].numpy().data)
            whole.update(self.labels(split).numpy().data)
        for split in ("train", "test"):
            whole.update(self._images[split].checksum().encode())
        return whole.hexdigest()[:16]


def load_data(config: DataConfig, *, seed: int, trusted: tuple[str, ...] = ()) -> Data:
    """Read a data set and divide it.

    Args:
        config: which set, and how it is divided and augmented.
        seed: of the division; the study's.
        trusted: packages whose code may run.

    Raises:
        DataError: missing, damaged or unfit data; says what to do.
        ConfigError: no such data set.
        TrustError: nobody allowed the package of the set, the loss or the metric.
    """
    return Data(config, seed=seed, trusted=trusted)


def _divide(
    config: DataConfig, source: Source, seed: int
) -> tuple[dict[Split, Tensor], dict[Split, Images]]:
    """Per split: indices, and the images that they point into."""
    train, test = source.train, source.test or source.train
    if test.image_shape != train.image_shape or test.is_float != train.is_float:
        raise DataError(
            f"training images have shape {train.image_shape}, test images {test.image_shape} "
            "(channels, height, width); make them equal, or set data.image_size"
        )
    usable = torch.arange(len(train.labels))
    test_indices = torch.arange(len(test.labels))
    if source.test is None:
        usable, test_indices = hold_out_test(train.labels, len(source.class_names))
    splits = split_training_images(
        train.labels[usable],
        source.class_names,
        search_fraction=config.search_fraction,
        select_fraction=config.select_fraction,
        limit=config.limit,
        seed=seed,
    )
    indices: dict[Split, Tensor] = {
        "train": usable[splits.train],
        "search": usable[splits.search],
        "select": usable[splits.select],
        "test": test_indices,
    }
    return indices, {"train": train, "search": train, "select": train, "test": test}


def _normalisation(
    config: DataConfig, images: Images, indices: Tensor
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    channels = images.image_shape[0]
    if config.mean is not None and config.std is not None:
        if len(config.mean) != channels:
            raise DataError(
                f"data.mean has {len(config.mean)} numbers, the images have {channels} channels"
            )
        return config.mean, config.std
    if images.is_float:
        return (0.0,) * channels, (1.0,) * channels
    if channels == 3:
        return _IMAGENET_MEAN, _IMAGENET_STD
    mean_C, std_C = images.mean_and_std(indices)
    # four digits say enough, and are the same on every machine
    return (
        tuple(round(float(m), 4) for m in mean_C),
        tuple(max(round(float(s), 4), 1e-4) for s in std_C),
    )
