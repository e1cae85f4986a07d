import logging
import os
import pickle
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from automl_prune.data import folders
from automl_prune.data.folders import cache_folder, fit_to_size, read_image_folder
from automl_prune.data.images import LazyImages, MemoryImages
from automl_prune.errors import DataError

CPU = torch.device("cpu")
EVERYTHING = [torch.arange(4)]


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def picture(shade, size=(6, 6), mode="RGB"):
    channels = {"RGB": 3, "L": 1, "RGBA": 4}[mode]
    array = np.full((size[1], size[0], channels), shade, dtype=np.uint8)
    return Image.fromarray(array.squeeze() if channels == 1 else array)


def write_folder(root, part="train", *, mode="RGB", classes=("cat", "dog"), per_class=2):
    for number, name in enumerate(classes):
        (root / part / name).mkdir(parents=True)
        for index in range(per_class):
            shade = 100 * number + 10 * index + 1
            picture(shade, mode=mode).save(root / part / name / f"{index:03}.png")
    return root


def zip_up(root, part, prefix=""):
    with zipfile.ZipFile(root / f"{part}.zip", "w") as archive:
        for path in sorted((root / part).rglob("*.png")):
            archive.write(path, prefix + path.relative_to(root / part).as_posix())
            path.unlink()
        archive.writestr("__MACOSX/cat/._000.png", b"rubbish")
        archive.writestr(f"{prefix}readme.txt", b"words")
    for folder in sorted((root / part).rglob("*"), reverse=True):
        folder.rmdir()
    (root / part).rmdir()


def shades(images):
    return [int(v) for v in next(images.batches(EVERYTHING, device=CPU, margin=False))[:, 0, 0, 0]]


@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_a_folder_is_read_by_class_and_name(tmp_path, mode):
    root = write_folder(write_folder(tmp_path, mode=mode), "test", mode=mode)
    train, test, names = read_image_folder(root, image_size=None)
    assert names == ("cat", "dog")
    assert train.labels.tolist() == [0, 0, 1, 1]
    assert train.image_shape == ({"RGB": 3, "L": 1}[mode], 6, 6)
    assert shades(train) == shades(test) == [1, 11, 101, 111]


@pytest.mark.parametrize("prefix", ["", "train/", "some/where/"])
def test_a_zip_file_is_read_like_the_folder_in_it(tmp_path, prefix):
    write_folder(tmp_path / "plain")
    write_folder(tmp_path / "zipped")
    zip_up(tmp_path / "zipped", "train", prefix)
    plain, _, names = read_image_folder(tmp_path / "plain", image_size=None)
    zipped, test, zipped_names = read_image_folder(tmp_path / "zipped", image_size=None)
    assert names == zipped_names
    assert test is None
    assert torch.equal(plain.labels, zipped.labels)
    assert plain.checksum() == zipped.checksum()


def test_val_stands_in_for_test(tmp_path):
    root = write_folder(write_folder(tmp_path), "val", classes=("dog",), per_class=4)
    _, test, _ = read_image_folder(root, image_size=None)
    assert test.labels.tolist() == [1, 1, 1, 1]


def test_the_second_reading_comes_from_the_cache(tmp_path, monkeypatch):
    root = write_folder(tmp_path)
    first, _, _ = read_image_folder(root, image_size=None)
    monkeypatch.setattr(folders, "_decode_all", None)  # would fail if called
    again, _, _ = read_image_folder(root, image_size=None)
    assert again.checksum() == first.checksum()


def test_a_changed_file_is_read_anew(tmp_path):
    root = write_folder(tmp_path)
    read_image_folder(root, image_size=None)
    path = root / "train" / "cat" / "000.png"
    picture(77).save(path)
    os.utime(path, ns=(1, 1))
    assert shades(read_image_folder(root, image_size=None)[0])[0] == 77


def test_a_damaged_cache_is_made_again(tmp_path, caplog):
    root = write_folder(tmp_path)
    read_image_folder(root, image_size=None)
    (cached,) = cache_folder().iterdir()
    cached.write_bytes(cached.read_bytes()[:50])
    with caplog.at_level(logging.WARNING):
        assert shades(read_image_folder(root, image_size=None)[0]) == [1, 11, 101, 111]
    assert "damaged" in caplog.text
    assert load_file(cached)["images_NHWC"].shape == (4, 6, 6, 3)


def test_without_a_place_for_the_cache_it_still_works(tmp_path, monkeypatch, caplog):
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with caplog.at_level(logging.WARNING):
        images, _, _ = read_image_folder(write_folder(tmp_path), image_size=None)
    assert shades(images) == [1, 11, 101, 111]
    assert "could not be cached" in caplog.text


def test_the_first_image_decides_on_colour(tmp_path):
    root = write_folder(tmp_path)
    picture(200, mode="L").save(root / "train" / "dog" / "000.png")
    picture(201, mode="RGBA").save(root / "train" / "dog" / "001.png")
    images, _, _ = read_image_folder(root, image_size=None)
    assert images.image_shape[0] == 3
    assert shades(images) == [1, 11, 200, 201]


def test_images_of_several_sizes_need_an_image_size(tmp_path):
    root = write_folder(tmp_path)
    picture(50, size=(9, 7)).save(root / "train" / "dog" / "001.png")
    with pytest.raises(DataError, match=r"dog/001\.png has 9x7 pixels.*set data\.image_size"):
        read_image_folder(root, image_size=None)
    images, _, _ = read_image_folder(root, image_size=4)
    assert images.image_shape == (3, 4, 4)
    assert shades(images) == [1, 11, 101, 50]


def test_fitting_resizes_the_shorter_side_and_takes_the_middle():
    array = np.zeros((8, 24), dtype=np.uint8)
    array[:, 8:16] = 255
    fitted = fit_to_size(Image.fromarray(array), 4)
    assert fitted.size == (4, 4)
    assert np.asarray(fitted)[:, 1:3].min() > 200, "the bright middle is what is kept"


def test_sets_too_large_for_memory_are_decoded_lazily_to_the_same_images(tmp_path, monkeypatch):
    root = write_folder(tmp_path)
    eager, _, _ = read_image_folder(root, image_size=4)
    for cached in cache_folder().iterdir():
        cached.unlink()
    monkeypatch.setattr(folders, "MEMORY_LIMIT_BYTES", 10)
    lazy, _, _ = read_image_folder(root, image_size=4)
    assert isinstance(eager, MemoryImages)
    assert isinstance(lazy, LazyImages)
    assert shades(lazy) == shades(eager)
    assert not list(cache_folder().iterdir())
    with pytest.raises(DataError, match=r"too many to keep decoded.*set data\.image_size"):
        read_image_folder(root, image_size=None)


def test_a_decoder_can_be_sent_to_another_process(tmp_path, monkeypatch):
    write_folder(tmp_path)
    zip_up(tmp_path, "train")
    monkeypatch.setattr(folders, "MEMORY_LIMIT_BYTES", 10)
    lazy, _, _ = read_image_folder(tmp_path, image_size=4)
    copy = pickle.loads(pickle.dumps(lazy._decode))
    assert int(copy(3, 4)[0, 0, 0]) == 111


def test_what_is_missing_or_broken_is_said(tmp_path):
    with pytest.raises(DataError, match=r"no train folder and no train\.zip"):
        read_image_folder(tmp_path, image_size=None)
    (tmp_path / "train.zip").write_bytes(b"PK no zip at all")
    with pytest.raises(DataError, match="no readable zip file"):
        read_image_folder(tmp_path, image_size=None)
    (tmp_path / "train.zip").unlink()
    (tmp_path / "train" / "cat").mkdir(parents=True)
    with pytest.raises(DataError, match="holds no images in class folders"):
        read_image_folder(tmp_path, image_size=None)


def test_a_broken_image_is_named_and_leaves_no_cache(tmp_path):
    root = write_folder(tmp_path)
    path = root / "train" / "dog" / "001.png"
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(DataError, match=r"dog/001\.png cannot be decoded"):
        read_image_folder(root, image_size=None)
    assert not cache_folder().exists() or not list(cache_folder().iterdir())


def test_a_class_that_only_the_test_images_have_is_refused(tmp_path):
    root = write_folder(write_folder(tmp_path), "test", classes=("cat", "yak"))
    with pytest.raises(DataError, match=r"classes that .* lacks: yak"):
        read_image_folder(root, image_size=None)
