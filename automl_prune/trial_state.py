"""The state of a running trial: where it is, what it asks, what its checkpoints carry."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from automl_prune.inner import InnerLoop, InnerResult

Phase = Literal["inner", "finetune"]


class TrialInterruptedError(Exception):
    """The trial was asked to stop; its checkpoint is written, and it can go on later."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialProgress:
    """Where a trial is."""

    phase: Phase
    step: int
    """Steps done in this phase."""
    total_steps: int
    """Steps of this phase."""
    fraction: float
    """Share of the whole trial's steps that is done."""
    loss: float
    macs_ratio: float
    """Expected MACs now, over dense MACs."""
    mean_ratio: float
    accuracy: float | None = None
    """Of the pruned model on ``select`` before its fine-tuning; None: not there yet."""
    """Mean keep ratio over groups."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialCheckpoint:
    """A trial's whole state between two steps; needs no pickle."""

    phase: Phase
    tensors: dict[str, Tensor]
    values: dict[str, Any]
    """JSON-able."""


class Checkpoints(Protocol):
    """Where a trial's checkpoints go; one place per original trial number."""

    def load(self) -> TrialCheckpoint | None:
        """The newest readable checkpoint, or None."""

    def due(self) -> bool:
        """Whether it is time to write one."""

    def save(self, checkpoint: TrialCheckpoint) -> None:
        """Write atomically; older ones may go."""


@dataclass(slots=True, kw_only=True)
class Watch:
    """What a running trial reports to and asks."""

    on_progress: Callable[[TrialProgress], None] | None
    checkpoints: Checkpoints | None
    should_stop: Callable[[], bool] | None

    def between_steps(self, make_checkpoint: Callable[[], TrialCheckpoint]) -> None:
        """Write a checkpoint if it is time; stop if that was asked for.

        Raises:
            TrialInterruptedError: somebody asked to stop; the checkpoint is written.
        """
        stop = self.should_stop is not None and self.should_stop()
        if self.checkpoints is not None and (stop or self.checkpoints.due()):
            self.checkpoints.save(make_checkpoint())
        if stop:
            raise TrialInterruptedError


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class InnerNotes:
    """What the later phases need to know of the inner loop; part of their checkpoints."""

    keep_U: Tensor
    final_ratios: tuple[float, ...]
    weight_steps: int
    ratio_step_count: int
    equivalence_error: float
    accuracy_before: float
    ratio_steps: tuple[int, ...]
    ratios: tuple[tuple[float, ...], ...]
    """Per group, over ``ratio_steps``."""
    macs_ratio: tuple[float, ...]
    search_loss: tuple[float, ...]
    inner_loss: tuple[tuple[int, float], ...]

    @property
    def mean_ratio(self) -> float:
        """Mean of the final keep ratios over groups."""
        return sum(self.final_ratios) / max(len(self.final_ratios), 1)

    @classmethod
    def from_loop(
        cls, loop: InnerLoop, result: InnerResult, error: float, before: float
    ) -> InnerNotes:
        """Of a loop that has run to its end."""
        return cls(
            keep_U=result.keep_U.cpu(),
            final_ratios=tuple(float(r) for r in result.ratios_G),
            weight_steps=result.weight_steps,
            ratio_step_count=result.num_ratio_steps,
            equivalence_error=error,
            accuracy_before=before,
            ratio_steps=result.ratio_steps,
            ratios=result.ratios,
            macs_ratio=result.macs_ratio,
            search_loss=result.search_loss,
            inner_loss=result.inner_loss,
        )

    def tensors(self) -> dict[str, Tensor]:
        """The part of a checkpoint that is tensors."""
        return {"keep_U": self.keep_U}

    def values(self) -> dict[str, object]:
        """The JSON-able part of a checkpoint."""
        fields = [name for name in self.__slots__ if name != "keep_U"]
        return {"notes": {name: getattr(self, name) for name in fields}}

    @classmethod
    def from_checkpoint(cls, saved: TrialCheckpoint) -> InnerNotes:
        """Inverse of :meth:`tensors` and :meth:`values`."""
        notes = saved.values["notes"]
        assert isinstance(notes, dict)
        fields: dict[str, Any] = {name: _tuples(value) for name, value in notes.items()}
        return cls(keep_U=saved.tensors["keep_U"].bool(), **fields)


def _tuples(value: object) -> object:
    """JSON turns tuples into lists; turn them back."""
    return tuple(_tuples(item) for item in value) if isinstance(value, list | tuple) else value


class PhaseClock:
    """Seconds per phase, going on where a checkpoint left off."""

    def __init__(self, seconds: object) -> None:
        self._seconds: dict[str, float] = dict(seconds) if isinstance(seconds, dict) else {}
        self._running: tuple[str, float] | None = None

    def phase(self, name: str) -> PhaseClock:
        """Use as ``with clock.phase("inner"):``."""
        self._running = (name, time.perf_counter())
        return self

    def __enter__(self) -> None:
        return None

    def __exit__(self, *_: object) -> None:
        self._seconds = self.seconds()
        self._running = None

    def seconds(self) -> dict[str, float]:
        """Seconds per phase so far, the running one included."""
        seconds = dict(self._seconds)
        if self._running is not None:
            name, since = self._running
            seconds[name] = seconds.get(name, 0.0) + time.perf_counter() - since
        return seconds
