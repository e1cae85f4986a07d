"""Ids of channels as expanded tensors."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from automl_prune.graph.flow import along_dim, compressed, varying_dims


@given(st.lists(st.integers(1, 3), min_size=1, max_size=4), st.integers(0, 2**31))
def test_compressed_is_the_same_and_varies_where_it_should(shape, seed):
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(0, 2, shape, generator=generator)
    small = compressed(ids)
    assert torch.equal(small, ids)
    expected = [d for d in range(ids.dim()) if not bool((ids == ids.narrow(d, 0, 1)).all())]
    assert varying_dims(ids) == expected


def test_along_dim():
    ids = along_dim(torch.tensor([4, 7]), 1, torch.zeros(1, 2, 3, 3))
    assert ids.shape == (1, 2, 3, 3)
    assert ids[0, :, 2, 1].tolist() == [4, 7]
