"""Which image belongs to which split: disjoint, stratified, seeded."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

import torch

from automl_prune.errors import DataError
from automl_prune.seeds import derive_seed

if TYPE_CHECKING:
    from torch import Tensor

Split = Literal["train", "search", "select", "test"]
SPLITS: tuple[Split, ...] = get_args(Split)

_HOLD_OUT_SEED = 20201202  # not the study's: every study of a set has the same test images
HOLD_OUT_FRACTION = 0.2


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TrainingSplits:
    """Indices into the training images, each int64 and sorted."""

    train: Tensor
    search: Tensor
    select: Tensor


def split_training_images(
    labels_N: Tensor,
    class_names: tuple[str, ...],
    *,
    search_fraction: float,
    select_fraction: float,
    limit: int | None,
    seed: int,
) -> TrainingSplits:
    """Divide the training images into ``train``, ``search`` and ``select``.

    Every class is divided by itself, with at least one image in each split. Without ``limit``
    the splits cover all images.

    Args:
        labels_N: int64 class of each image.
        class_names: for messages; classes without any image are passed over.
        search_fraction: share of ``search``, in (0, 1).
        select_fraction: share of ``select``, in (0, 1).
        limit: use only so many images, stratified.
        seed: the study's.

    Raises:
        DataError: a class has too few images for three splits.
    """
    parts: dict[str, list[Tensor]] = {"train": [], "search": [], "select": []}
    quotas = _quotas(labels_N, len(class_names), limit)
    for label, quota in enumerate(quotas):
        chosen = _shuffled_class(labels_N, label, derive_seed(seed, "splits", label))[:quota]
        if len(chosen) == 0:
            continue
        if len(chosen) < 3:
            raise DataError(
                f"class {class_names[label]!r} has {len(chosen)} training image(s) to use, the "
                "splits train, search and select need one each; add images, drop the class, or "
                "raise data.limit"
            )
        num_search = max(1, round(len(chosen) * search_fraction))
        num_select = max(1, round(len(chosen) * select_fraction))
        while num_search + num_select >= len(chosen):  # one image at least is left to train on
            if num_search > num_select:
                num_search -= 1
            else:
                num_select -= 1
        parts["search"].append(chosen[:num_search])
        parts["select"].append(chosen[num_search : num_search + num_select])
        parts["train"].append(chosen[num_search + num_select :])
    if not parts["train"]:
        raise DataError("the data set has no training images; check data.root")
    return TrainingSplits(**{k: torch.cat(v).sort().values for k, v in parts.items()})


def hold_out_test(labels_N: Tensor, num_classes: int) -> tuple[Tensor, Tensor]:
    """(rest, test) indices for a set that comes without test images: 20% of each class.

    The same images whatever the study's seed is.
    """
    rest, test = [], []
    for label in range(num_classes):
        shuffled = _shuffled_class(labels_N, label, derive_seed(_HOLD_OUT_SEED, label))
        num_test = round(len(shuffled) * HOLD_OUT_FRACTION)
        test.append(shuffled[:num_test])
        rest.append(shuffled[num_test:])
    return torch.cat(rest).sort().values, torch.cat(test).sort().values


def _shuffled_class(labels_N: Tensor, label: int, seed: int) -> Tensor:
    members = torch.nonzero(labels_N == label).flatten()
    generator = torch.Generator().manual_seed(seed)
    return members[torch.randperm(len(members), generator=generator)]


def _quotas(labels_N: Tensor, num_classes: int, limit: int | None) -> list[int]:
    """Images to use per class: all, or ``limit`` of them in proportion (largest remainders)."""
    counts = torch.bincount(labels_N, minlength=num_classes).tolist()
    total = sum(counts)
    if limit is None or limit >= total:
        return list(counts)
    exact = [count * limit / total for count in counts]
    quotas = [int(share) for share in exact]
    by_remainder = sorted(range(num_classes), key=lambda c: (quotas[c] - exact[c], c))
    for label in by_remainder[: limit - sum(quotas)]:
        quotas[label] += 1
    return quotas
