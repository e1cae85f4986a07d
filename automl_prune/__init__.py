"""Find the accuracy-against-FLOPs front of channel-pruned networks.

Importing this package loads neither torch nor optuna; ``load_pruned`` loads torch when called.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from automl_prune.modelfile import load_pruned

__version__ = "0.1.0"
__all__ = ["__version__", "load_pruned"]


def __getattr__(name: str) -> object:
    if name == "load_pruned":
        from automl_prune.modelfile import load_pruned

        return load_pruned
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
