import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from automl_prune.data.batches import crop_and_flip, normalise, shuffled_positions


def take(count, **kwargs):
    return list(itertools.islice(shuffled_positions(**kwargs), count))


@given(st.integers(1, 40), st.integers(1, 50), st.integers(0, 2**40))
def test_an_epoch_has_no_image_twice_and_drops_less_than_a_batch(num_images, batch_size, seed):
    per_epoch = max(1, num_images // batch_size)
    epoch = torch.cat(
        take(per_epoch, num_images=num_images, batch_size=batch_size, seed=seed, start=0)
    )
    assert len(epoch.unique()) == len(epoch)
    assert num_images - len(epoch) < batch_size
    assert 0 <= int(epoch.min()) <= int(epoch.max()) < num_images


@given(st.integers(1, 40), st.integers(1, 50), st.integers(0, 30))
def test_a_stream_that_starts_late_gives_the_same_batches(num_images, batch_size, start):
    common = {"num_images": num_images, "batch_size": batch_size, "seed": 7}
    whole = take(start + 5, start=0, **common)
    late = take(5, start=start, **common)
    assert all(torch.equal(a, b) for a, b in zip(whole[start:], late, strict=True))


def test_epochs_differ_in_order():
    first, second = take(2, num_images=50, batch_size=50, seed=1, start=0)
    assert not torch.equal(first, second)
    assert torch.equal(first.sort().values, second.sort().values)


def numbered_images(batch=64, height=10, width=9, channels=3):
    """Every pixel of a batch has its own value."""
    count = batch * height * width * channels
    return torch.arange(count, dtype=torch.float64).view(batch, height, width, channels)


@pytest.mark.parametrize("flip", [False, True])
def test_every_result_is_a_window_of_its_own_image(flip):
    images = numbered_images()
    crops = crop_and_flip(images, height=8, width=6, flip=flip, seed=3)
    assert crops.shape == (64, 8, 6, 3)
    seen = set()
    for image, crop in zip(images, crops, strict=True):
        windows = {
            (top, left, mirrored): window.flip(1) if mirrored else window
            for top, left, mirrored in itertools.product(range(3), range(4), (False, True))
            for window in [image[top : top + 8, left : left + 6]]
        }
        matches = [key for key, window in windows.items() if torch.equal(window, crop)]
        assert len(matches) == 1
        seen.add(matches[0])
    assert {top for top, _, _ in seen} == {0, 1, 2}
    assert {left for _, left, _ in seen} == {0, 1, 2, 3}
    assert {mirrored for _, _, mirrored in seen} == ({False, True} if flip else {False})


def test_a_window_as_large_as_the_image_without_flip_changes_nothing():
    images = numbered_images().to(torch.float32)
    assert torch.equal(crop_and_flip(images, height=10, width=9, flip=False, seed=1), images)


def test_augmentation_is_a_function_of_its_seed_and_keeps_bytes_bytes():
    images = torch.randint(0, 256, (16, 10, 10, 1), dtype=torch.uint8)
    one, again, other = (
        crop_and_flip(images, height=8, width=8, flip=True, seed=seed) for seed in (1, 1, 2)
    )
    assert one.dtype == torch.uint8
    assert torch.equal(one, again)
    assert not torch.equal(one, other)


def test_normalisation_scales_and_shifts_per_channel_into_channels_last():
    images = torch.randint(0, 256, (4, 5, 6, 3), dtype=torch.uint8)
    scale, shift = torch.tensor([1.0, 2.0, 3.0]), torch.tensor([0.5, 0.0, -1.0])
    result = normalise(images, scale, shift)
    assert result.dtype == torch.float32
    assert result.is_contiguous(memory_format=torch.channels_last)
    expected = images.permute(0, 3, 1, 2).float() * scale[:, None, None] + shift[:, None, None]
    torch.testing.assert_close(result, expected)


def test_normalisation_leaves_float_images_as_they_were():
    images = torch.rand(2, 3, 3, 1)
    before = images.clone()
    normalise(images, torch.tensor([2.0]), torch.tensor([1.0]))
    assert torch.equal(images, before)
