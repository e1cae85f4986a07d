import pytest
import torch

from automl_prune.data import images as images_module
from automl_prune.data.images import LazyImages, MemoryImages

CPU = torch.device("cpu")


def square(index, size):
    """A picture that knows its number and how large it was asked to be."""
    return torch.full((size, size, 3), index % 251, dtype=torch.uint8)


def lazy(num_images=20, size=28):
    return LazyImages(square, torch.arange(num_images), channels=3, size=size, checksum="x")


def test_memory_images_come_by_index_and_with_a_margin_of_zeros():
    pixels = torch.randint(1, 256, (10, 16, 12, 3), dtype=torch.uint8)
    images = MemoryImages(pixels, torch.arange(10))
    assert images.image_shape == (3, 16, 12)
    wanted = [torch.tensor([3, 1]), torch.tensor([9])]
    plain = list(images.batches(wanted, device=CPU, margin=False))
    assert torch.equal(plain[0], pixels[[3, 1]])
    assert torch.equal(plain[1], pixels[[9]])
    padded = next(images.batches(wanted, device=CPU, margin=True))
    assert padded.shape == (2, 20, 16, 3), "an eighth of the height on every side"
    assert torch.equal(padded[:, 2:-2, 2:-2], pixels[[3, 1]])
    assert int((padded == 0).sum()) == padded.numel() - pixels[[3, 1]].numel()


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_mean_and_std_are_those_of_the_chosen_pixels(dtype):
    pixels = torch.randint(0, 256, (30, 5, 4, 3), dtype=torch.uint8).to(dtype)
    mean, std = MemoryImages(pixels, torch.zeros(30)).mean_and_std(torch.arange(0, 30, 2))
    chosen = pixels[::2].double().flatten(0, -2) / (255.0 if dtype == torch.uint8 else 1.0)
    torch.testing.assert_close(mean, chosen.mean(0), check_dtype=False, rtol=1e-6, atol=1e-6)
    expected = chosen.std(0, correction=0)
    torch.testing.assert_close(std, expected, check_dtype=False, rtol=1e-6, atol=1e-6)


def test_checksum_sees_every_pixel():
    pixels = torch.randint(0, 256, (10, 4, 4, 1), dtype=torch.uint8)
    changed = pixels.clone()
    changed[7, 2, 3] += 1
    labels = torch.zeros(10)
    one = MemoryImages(pixels, labels).checksum()
    assert one == MemoryImages(pixels.clone(), labels).checksum()
    assert one != MemoryImages(changed, labels).checksum()


def test_lazy_images_are_decoded_larger_for_a_margin():
    images = lazy(size=28)
    wanted = [torch.tensor([5, 2]), torch.tensor([19])]
    plain = list(images.batches(iter(wanted), device=CPU, margin=False))
    assert [batch[:, 0, 0, 0].tolist() for batch in plain] == [[5, 2], [19]]
    assert plain[0].shape == (2, 28, 28, 3)
    assert next(images.batches(wanted, device=CPU, margin=True)).shape == (2, 32, 32, 3)


def test_lazy_images_are_decoded_by_other_processes_in_order(monkeypatch):
    monkeypatch.setattr(images_module, "_FEW_IMAGES", 1)
    monkeypatch.setattr(images_module, "_MAX_PROCESSES", 2)
    wanted = list(torch.arange(20).split(3))
    found = [b[:, 0, 0, 0].tolist() for b in lazy().batches(wanted, device=CPU, margin=False)]
    assert found == [w.tolist() for w in wanted]
