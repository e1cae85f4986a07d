import itertools
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from automl_prune.config import DataConfig
from automl_prune.data import SPLITS, load_data
from automl_prune.errors import DataError, TrustError

MODULE = "my_load_module"

USER_MODULE = """
import torch

def numbered(n=60, channels=1, dtype="uint8", test_size=4):
    # image i is filled with i: a batch tells which images are in it
    dtype = getattr(torch, dtype)
    train = torch.arange(n).view(n, 1, 1, 1).expand(n, channels, 4, 4).to(dtype)
    test = torch.full((10, channels, test_size, 4), 250).to(dtype)
    return (train, torch.arange(n) % 3), (test, torch.arange(10) % 3)

def loss(logits, labels):
    return logits.sum()

def metric(logits, labels):
    return 12.5
"""


@pytest.fixture(autouse=True)
def user_module(tmp_path_factory, monkeypatch):
    folder = tmp_path_factory.mktemp("module")
    (folder / f"{MODULE}.py").write_text(USER_MODULE)
    monkeypatch.syspath_prepend(folder)
    yield
    sys.modules.pop(MODULE, None)


def numbered(seed=0, kwargs=None, **config):
    settings = {"mean": (0.0,), "std": (1 / 255,), "search_fraction": 0.2} | config
    source = DataConfig(source=f"{MODULE}:numbered", kwargs=kwargs or {}, **settings)
    return load_data(source, seed=seed, trusted=(MODULE,))


def numbers(images_BCHW):
    return [round(float(v)) for v in images_BCHW[:, 0, 0, 0]]


def take(data, split, count, **kwargs):
    settings = {"batch_size": 8, "seed": 1, "augment": False, "device": "cpu"} | kwargs
    return list(itertools.islice(data.stream(split, **settings), count))


def test_digits_have_four_splits_of_all_images():
    data = load_data(DataConfig(source="digits"), seed=0)
    assert data.input_shape == (1, 8, 8)
    assert data.num_classes == 10
    assert tuple(data.split_sizes) == SPLITS
    assert sum(data.split_sizes.values()) == 1797
    together = torch.cat([data.indices(split) for split in SPLITS])
    assert together.sort().values.tolist() == list(range(1797))
    for split in SPLITS:
        assert torch.bincount(data.labels(split), minlength=10).min() > 0


def test_no_image_of_one_split_comes_out_of_another():
    data = numbered()
    seen = {}
    for split in ("train", "search", "select"):
        batches = take(data, split, 40, augment=True)
        streamed = {n for images, _ in batches for n in numbers(images)}
        ordered = [
            n for x, _ in data.in_order(split, batch_size=7, device="cpu") for n in numbers(x)
        ]
        assert streamed <= set(ordered)
        assert ordered == data.indices(split).tolist()
        seen[split] = set(ordered)
    assert seen["train"] | seen["search"] | seen["select"] == set(range(60))
    assert sum(map(len, seen.values())) == 60
    (test_images, _), *_ = data.in_order("test", batch_size=20, device="cpu")
    assert numbers(test_images) == [250] * 10


def test_labels_belong_to_their_images():
    data = numbered()
    for images, labels in take(data, "train", 10):
        assert [n % 3 for n in numbers(images)] == labels.tolist()
    for images, labels in data.in_order("select", batch_size=4, device="cpu"):
        assert [n % 3 for n in numbers(images)] == labels.tolist()
        assert labels.dtype == torch.int64


@pytest.mark.parametrize("start", [0, 1, 5, 6, 23])
@pytest.mark.parametrize("augment", [False, True])
def test_a_stream_that_starts_at_k_goes_on_with_batch_k(start, augment):
    data = load_data(DataConfig(source="digits", augment="crop-flip"), seed=0)
    whole = take(data, "search", start + 3, batch_size=30, augment=augment)
    late = take(data, "search", 3, batch_size=30, augment=augment, start=start)
    for (images, labels), (late_images, late_labels) in zip(whole[start:], late, strict=True):
        assert torch.equal(images, late_images)
        assert torch.equal(labels, late_labels)


def test_seeds_and_splits_have_streams_of_their_own():
    data = numbered()
    first = numbers(take(data, "train", 1)[0][0])
    assert first == numbers(take(data, "train", 1)[0][0])
    assert first != numbers(take(data, "train", 1, seed=2)[0][0])


def test_augmentation_happens_where_asked_and_configured():
    config = DataConfig(source="digits", augment="crop")
    data = load_data(config, seed=0)
    plain, augmented = (take(data, "train", 1, augment=a)[0][0] for a in (False, True))
    assert plain.shape == augmented.shape
    assert not torch.equal(plain, augmented)
    none = load_data(config.model_copy(update={"augment": "none"}), seed=0)
    assert torch.equal(take(none, "train", 1, augment=True)[0][0], plain)


def test_batches_are_normalised_channels_last_floats():
    data = load_data(DataConfig(source="digits"), seed=0)
    images = torch.cat([x for x, _ in data.in_order("train", batch_size=100, device="cpu")])
    assert images.dtype == torch.float32
    assert abs(float(images.mean())) < 1e-3
    assert abs(float(images.std()) - 1) < 1e-3
    assert images[:100].is_contiguous(memory_format=torch.channels_last)


def test_colour_images_get_imagenets_numbers_and_floats_are_left_alone():
    colour = numbered(kwargs={"channels": 3}, mean=None, std=None)
    assert colour.mean == (0.485, 0.456, 0.406)
    assert colour.std == (0.229, 0.224, 0.225)
    floats = numbered(kwargs={"dtype": "float32"}, mean=None, std=None)
    assert (floats.mean, floats.std) == ((0.0,), (1.0,))
    assert numbers(take(floats, "train", 1)[0][0]) == numbers(take(numbered(), "train", 1)[0][0])


def test_a_split_smaller_than_a_batch_comes_whole():
    data = numbered()
    for images, _ in take(data, "select", 3, batch_size=1000):
        assert sorted(numbers(images)) == data.indices("select").tolist()


def test_a_limit_leaves_the_test_images_alone():
    data = numbered(limit=30)
    sizes = data.split_sizes
    assert sizes["train"] + sizes["search"] + sizes["select"] == 30
    assert sizes["test"] == 10


def test_held_out_test_images_do_not_depend_on_the_studys_seed():
    one, other = (load_data(DataConfig(source="digits"), seed=seed) for seed in (0, 1))
    assert torch.equal(one.indices("test"), other.indices("test"))
    assert not torch.equal(one.indices("select"), other.indices("select"))


def test_digest_says_whether_two_studies_see_the_same_data():
    digest = numbered().digest
    assert numbered().digest == digest
    for other in (
        numbered(seed=1),
        numbered(limit=50),
        numbered(kwargs={"n": 61}),
        numbered(std=(0.5,)),
        numbered(select_fraction=0.2),
    ):
        assert other.digest != digest
    assert numbered(augment="crop", batch_size=5).digest == digest


def test_the_users_loss_and_metric():
    data = numbered(loss=f"{MODULE}:loss", metric=f"{MODULE}:metric")
    assert data.loss(torch.ones(2, 3), torch.zeros(2)) == 6
    assert data.metric(torch.ones(2, 3), torch.zeros(2)) == 12.5
    assert numbered().metric is None
    with pytest.raises(TrustError):
        load_data(DataConfig(source="digits", loss=f"{MODULE}:loss"), seed=0)


def test_test_images_of_another_shape_are_refused():
    with pytest.raises(DataError, match=r"\(1, 4, 4\), test images \(1, 5, 4\)"):
        numbered(kwargs={"test_size": 5})


def test_a_mean_for_another_number_of_channels_is_refused():
    with pytest.raises(DataError, match=r"data\.mean has 1 numbers, the images have 3 channels"):
        numbered(kwargs={"channels": 3})


def test_lazily_decoded_images_stream_and_resume(tmp_path, monkeypatch):
    monkeypatch.setattr("automl_prune.data.folders.MEMORY_LIMIT_BYTES", 10)
    rng = np.random.default_rng(0)
    for name in ("cat", "dog"):
        (tmp_path / "train" / name).mkdir(parents=True)
        for index in range(8):
            pixels = rng.integers(0, 256, (20 + index, 30, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "train" / name / f"{index}.png")
    config = DataConfig(
        source="image-folder", root=str(tmp_path), image_size=16, augment="crop-flip"
    )
    data = load_data(config, seed=0)
    whole = take(data, "train", 6, batch_size=3, augment=True)
    late = take(data, "train", 2, batch_size=3, augment=True, start=4)
    assert whole[0][0].shape == (3, 3, 16, 16)
    for (images, labels), (late_images, late_labels) in zip(whole[4:], late, strict=True):
        assert torch.equal(images, late_images)
        assert torch.equal(labels, late_labels)
