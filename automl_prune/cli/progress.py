"""How a search looks while it runs: bars on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

from automl_prune.cli.screens import duration, say

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from rich.progress import Progress, ProgressColumn, TaskID

    from automl_prune.search import SearchEvent

PLAIN_EVERY_S = 30.0
"""Seconds between two lines of a running trial where there is no terminal."""


class Display(Protocol):
    """What shows a search."""

    def dense(self, step: int, total_steps: int, loss: float) -> None:
        """The dense model made a step of its training."""

    def event(self, event: SearchEvent) -> None:
        """Something happened in the search."""


@contextmanager
def search_display(target: int, finished: int, *, title: str = "dense model") -> Iterator[Display]:
    """Bars on a terminal, plain lines elsewhere, for as long as the context lasts.

    Args:
        target: finished trials that the study shall have.
        finished: those that it has.
        title: of a training that is no trial.
    """
    if not sys.stdout.isatty():
        yield PlainLines(target, finished, title)
        return
    from rich.progress import Progress

    progress = Progress(*columns())
    with progress:
        yield Bars(progress, target, finished, title)


def columns() -> list[ProgressColumn]:
    """What a bar shows, left to right."""
    from rich.progress import BarColumn, TextColumn, TimeElapsedColumn

    return [
        TextColumn("{task.description}"),
        BarColumn(bar_width=30),
        TextColumn("{task.percentage:>3.0f}%"),
        TimeElapsedColumn(),
        TextColumn("{task.fields[note]}"),
    ]


@contextmanager
def step_display(title: str, total_steps: int) -> Iterator[Callable[[int, float], None]]:
    """One bar, or a line now and then, for a training that is no search.

    Yields:
        What to call with (steps done, loss).
    """
    with search_display(1, 0, title=title) as display:
        yield lambda step, loss: display.dense(step, total_steps, loss)


def trial_line(event: object, dense_macs: int | None = None) -> str | None:
    """One line for an event that is worth one, else None."""
    from automl_prune.search import TrialFailed, TrialFinished

    if isinstance(event, TrialFinished):
        record = event.record
        share = f" ({record.macs / dense_macs:.1%} of dense)" if dense_macs else ""
        return (
            f"trial {event.assignment.number:>3} {record.kind:<8} accuracy {record.accuracy:6.2f}"
            f"  MACs {record.macs:,}{share}  {duration(sum(record.phase_s.values()))}"
            f"{'  stopped early' if record.state == 'pruned' else ''}"
        )
    if isinstance(event, TrialFailed):
        return f"trial {event.assignment.number:>3} failed: {event.failure.error}"
    return None


class Clock:
    """Time left of a search, from the trials that ended in this call."""

    def __init__(self, target: int, finished: int) -> None:
        self.target = target
        self.finished = finished
        self._at_start = finished
        self._since = time.monotonic()

    def left(self, fraction: float = 0.0) -> str:
        """Time left, with the running trial at ``fraction``."""
        done = self.finished - self._at_start + fraction
        if done < 0.05:
            return ""
        each_s = (time.monotonic() - self._since) / done
        return f"about {duration(each_s * max(self.target - self.finished - fraction, 0))} left"

    def restart(self) -> None:
        """Count from now: what came before was no trial."""
        if self.finished == self._at_start:
            self._since = time.monotonic()


class PlainLines:
    """One line per finished trial, and one in a while from inside a long one."""

    def __init__(self, target: int, finished: int, title: str = "dense model") -> None:
        self._clock = Clock(target, finished)
        self._title = title
        self._last_line = time.monotonic()
        self._number = 0

    def dense(self, step: int, total_steps: int, loss: float) -> None:
        """Every now and then a line."""
        if self._due() or step == total_steps:
            say(f"{self._title}: step {step}/{total_steps}, loss {loss:.3f}")

    def event(self, event: SearchEvent) -> None:
        """A line per finished trial."""
        from automl_prune.search import TrialFinished, TrialMoved, TrialStarted

        if isinstance(event, TrialStarted):
            self._number = event.assignment.number
            self._clock.restart()
        elif isinstance(event, TrialMoved):
            moved = event.progress
            if self._due():
                say(
                    f"trial {self._number:>3} {moved.phase} {moved.step}/{moved.total_steps}: "
                    f"loss {moved.loss:.3f}, keep ratio {moved.mean_ratio:.2f}, "
                    f"MACs {moved.macs_ratio:.1%}, {self._clock.left(moved.fraction)}"
                )
        elif line := trial_line(event):
            if isinstance(event, TrialFinished):
                self._clock.finished = event.finished
                line += f"  [{event.finished}/{self._clock.target}] {self._clock.left()}"
            say(line.rstrip())
        sys.stdout.flush()

    def _due(self) -> bool:
        if time.monotonic() - self._last_line < PLAIN_EVERY_S:
            return False
        self._last_line = time.monotonic()
        return True


class Bars:
    """One bar for the study and one for the running trial."""

    def __init__(self, progress: Progress, target: int, finished: int, title: str) -> None:
        self._progress = progress
        self._clock = Clock(target, finished)
        self._title = title
        self._study: TaskID | None = None
        self._trial: TaskID | None = None
        self._dense: TaskID | None = None

    def dense(self, step: int, total_steps: int, loss: float) -> None:
        """A bar of its own while it trains."""
        if self._dense is None:
            self._dense = self._progress.add_task(self._title, total=total_steps, note="")
        self._progress.update(self._dense, completed=step, note=f"loss {loss:.3f}")
        if step == total_steps:
            self._progress.remove_task(self._dense)
            self._dense = None

    def event(self, event: SearchEvent) -> None:
        """Move the bars; a finished trial also leaves a line above them."""
        from automl_prune.search import TrialFinished, TrialMoved, TrialStarted

        if isinstance(event, TrialStarted):
            self._clock.restart()
            self._end_trial()
            if self._study is None:
                self._study = self._progress.add_task(
                    "study", total=self._clock.target, completed=self._clock.finished, note=""
                )
            self._trial = self._progress.add_task(
                f"trial {event.assignment.number}", total=1.0, note=""
            )
        elif isinstance(event, TrialMoved):
            moved = event.progress
            assert self._trial is not None
            assert self._study is not None
            self._progress.update(
                self._trial,
                completed=moved.fraction,
                note=f"{moved.phase}: loss {moved.loss:.3f}, ratio {moved.mean_ratio:.2f}, "
                f"MACs {moved.macs_ratio:.0%}",
            )
            self._progress.update(self._study, note=self._clock.left(moved.fraction))
        elif line := trial_line(event):
            self._end_trial()
            self._progress.console.print(line, highlight=False, markup=False)
            if isinstance(event, TrialFinished) and self._study is not None:
                self._clock.finished = event.finished
                self._progress.update(
                    self._study, completed=event.finished, note=self._clock.left()
                )

    def _end_trial(self) -> None:
        if self._trial is not None:
            self._progress.remove_task(self._trial)
            self._trial = None
