"""Where images lie until they are asked for: all in memory, or decoded when needed.

Shape suffixes: N images of a set, B of a batch, H height, W width, C channels. Images are kept
with channels last, so that batches are born in torch's ``channels_last`` format.
"""

from __future__ import annotations

import multiprocessing
import os
import zlib
from typing import TYPE_CHECKING, Protocol

import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader, Dataset

from automl_prune.cuda_graphs import sent

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from torch import Tensor

_FEW_IMAGES = 2_000  # below this, starting decoding processes costs more than it gives
_MAX_PROCESSES = 8


class Images(Protocol):
    """Images of one set, with their labels."""

    labels: Tensor
    """int64, on the CPU."""
    image_shape: tuple[int, int, int]
    """(C, H, W)."""
    is_float: bool
    """Already preprocessed floats rather than bytes."""

    def batches(
        self, indices: Iterable[Tensor], *, device: torch.device, margin: bool
    ) -> Iterator[Tensor]:
        """One (B, H, W, C) tensor, uint8 or float32, on ``device`` per tensor of indices.

        With ``margin`` the images are a little larger on all four sides, for random crops:
        height and width are H + 2m and W + 2m, with the same m at every call.
        """
        ...

    def mean_and_std(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Per channel, float64, of pixels in 0..1 (floats: as they are)."""
        ...

    def checksum(self) -> str:
        """Changes when the images or their order change."""
        ...


class MemoryImages:
    """Small sets: every image lies on the device; a margin is padded with zeros."""

    def __init__(self, images_NHWC: Tensor, labels_N: Tensor) -> None:
        height, width, channels = images_NHWC.shape[1:]
        self.labels = labels_N
        self.image_shape = (channels, height, width)
        self.is_float = images_NHWC.dtype != torch.uint8
        self._images = {torch.device("cpu"): images_NHWC.contiguous()}
        self._margin = max(1, height // 8)

    def batches(
        self, indices: Iterable[Tensor], *, device: torch.device, margin: bool
    ) -> Iterator[Tensor]:
        """See :class:`Images`."""
        if device not in self._images:
            self._images[device] = self._images[torch.device("cpu")].to(device)
        images_NHWC, m = self._images[device], self._margin
        for indices_B in indices:
            images_BHWC = images_NHWC[sent(indices_B, device)]
            yield F.pad(images_BHWC, (0, 0, m, m, m, m)) if margin else images_BHWC

    def mean_and_std(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """See :class:`Images`."""
        return _mean_and_std(self._images[torch.device("cpu")][indices])

    def checksum(self) -> str:
        """See :class:`Images`."""
        content = self._images[torch.device("cpu")].numpy()
        return f"{zlib.crc32(content.data):08x}"


class LazyImages:
    """Large sets: images are decoded when they are needed, by several processes.

    Args:
        decode: (index, size) to one (size, size, C) tensor; must be picklable.
        labels_N: int64 class of each image.
        channels: C.
        size: height and width of an image without margin.
        checksum: changes when the images or their order change.
        is_float: decode gives floats.
    """

    def __init__(
        self,
        decode: Callable[[int, int], Tensor],
        labels_N: Tensor,
        *,
        channels: int,
        size: int,
        checksum: str,
        is_float: bool = False,
    ) -> None:
        self.labels = labels_N
        self.image_shape = (channels, size, size)
        self.is_float = is_float
        self._decode = decode
        self._checksum = checksum

    def batches(
        self, indices: Iterable[Tensor], *, device: torch.device, margin: bool
    ) -> Iterator[Tensor]:
        """See :class:`Images`."""
        size = self.image_shape[1]
        num_images = len(self.labels)
        few = num_images < _FEW_IMAGES
        loader = DataLoader(
            _Decoded(self._decode, size + 2 * (size // 14) if margin else size, num_images),
            batch_sampler=_AsLists(indices),
            num_workers=0 if few else min(_MAX_PROCESSES, os.cpu_count() or 1),
            multiprocessing_context=None if few else _start_method(),
            pin_memory=device.type == "cuda",
        )
        for images_BHWC in loader:
            yield images_BHWC.to(device, non_blocking=True)

    def mean_and_std(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """See :class:`Images`; measured on 256 images spread over ``indices``."""
        some = indices[:: max(1, len(indices) // 256)].tolist()
        return _mean_and_std(torch.stack([self._decode(i, self.image_shape[1]) for i in some]))

    def checksum(self) -> str:
        """See :class:`Images`."""
        return self._checksum


def _mean_and_std(images_NHWC: Tensor) -> tuple[Tensor, Tensor]:
    """Per channel; bytes are counted rather than widened, so that memory does not explode."""
    pixels_PC = images_NHWC.flatten(0, -2)
    if images_NHWC.dtype != torch.uint8:
        std_C, mean_C = torch.std_mean(pixels_PC, dim=0, correction=0)
        return mean_C.double(), std_C.double()
    values = torch.arange(256, dtype=torch.float64) / 255.0
    counts = [torch.bincount(pixels_P, minlength=256) for pixels_P in pixels_PC.unbind(1)]
    shares_CV = torch.stack(counts).double() / len(pixels_PC)
    mean_C = (shares_CV * values).sum(1)
    variance_C = (shares_CV * (values - mean_C[:, None]) ** 2).sum(1)
    return mean_C, variance_C.sqrt()


class _Decoded(Dataset["Tensor"]):
    def __init__(self, decode: Callable[[int, int], Tensor], size: int, num_images: int) -> None:
        self._decode, self._size, self._num_images = decode, size, num_images

    def __len__(self) -> int:
        return self._num_images

    def __getitem__(self, index: int) -> Tensor:
        return self._decode(index, self._size)


class _AsLists:
    """DataLoader wants batches of indices as lists of integers."""

    def __init__(self, indices: Iterable[Tensor]) -> None:
        self._indices = indices

    def __iter__(self) -> Iterator[list[int]]:
        for indices_B in self._indices:
            yield indices_B.tolist()


def _start_method() -> str:
    """Never fork: a process that has run torch has threads, and a fork of it can hang."""
    methods = multiprocessing.get_all_start_methods()
    return "forkserver" if "forkserver" in methods else "spawn"
