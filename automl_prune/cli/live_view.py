"""All workers of a study at a glance: a table on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

from automl_prune.cli.progress import PLAIN_EVERY_S, Clock
from automl_prune.cli.screens import say

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from rich.table import Table

    from automl_prune.launch import LocalWorker
    from automl_prune.reading import WorkerRow
    from automl_prune.study import StudyHandle


@contextmanager
def live_view(handle: StudyHandle) -> Iterator[Callable[[list[LocalWorker]], None]]:
    """Show the study's workers, those of other hosts too, for as long as the context lasts.

    Yields:
        What to call every second with the workers of this host.
    """
    view = _View(handle)
    if not sys.stdout.isatty():
        yield view.line
        return
    from rich.live import Live

    with Live(auto_refresh=False, transient=True) as live:
        yield lambda local: live.update(view.table(local), refresh=True)


class _View:
    def __init__(self, handle: StudyHandle) -> None:
        self._handle = handle
        self._clock = Clock(handle.target(), handle.finished_count())
        self._last_line = 0.0
        self._last_finished = -1

    def line(self, local: list[LocalWorker]) -> None:
        """One line whenever a trial has finished, and one in a while."""
        finished = self._handle.finished_count()
        due = time.monotonic() - self._last_line >= PLAIN_EVERY_S
        if not due and finished == self._last_finished:
            return
        self._last_line, self._last_finished = time.monotonic(), finished
        running = [w for w in self._handle.workers() if w.alive and w.trial is not None]
        at = ", ".join(f"trial {w.trial} {_fraction(w):.0%}" for w in running)
        restarting = sum(worker.state == "restarting" for worker in local)
        say(
            f"[{finished}/{self._handle.target()}] {len(running)} running"
            + (f": {at}" if at else "")
            + (f"; {restarting} workers restarting" if restarting else "")
            + self._left(finished)
        )
        sys.stdout.flush()

    def table(self, local: list[LocalWorker]) -> Table:
        """A row per worker."""
        from rich.table import Table

        finished = self._handle.finished_count()
        title = f"{self._handle.name}: {finished} of {self._handle.target()} trials finished"
        table = Table(title=title + self._left(finished), title_justify="left")
        for column in ("worker", "device", "trial", "phase", "step", "loss", "accuracy", "MACs"):
            table.add_column(column)
        for worker in self._handle.workers():
            moved = worker.progress or {}
            step = f"{moved['step']}/{moved['total_steps']}" if "step" in moved else ""
            table.add_row(
                f"{worker.host} {worker.pid}" + ("" if worker.alive else " (silent)"),
                worker.device,
                "" if worker.trial is None else f"{worker.trial} {_fraction(worker):.0%}",
                str(moved.get("phase", "")),
                step,
                _number(moved.get("loss"), "{:.3f}"),
                _number(moved.get("accuracy"), "{:.2f}"),
                _number(moved.get("macs_ratio"), "{:.1%}"),
            )
        for lost in local:
            if lost.state == "restarting":
                table.add_row(f"worker {lost.index}", lost.device, "restarting", *[""] * 5)
        return table

    def _left(self, finished: int) -> str:
        self._clock.finished, self._clock.target = finished, self._handle.target()
        left = self._clock.left()
        return f", {left}" if left else ""


def _fraction(worker: WorkerRow) -> float:
    found = (worker.progress or {}).get("fraction", 0.0)
    return found if isinstance(found, float) else 0.0


def _number(value: object, form: str) -> str:
    return form.format(value) if isinstance(value, float) else ""
