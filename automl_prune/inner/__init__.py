"""The inner loop of a trial: weights and keep ratios optimised alternately under dynamic masks."""

from automl_prune.inner.alternate import InnerLoop
from automl_prune.inner.notes import InnerProgress, InnerResult
from automl_prune.inner.rounding import project_to_budget, round_to_units
from automl_prune.inner.scale import measure_cost_scale

__all__ = [
    "InnerLoop",
    "InnerProgress",
    "InnerResult",
    "measure_cost_scale",
    "project_to_budget",
    "round_to_units",
]
