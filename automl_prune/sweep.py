"""Proposals without a model of the past: λ sweeps its range, ratios start where λ leads.

A sweep goes from large models to small ones in rounds, so that every trial can start from one
that is a little larger (:mod:`automl_prune.parents`); each round passes between the places of the
earlier ones.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from automl_prune.config import expected_macs_ratio
from automl_prune.space import RATIO_PREFIX, TRADE_OFF

if TYPE_CHECKING:
    from collections.abc import Mapping

    from automl_prune.space import Space

ROUND = 8
"""Trials of a round, as nearly as whole rounds allow."""
_GOLDEN = (math.sqrt(5.0) - 1.0) / 2.0


def swept_trade_off(space: Space, index: int, planned: int) -> float:
    """λ of a search trial.

    Args:
        space: of the study.
        index: of the trial among the search trials, from 0; may go beyond ``planned``.
        planned: search trials that the study was made for.
    """
    rounds = max(1, round(planned / ROUND))
    length = max(1, math.ceil(planned / rounds))
    done, place = divmod(index, length)
    fraction = (place + (0.5 + done * _GOLDEN) % 1.0) / length
    low, high = space.useful_trade_offs
    trade_off: float = low * (high / low) ** fraction
    return min(max(trade_off, low), high)


def swept_ratios(
    space: Space, trade_off: float, kept: Mapping[str, float], macs_ratio: float
) -> dict[str, float]:
    """Starting keep ratios: those of the parent, all scaled by one factor.

    Args:
        space: of the study.
        trade_off: λ.
        kept: kept share of every group in the parent; groups left out are whole.
        macs_ratio: MACs of the parent over those of the dense model.
    """
    # MACs go with the square of the width
    shrink = min(1.0, math.sqrt(expected_macs_ratio(trade_off) / macs_ratio))
    ratios = dict(space.held)
    for name, allowed in space.ranges.items():
        if name != TRADE_OFF:
            group = name.removeprefix(RATIO_PREFIX)
            ratios[group] = min(max(kept.get(group, 1.0) * shrink, allowed.low), allowed.high)
    return ratios
