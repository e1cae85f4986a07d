"""The inner loop of a trial: weights and keep ratios optimised alternately under dynamic masks."""

from automl_prune.inner.alternate import InnerLoop
from automl_prune.inner.loss import measure_cost_scale
from automl_prune.inner.notes import InnerProgress, InnerResult
from automl_prune.inner.rounding import project_to_budget, round_to_units

__all__ = [
    "InnerLoop",
    "InnerProgress",
    "InnerResult",
    "measure_cost_scale",
    "project_to_budget",
    "round_to_units",
]
