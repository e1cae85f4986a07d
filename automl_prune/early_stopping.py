"""Early stopping of a trial with two objectives, accuracy and MACs.

Once its channels are removed, a trial's MACs are final and only its accuracy moves. So at a few
*rungs* of the fine-tuning its accuracy is compared with what finished trials of at most as many
MACs had at the same rung: a trial that enough of them beat by a margin will not be on the front.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

RUNG_SHARES = (0.0, 0.25, 0.5)
"""Shares of the fine-tuning after which a trial is looked at. The first costs nothing: there the
accuracy is measured anyway."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rung:
    """A trial at one of its rungs."""

    number: int
    """0 for the first of ``RUNG_SHARES``."""
    step: int
    """Fine-tuning steps done."""
    accuracy: float
    """Percent, on ``select``."""
    macs: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """When a trial is stopped."""

    dominators: int
    """Finished trials with at most as many MACs that must have been ahead at the same rung."""
    margin: float
    """By so many points of accuracy."""


RULES = {
    "cautious": Rule(dominators=3, margin=5.0),
    "keen": Rule(dominators=1, margin=2.0),
}
"""By ``search.early_stopping``; docs/benchmarks.md has what they save and what they cost."""


def rung_steps(total_steps: int, spacing: int) -> dict[int, int]:
    """Fine-tuning step of every rung -> its number.

    Args:
        total_steps: of the fine-tuning; a rung at its end would save nothing and is left out.
        spacing: rungs lie at multiples of so many steps, where a trial can be interrupted.
    """
    steps: dict[int, int] = {}
    for number, share in enumerate(RUNG_SHARES):
        step = round(share * total_steps / spacing) * spacing
        if step < total_steps:
            steps.setdefault(step, number)
    return steps


def is_hopeless(rung: Rung, finished: Iterable[tuple[float, int]], rule: Rule) -> bool:
    """Whether a trial should stop here.

    Args:
        rung: of the trial.
        finished: (accuracy at the same rung, MACs) of every finished trial.
        rule: how sure to be.
    """
    ahead = sum(
        macs <= rung.macs and accuracy >= rung.accuracy + rule.margin
        for accuracy, macs in finished
    )
    return ahead >= rule.dominators
