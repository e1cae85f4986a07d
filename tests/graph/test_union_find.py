"""Classes of joined ids, against brute force."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from automl_prune.graph.union_find import UnionFind

COUNT = 8
PAIRS = st.lists(st.tuples(st.integers(0, COUNT - 1), st.integers(0, COUNT - 1)), max_size=12)


@given(PAIRS, st.sets(st.integers(0, COUNT - 1)))
def test_classes_and_reasons(pairs, fixed):
    book = UnionFind()
    ids = book.issue("layer", COUNT)
    classes = [{number} for number in range(COUNT)]
    half = len(pairs) // 2
    for position, (a, b) in enumerate(pairs):
        if position == half:
            for number in fixed:
                book.fix(torch.tensor([number]), "why")
        book.join(torch.tensor([a]), torch.tensor([b]))
        merged = classes[a] | classes[b]
        for number in merged:
            classes[number] = merged
    if not pairs:
        for number in fixed:
            book.fix(torch.tensor([number]), "why")
    assert book.roots(ids).tolist() == [min(classes[number]) for number in range(COUNT)]
    for number in range(COUNT):
        assert (book.reason(number) is not None) == bool(classes[number] & fixed)


def test_a_layer_has_the_same_ids_at_every_call():
    book = UnionFind()
    assert torch.equal(book.issue("a", 3), book.issue("a", 3))
    assert not set(book.issue("a", 3).tolist()) & set(book.issue("b", 3).tolist())
