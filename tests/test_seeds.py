from hypothesis import given
from hypothesis import strategies as st

from automl_prune.seeds import derive_seed, trial_seed

PATHS = st.lists(st.one_of(st.integers(0, 2**31), st.text(max_size=12)), max_size=4)


@given(st.integers(0, 2**63 - 1), PATHS)
def test_seed_is_a_function_of_its_arguments_and_fits_torch(seed, path):
    first = derive_seed(seed, *path)
    assert first == derive_seed(seed, *path)
    assert 0 <= first < 2**63


def test_streams_of_neighbours_differ():
    seeds = {derive_seed(s, "purpose", n) for s in range(30) for n in range(30)}
    seeds |= {derive_seed(s, "other purpose", n) for s in range(30) for n in range(30)}
    assert len(seeds) == 2 * 30 * 30


def test_known_values_stay():
    """A changed value would silently change every stored study's trials."""
    assert derive_seed(0) == KNOWN[()]
    assert derive_seed(7, "step", 12) == KNOWN[(7, "step", 12)]
    assert trial_seed(0, 5) == KNOWN[(0, 5)]


def test_neighbouring_studies_do_not_share_trial_seeds():
    first = {trial_seed(0, number) for number in range(100)}
    second = {trial_seed(1, number) for number in range(100)}
    assert not first & second


KNOWN = {
    (): 7896617691693857887,
    (7, "step", 12): 6503950345725233674,
    (0, 5): 6102389744414414618,
}
