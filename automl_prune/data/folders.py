"""Image folders and zip files: one folder per class, decoded once and cached on disk.

::

    root/train/<class>/*.jpg   or   root/train.zip
    root/test/<class>/*.jpg    or   root/test.zip     (also: val)
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import logging
import os
import posixpath
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from automl_prune.data.images import Images, LazyImages, MemoryImages
from automl_prune.errors import DataError

if TYPE_CHECKING:
    from torch import Tensor

logger = logging.getLogger(__name__)

MEMORY_LIMIT_BYTES = 2 * 2**30
"""Sets that take more than this when decoded are decoded image by image instead."""
_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".ppm", ".pgm", ".tif", ".tiff", ".webp"})
_TEST_NAMES = ("test", "val")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Listing:
    """The files of one set, sorted by class and name."""

    place: Path
    """Folder or zip file."""
    names: tuple[str, ...]
    """Paths inside the place, with forward slashes."""
    classes: tuple[str, ...]
    """Class of each file."""
    stamp: str
    """Path, sizes and times: changes when a file does."""


def read_image_folder(
    root: Path, *, image_size: int | None
) -> tuple[Images, Images | None, tuple[str, ...]]:
    """(training images, test images or None, class names).

    Colour or grey is decided by the first image. With ``image_size`` the shorter side is resized
    to it and the middle is cut out; without, all images must have one size.

    Args:
        root: holds ``train`` and ``test`` (or ``val``), as folders or zip files.
        image_size: height and width of the result.

    Raises:
        DataError: missing, damaged or of different sizes; says what to do.
    """
    places = [_find(root, name) for name in ("train", *_TEST_NAMES)]
    train_place = places[0]
    test_place = places[1] or places[2]
    if train_place is None:
        raise DataError(
            f"image folder {str(root)!r} has no train folder and no train.zip; it must hold "
            "train/<class>/*.jpg and test/<class>/*.jpg (or train.zip and test.zip); set "
            "data.root"
        )
    train = _list(train_place)
    class_names = tuple(sorted(set(train.classes)))
    listings = [train]
    if test_place is not None:
        test = _list(test_place)
        unknown = sorted(set(test.classes) - set(class_names))
        if unknown:
            raise DataError(
                f"{test_place} has classes that {train_place} lacks: {', '.join(unknown[:8])}"
            )
        listings.append(test)
    images = [_load(listing, class_names, image_size) for listing in listings]
    return images[0], images[1] if test_place is not None else None, class_names


def cache_folder() -> Path:
    """``$XDG_CACHE_HOME/automl-prune``, or ``~/.cache/automl-prune``."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "automl-prune"


def fit_to_size(image: Image.Image, size: int) -> Image.Image:
    """Resize the shorter side to ``size`` and cut out the middle."""
    width, height = image.size
    if (width, height) == (size, size):
        return image
    scale = size / min(width, height)
    width, height = max(size, round(width * scale)), max(size, round(height * scale))
    image = image.resize((width, height), Image.Resampling.BILINEAR)
    left, top = (width - size) // 2, (height - size) // 2
    return image.crop((left, top, left + size, top + size))


def to_bytes_hwc(image: Image.Image) -> Tensor:
    """A grey or colour image as (H, W, C) uint8."""
    array = np.array(image, dtype=np.uint8)
    return torch.from_numpy(array if array.ndim == 3 else array[:, :, None])


def _find(root: Path, name: str) -> Path | None:
    if (root / name).is_dir():
        return root / name
    return root / f"{name}.zip" if (root / f"{name}.zip").is_file() else None


def _list(place: Path) -> _Listing:
    if place.is_dir():
        found = [(p.relative_to(place).as_posix(), p) for p in place.rglob("*")]
        stats = {name: path.stat() for name, path in found if _is_image(name)}
        names = sorted(stats)
        stamp = "|".join(f"{n}:{stats[n].st_size}:{stats[n].st_mtime_ns}" for n in names)
    else:
        try:
            with zipfile.ZipFile(place) as archive:
                names = sorted(n for n in archive.namelist() if _is_image(n))
        except (zipfile.BadZipFile, OSError) as error:
            raise DataError(
                f"{place} is no readable zip file ({error}); fetch it again"
            ) from error
        status = place.stat()
        stamp = f"{status.st_size}:{status.st_mtime_ns}"
    if not names:
        raise DataError(f"{place} holds no images in class folders (<class>/<image>.jpg)")
    return _Listing(
        place=place,
        names=tuple(names),
        classes=tuple(name.split("/")[-2] for name in names),
        stamp=hashlib.sha256(f"{place.resolve()}|{stamp}".encode()).hexdigest(),
    )


def _is_image(name: str) -> bool:
    *folders, file = name.split("/")
    hidden = file.startswith(".") or any(f.startswith((".", "__MACOSX")) for f in folders)
    return bool(folders) and not hidden and posixpath.splitext(file)[1].lower() in _SUFFIXES


def _load(listing: _Listing, class_names: tuple[str, ...], image_size: int | None) -> Images:
    number = {name: index for index, name in enumerate(class_names)}
    labels_N = torch.tensor([number[name] for name in listing.classes])
    cached_NHWC = _read_cache(listing, image_size)
    if cached_NHWC is not None:
        return MemoryImages(cached_NHWC, labels_N)
    decoder = _Decoder(listing.place, listing.names)
    first = decoder.open(0)
    channels = 1 if first.mode in ("1", "L") else 3
    decoder.mode = "L" if channels == 1 else "RGB"
    width, height = (image_size, image_size) if image_size else first.size
    if len(labels_N) * channels * width * height <= MEMORY_LIMIT_BYTES:
        images_NHWC = _decode_all(decoder, image_size)
        _write_cache(listing, image_size, images_NHWC)
        return MemoryImages(images_NHWC, labels_N)
    if image_size is None:
        raise DataError(
            f"{listing.place} holds {len(labels_N)} images of about {width}x{height} pixels, too "
            "many to keep decoded in memory; set data.image_size"
        )
    return LazyImages(
        decoder, labels_N, channels=channels, size=image_size, checksum=listing.stamp
    )


def _cache_path(listing: _Listing, image_size: int | None) -> Path:
    key = hashlib.sha256(f"1|{listing.stamp}|{image_size}".encode()).hexdigest()
    return cache_folder() / f"images-{key[:32]}.safetensors"


def _read_cache(listing: _Listing, image_size: int | None) -> Tensor | None:
    path = _cache_path(listing, image_size)
    if not path.is_file():
        return None
    try:
        return load_file(path)["images_NHWC"]
    except (SafetensorError, OSError, KeyError) as error:
        logger.warning("cache file %s is damaged (%s) and is made again", path, error)
        return None


def _write_cache(listing: _Listing, image_size: int | None, images_NHWC: Tensor) -> None:
    """Atomic; a full disk or a read-only home costs the next process time and nothing else."""
    path = _cache_path(listing, image_size)
    temporary = path.with_suffix(f".{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file({"images_NHWC": images_NHWC}, temporary)
        temporary.replace(path)
    except (OSError, SafetensorError) as error:
        logger.warning("decoded images could not be cached in %s: %s", path.parent, error)
        with contextlib.suppress(OSError):
            temporary.unlink()


def _decode_all(decoder: _Decoder, image_size: int | None) -> Tensor:
    first = decoder(0, image_size)
    images_NHWC = torch.empty((len(decoder.names), *first.shape), dtype=torch.uint8)
    for index, name in enumerate(decoder.names):
        image_HWC = decoder(index, image_size)
        if image_HWC.shape != first.shape:
            raise DataError(
                f"{decoder.place}: {name} has {image_HWC.shape[1]}x{image_HWC.shape[0]} pixels, "
                f"the first image {first.shape[1]}x{first.shape[0]}; set data.image_size"
            )
        images_NHWC[index] = image_HWC
    return images_NHWC


class _Decoder:
    """Opens images out of a folder or zip; picklable, every process opens its own file."""

    def __init__(self, place: Path, names: tuple[str, ...]) -> None:
        self.place = place
        self.names = names
        self.mode = "RGB"
        self._archive: zipfile.ZipFile | None = None

    def __call__(self, index: int, size: int | None) -> Tensor:
        """(H, W, C) uint8."""
        image = self.open(index)
        if image.mode != self.mode:
            image = image.convert(self.mode)
        return to_bytes_hwc(image if size is None else fit_to_size(image, size))

    def open(self, index: int) -> Image.Image:
        """The decoded image, in its own mode."""
        name = self.names[index]
        try:
            image = Image.open(io.BytesIO(self._read(name)))
            image.load()
        except (UnidentifiedImageError, OSError, zipfile.BadZipFile, ValueError) as error:
            raise DataError(
                f"{self.place}: {name} cannot be decoded ({error}); replace or remove it"
            ) from error
        return image

    def _read(self, name: str) -> bytes:
        if self.place.is_dir():
            return (self.place / name).read_bytes()
        if self._archive is None:
            self._archive = zipfile.ZipFile(self.place)
        return self._archive.read(name)

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_archive": None}
