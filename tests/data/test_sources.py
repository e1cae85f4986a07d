import gzip
import pickle
import struct
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits

from automl_prune.config import DataConfig
from automl_prune.data import sources
from automl_prune.data.images import LazyImages, MemoryImages
from automl_prune.data.sources import open_source
from automl_prune.errors import ConfigError, DataError, TrustError

CPU = torch.device("cpu")
MODULE = "my_sources_module"

USER_MODULE = """
import numpy as np
import torch
from PIL import Image
from torch.utils.data import Dataset

def tensors(dtype="uint8", n=12):
    images = torch.arange(n * 2 * 4 * 4).view(n, 2, 4, 4) % 256
    labels = torch.arange(n) % 3
    images = images.to(getattr(torch, dtype))
    return (images, labels), (images[:3], labels[:3])

def arrays():
    return (np.full((6, 4, 4), 7, np.uint8), [0, 1] * 3), None

class Pictures(Dataset):
    classes = ["ant", "bee"]
    def __init__(self, sizes, mode="RGB"):
        self.sizes, self.mode = sizes, mode
        self.targets = [i % 2 for i in range(len(sizes))]
    def __len__(self):
        return len(self.sizes)
    def __getitem__(self, i):
        size = self.sizes[i]
        shade = 40 if self.mode == "L" else (40 + i, 0, 0)
        return Image.new(self.mode, (size, size), shade), i % 2

class Floats(Dataset):
    def __len__(self):
        return 5
    def __getitem__(self, i):
        return torch.full((1, 4, 4), i / 8.0), i % 2

def pictures(sizes=(4, 4, 4, 4), mode="RGB"):
    return Pictures(list(sizes), mode), None

def floats():
    return Floats(), Floats()

def failing():
    raise OSError("disk on fire")

def one():
    return Floats()

def mismatched():
    return (torch.zeros(3, 4, 4, dtype=torch.uint8), [0, 1]), None

def negative():
    return (torch.zeros(2, 4, 4, dtype=torch.uint8), [0, -1]), None

def integers():
    return (torch.zeros(2, 4, 4, dtype=torch.int64), [0, 1]), None

def iterable():
    return iter([1, 2]), None
"""


@pytest.fixture(autouse=True)
def user_module(tmp_path_factory, monkeypatch):
    folder = tmp_path_factory.mktemp("module")
    (folder / f"{MODULE}.py").write_text(USER_MODULE)
    monkeypatch.syspath_prepend(folder)
    yield
    sys.modules.pop(MODULE, None)


def open_user(name, **config):
    return open_source(DataConfig(source=f"{MODULE}:{name}", **config), (MODULE,))


def pixels(images):
    """(N, H, W, C), all of them."""
    everything = [torch.arange(len(images.labels))]
    return next(images.batches(everything, device=CPU, margin=False))


def test_digits_are_scikit_learns_in_255_steps():
    source = open_source(DataConfig(source="digits"))
    bunch = load_digits()
    assert source.test is None
    assert source.class_names == tuple("0123456789")
    assert source.train.labels.tolist() == bunch.target.tolist()
    found = pixels(source.train)[..., 0].double() / 255 * 16
    assert np.abs(found.numpy() - bunch.images).max() <= 16 / 255 / 2


def test_digits_can_be_resized():
    source = open_source(DataConfig(source="digits", image_size=16))
    assert source.train.image_shape == (1, 16, 16)
    assert pixels(source.train).dtype == torch.uint8


def write_idx(path, array):
    magic = 0x0800 + array.ndim
    path.write_bytes(struct.pack(f">I{array.ndim}I", magic, *array.shape) + array.tobytes())


@pytest.fixture
def fashion_mnist(tmp_path):
    raw = tmp_path / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for part, count in (("train", 40), ("t10k", 10)):
        images = rng.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        write_idx(raw / f"{part}-images-idx3-ubyte", images)
        write_idx(raw / f"{part}-labels-idx1-ubyte", (np.arange(count) % 10).astype(np.uint8))
    return tmp_path


@pytest.mark.parametrize("inside", ["", "FashionMNIST", "FashionMNIST/raw"])
def test_fashion_mnist_is_found_from_every_level_of_its_folder(fashion_mnist, inside):
    root = str(fashion_mnist / inside)
    source = open_source(DataConfig(source="fashion-mnist", root=root))
    assert source.train.image_shape == (1, 28, 28)
    assert (len(source.train.labels), len(source.test.labels)) == (40, 10)
    assert source.class_names[9] == "Ankle boot"
    expected = np.random.default_rng(0).integers(0, 256, (40, 28, 28), dtype=np.uint8)
    assert torch.equal(pixels(source.train)[..., 0], torch.from_numpy(expected))


def test_torchvision_sets_are_found_by_name(fashion_mnist):
    by_path = DataConfig(source="torchvision.datasets:FashionMNIST", root=str(fashion_mnist))
    by_name = DataConfig(source="fashion-mnist", root=str(fashion_mnist))
    assert open_source(by_path).train.checksum() == open_source(by_name).train.checksum()


def test_a_torchvision_set_without_files_works_too():
    config = DataConfig(source="torchvision.datasets:FakeData", kwargs={"size": 6}, image_size=8)
    source = open_source(config)
    assert source.test is None
    assert source.train.image_shape == (3, 8, 8)


def test_cifar_is_read_from_its_pickled_batches(tmp_path, monkeypatch):
    """The checksums of the real files are left out, all else is torchvision's own reader."""
    from torchvision.datasets import CIFAR10

    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    rng = np.random.default_rng(1)
    data = rng.integers(0, 256, (4, 3 * 32 * 32), dtype=np.uint8)
    for name, _ in CIFAR10.train_list + CIFAR10.test_list:
        (folder / name).write_bytes(pickle.dumps({"data": data, "labels": [0, 1, 2, 9]}))
    names = [f"class {n}" for n in range(10)]
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": names}))
    monkeypatch.setattr("torchvision.datasets.cifar.check_integrity", lambda *_: True)
    for root in (tmp_path, folder):
        source = open_source(DataConfig(source="cifar10", root=str(root)))
        assert source.train.image_shape == (3, 32, 32)
        assert len(source.train.labels) == 20
        expected = torch.from_numpy(data).view(4, 3, 32, 32).permute(0, 2, 3, 1)
        assert torch.equal(pixels(source.test), expected)
        assert source.class_names[3] == "class 3"


def test_the_users_tensors_and_arrays():
    source = open_user("tensors", kwargs={"n": 9})
    assert source.train.image_shape == (2, 4, 4)
    assert not source.train.is_float
    assert pixels(source.train)[0, 1, 2].tolist() == [6, 22], "channels last, values as given"
    assert source.class_names == ("0", "1", "2")
    assert open_user("tensors", kwargs={"dtype": "float64"}).train.is_float
    grey = open_user("arrays")
    assert grey.test is None
    assert grey.train.image_shape == (1, 4, 4)


@pytest.mark.parametrize(("mode", "channels"), [("RGB", 3), ("L", 1)])
def test_the_users_pictures(mode, channels):
    source = open_user("pictures", kwargs={"mode": mode})
    assert source.train.image_shape == (channels, 4, 4)
    assert source.class_names == ("ant", "bee")
    assert source.train.labels.tolist() == [0, 1, 0, 1]


def test_the_users_floats_are_taken_as_they_are():
    source = open_user("floats")
    assert source.train.is_float
    assert pixels(source.train)[3, 0, 0, 0] == 3 / 8


def test_pictures_of_several_sizes_need_an_image_size():
    with pytest.raises(DataError, match=r"image 1 has shape \(5, 5, 3\).*set data\.image_size"):
        open_user("pictures", kwargs={"sizes": [4, 5]})
    source = open_user("pictures", kwargs={"sizes": [4, 5]}, image_size=4)
    assert pixels(source.train)[:, 0, 0, 0].tolist() == [40, 41]


def test_a_set_too_large_for_memory_stays_where_it_is(monkeypatch):
    eager = open_user("pictures", image_size=8)
    monkeypatch.setattr(sources, "MEMORY_LIMIT_BYTES", 100)
    lazy = open_user("pictures", image_size=8)
    assert isinstance(eager.train, MemoryImages)
    assert isinstance(lazy.train, LazyImages)
    assert torch.equal(pixels(eager.train), pixels(lazy.train))
    with pytest.raises(DataError, match=r"set data\.image_size"):
        open_user("pictures")
    monkeypatch.setattr(sources, "MEMORY_LIMIT_BYTES", 10)
    with pytest.raises(DataError, match="none of the attributes targets"):
        open_user("floats", image_size=4)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("failing", "failed: OSError: disk on fire; check data.kwargs"),
        ("one", r"returned Floats; it must return the pair \(train, test\)"),
        ("mismatched", r"\(3, 1, 4, 4\) and 2 labels do not go together"),
        ("negative", "labels must be whole numbers from 0"),
        ("integers", r"dtype torch\.int64; give bytes \(uint8\) or floats"),
        ("iterable", "no map-style data set"),
    ],
)
def test_unfit_user_functions_are_refused(name, message):
    with pytest.raises(DataError, match=message):
        open_user(name)


def test_the_users_function_needs_trust():
    with pytest.raises(TrustError, match=f"--trust {MODULE}"):
        open_source(DataConfig(source=f"{MODULE}:floats"))


@pytest.mark.parametrize("source", ["fashion-mnist", "cifar10", "cifar100"])
def test_missing_sets_say_how_to_get_them(tmp_path, source):
    with pytest.raises(DataError, match=r"torchvision\.datasets\.\w+\(FOLDER, download=True\)"):
        open_source(DataConfig(source=source, root=str(tmp_path)))


def test_corrupt_sets_are_refused(fashion_mnist):
    path = fashion_mnist / "FashionMNIST" / "raw" / "train-images-idx3-ubyte"
    for content in (path.read_bytes()[:1000], b"", gzip.compress(b"x")):
        path.write_bytes(content)
        with pytest.raises(DataError, match=r"FashionMNIST cannot be read from data\.root"):
            open_source(DataConfig(source="fashion-mnist", root=str(fashion_mnist)))


def test_an_absent_or_missing_root_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"'cifar10' needs a folder.*--set data\.root=FOLDER"):
        open_source(DataConfig(source="cifar10"))
    with pytest.raises(DataError, match=r"folder '.*absent' does not exist"):
        open_source(DataConfig(source="image-folder", root=str(tmp_path / "absent")))


def test_unknown_names_and_arguments_are_refused():
    with pytest.raises(ConfigError, match=r"found 'svhn'; allowed: digits, fashion-mnist"):
        open_source(DataConfig(source="svhn"))
    with pytest.raises(ConfigError, match=r"found shuffle, but 'digits' takes none"):
        open_source(DataConfig(source="digits", kwargs={"shuffle": True}))


def test_imagenet_is_an_image_folder_of_224_pixels(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for part in ("train", "val"):
        (tmp_path / part / "n01440764").mkdir(parents=True)
        Image.new("RGB", (300, 250), (9, 9, 9)).save(tmp_path / part / "n01440764" / "a.JPEG")
    source = open_source(DataConfig(source="imagenet", root=str(tmp_path)))
    assert source.train.image_shape == source.test.image_shape == (3, 224, 224)
    assert source.class_names == ("n01440764",)
