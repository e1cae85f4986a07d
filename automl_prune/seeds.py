"""Seeds derived from seeds: every random draw of a study is a function of its study file."""

from __future__ import annotations

import zlib

import numpy as np


def derive_seed(seed: int, *path: int | str) -> int:
    """A 63-bit seed for one purpose, e.g. ``derive_seed(trial_seed, "inner-batches", epoch)``.

    Streams of different paths are independent, and no state has to be carried from step to
    step: whoever knows seed and path can repeat the draw.
    """
    words = [zlib.crc32(part.encode()) if isinstance(part, str) else part for part in path]
    state = np.random.SeedSequence([seed, *words]).generate_state(1, np.uint64)
    return int(state[0] >> np.uint64(1))


def trial_seed(study_seed: int, original_number: int) -> int:
    """Seed of a trial; a retry has the seed of the trial that it repeats."""
    return derive_seed(study_seed, original_number)
