"""Batches: their order, augmentation and normalisation, all on whole batches at once.

Batch number n of a stream is a pure function of (seed, n): nothing has to be saved to go on
from a batch. Shape suffixes: B images of a batch, H height, W width, C channels.
"""

from __future__ import annotations

from itertools import count
from typing import TYPE_CHECKING, Literal

import torch

from automl_prune.cuda_graphs import sent
from automl_prune.seeds import derive_seed

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

Augment = Literal["none", "crop", "crop-flip"]


def shuffled_positions(
    num_images: int, *, batch_size: int, seed: int, start: int
) -> Iterator[Tensor]:
    """Positions 0..num_images-1 in batches, without end, in a new order in every epoch.

    A last batch that would be short is dropped; a set smaller than a batch gives batches of
    the whole set.

    Args:
        num_images: images of the split.
        batch_size: images of a batch.
        seed: of the order.
        start: number of the first batch to give.
    """
    batch_size = min(batch_size, num_images)
    per_epoch = num_images // batch_size
    order, order_epoch = torch.empty(0, dtype=torch.int64), -1
    for number in count(start):
        epoch, place = divmod(number, per_epoch)
        if epoch != order_epoch:
            generator = torch.Generator().manual_seed(derive_seed(seed, "epoch", epoch))
            order, order_epoch = torch.randperm(num_images, generator=generator), epoch
        yield order[place * batch_size : (place + 1) * batch_size]


def crop_and_flip(
    images_BHWC: Tensor, *, height: int, width: int, flip: bool, seed: int
) -> Tensor:
    """Cut a random (height, width) window out of every image, and mirror half of them.

    Args:
        images_BHWC: with room around the window.
        height: of the result.
        width: of the result.
        flip: mirror with probability one half.
        seed: of the draws; the same on every device.

    Returns:
        (B, height, width, C), same dtype and device.
    """
    generator = torch.Generator().manual_seed(seed)
    batch, full_height, full_width = images_BHWC.shape[:3]
    top_B1 = torch.randint(full_height - height + 1, (batch, 1), generator=generator)
    left_B1 = torch.randint(full_width - width + 1, (batch, 1), generator=generator)
    mirrored_B1 = torch.rand(batch, 1, generator=generator) < (0.5 if flip else 0.0)
    device = images_BHWC.device
    drawn_B3 = sent(torch.cat([top_B1, left_B1, mirrored_B1], dim=1), device)
    top_B1, left_B1, mirrored_B1 = drawn_B3[:, :1], drawn_B3[:, 1:2], drawn_B3[:, 2:]
    columns_W = torch.arange(width, device=device)
    rows_BH = top_B1 + torch.arange(height, device=device)
    columns_BW = left_B1 + torch.where(mirrored_B1 > 0, width - 1 - columns_W, columns_W)
    image_B = torch.arange(batch, device=device)
    flat_BHW = (
        image_B[:, None, None] * full_height + rows_BH[:, :, None]
    ) * full_width + columns_BW[:, None, :]
    pixels = images_BHWC.flatten(0, 2)
    chosen = pixels.index_select(0, flat_BHW.flatten())
    return chosen.view(batch, height, width, -1)


def normalise(images_BHWC: Tensor, scale_C: Tensor, shift_C: Tensor) -> Tensor:
    """``image * scale + shift`` per channel, as (B, C, H, W) float32 in channels-last format."""
    scaled_BHWC = torch.addcmul(shift_C, images_BHWC.to(torch.float32), scale_C)
    return scaled_BHWC.permute(0, 3, 1, 2).contiguous(memory_format=torch.channels_last)
