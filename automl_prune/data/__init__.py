"""Data sets: four splits, batches on the device, built-in and user's own sources."""

from automl_prune.data.load import Data, load_data
from automl_prune.data.splits import SPLITS, Split

__all__ = ["SPLITS", "Data", "Split", "load_data"]
