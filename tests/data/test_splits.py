import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from automl_prune.data.splits import hold_out_test, split_training_images
from automl_prune.errors import DataError

NAMES = ("a", "b", "c", "d")
CLASS_SIZES = st.lists(st.integers(3, 60), min_size=1, max_size=4)
FRACTION = st.floats(0.05, 0.44)


def labels_of(sizes, shuffle_seed=0):
    labels = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(shuffle_seed))
    return labels[order]


def split(labels, *, search=0.1, select=0.1, limit=None, seed=0):
    return split_training_images(
        labels,
        NAMES,
        search_fraction=search,
        select_fraction=select,
        limit=limit,
        seed=seed,
    )


@given(CLASS_SIZES, FRACTION, FRACTION, st.integers(0, 2**31))
def test_splits_are_disjoint_and_cover_every_image(sizes, search, select, seed):
    labels = labels_of(sizes)
    parts = split(labels, search=search, select=select, seed=seed)
    together = torch.cat([parts.train, parts.search, parts.select])
    assert together.sort().values.tolist() == list(range(len(labels)))


@given(CLASS_SIZES, FRACTION, FRACTION)
def test_every_class_is_divided_in_proportion(sizes, search, select):
    labels = labels_of(sizes)
    parts = split(labels, search=search, select=select)
    for label, size in enumerate(sizes):
        counts = [int((labels[p] == label).sum()) for p in (parts.search, parts.select)]
        left = int((labels[parts.train] == label).sum())
        assert min(*counts, left) >= 1
        if left > 1:  # else the class is too small to follow the fractions
            for count, fraction in zip(counts, (search, select), strict=True):
                assert abs(count - max(1, fraction * size)) <= 1


def test_the_seed_decides_and_nothing_else():
    labels = labels_of([50, 50])
    one, again, other = split(labels, seed=1), split(labels, seed=1), split(labels, seed=2)
    assert torch.equal(one.select, again.select)
    assert not torch.equal(one.select, other.select)


@given(CLASS_SIZES, st.floats(0.3, 1.0))
def test_a_limit_takes_so_many_images_in_proportion(sizes, share):
    limit = round(share * sum(sizes))
    labels = labels_of(sizes)
    try:
        parts = split(labels, limit=limit)
    except DataError:
        assert min(int(size * limit / sum(sizes)) for size in sizes) < 3
        return
    together = torch.cat([parts.train, parts.search, parts.select])
    assert len(together) == len(together.unique()) == limit
    for label, size in enumerate(sizes):
        assert abs(int((labels[together] == label).sum()) - size * limit / sum(sizes)) < 1


def test_a_limit_beyond_the_set_changes_nothing():
    labels = labels_of([20, 20])
    assert torch.equal(split(labels, limit=41).train, split(labels).train)


@pytest.mark.parametrize("size", [1, 2])
def test_a_class_with_too_few_images_is_named(size):
    with pytest.raises(DataError, match=rf"class 'b' has {size} training image"):
        split(labels_of([30, size, 30]))
    with pytest.raises(DataError, match=r"class '\w' has .*raise data\.limit"):
        split(labels_of([30, 30]), limit=4)


def test_a_class_that_never_occurs_is_passed_over():
    labels = torch.tensor([0, 2] * 10)
    parts = split(labels)
    assert len(parts.train) + len(parts.search) + len(parts.select) == 20


@given(CLASS_SIZES)
def test_held_out_images_are_a_fifth_of_each_class(sizes):
    labels = labels_of(sizes)
    rest, test = hold_out_test(labels, len(sizes))
    assert torch.cat([rest, test]).sort().values.tolist() == list(range(len(labels)))
    for label, size in enumerate(sizes):
        assert int((labels[test] == label).sum()) == round(size * 0.2)
