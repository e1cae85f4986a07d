"""Which channels belong together, and what they cost."""

from automl_prune.graph.cost import CostModel, count_macs, count_params
from automl_prune.graph.groups import FIXED, CouplingGraph, Fixed, Group, Layer
from automl_prune.graph.trace import trace_coupling

__all__ = [
    "FIXED",
    "CostModel",
    "CouplingGraph",
    "Fixed",
    "Group",
    "Layer",
    "count_macs",
    "count_params",
    "trace_coupling",
]
