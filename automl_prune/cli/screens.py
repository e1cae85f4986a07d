"""What the verbs write: errors on one screen, tables, numbers as people read them."""

from __future__ import annotations

import shutil
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from rich.console import Console

    from automl_prune.errors import AutoMLPruneError

SCREEN_LINES = 20
SCREEN_CHARACTERS = 1500


def complain(error: AutoMLPruneError) -> None:
    """An expected error to stderr: its message alone, cut to one screen."""
    sys.stderr.write(f"Error: {_one_screen(str(error))}\n")


def complain_unexpected(error: Exception) -> None:
    """A fault of ours to stderr, with how to see more."""
    text = _one_screen(f"{type(error).__name__}: {error}")
    sys.stderr.write(f"Unexpected error: {text}\nRun it again with --debug for the traceback.\n")


def _one_screen(text: str) -> str:
    lines = text.splitlines() or [""]
    if len(lines) > SCREEN_LINES:
        lines = [*lines[:SCREEN_LINES], f"... and {len(lines) - SCREEN_LINES} more lines"]
    shown = "\n".join(lines)
    if len(shown) > SCREEN_CHARACTERS:
        shown = shown[:SCREEN_CHARACTERS] + " ..."
    return shown


def console() -> Console:
    """Where results go; wide enough for a table when the output is no terminal."""
    from rich.console import Console

    width = None if sys.stdout.isatty() else max(100, shutil.get_terminal_size().columns)
    return Console(width=width, highlight=False, soft_wrap=False)


def print_table(
    title: str, headings: Sequence[str], rows: Iterable[Sequence[str]], *, left: int = 1
) -> None:
    """A table on stdout; the first ``left`` columns are words, the others numbers."""
    from rich import box
    from rich.table import Table

    table = Table(title=title or None, title_justify="left", box=box.SIMPLE_HEAD)
    for index, heading in enumerate(headings):
        table.add_column(
            heading,
            justify="left" if index < left else "right",
            overflow="fold",
            no_wrap=index >= left,
        )
    for row in rows:
        table.add_row(*row)
    console().print(table, markup=False)


def print_pairs(pairs: Iterable[tuple[str, str]]) -> None:
    """Names and values on stdout, one pair a line."""
    listed = list(pairs)
    width = max((len(name) for name, _ in listed), default=0)
    for name, value in listed:
        first, *rest = value.splitlines() or [""]
        sys.stdout.write(f"{name:<{width}}  {first}\n")
        for line in rest:
            sys.stdout.write(f"{'':<{width}}  {line}\n")


def say(text: str) -> None:
    """One line on stdout."""
    sys.stdout.write(f"{text}\n")


def warn(text: str) -> None:
    """One line on stderr."""
    sys.stderr.write(f"{text}\n")


def macs_text(macs: float) -> str:
    """MACs with three digits and a unit: ``41.2 M``."""
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if macs >= size:
            return (
                f"{macs / size:.3g} {unit}" if macs / size < 1000 else f"{macs / size:.0f} {unit}"
            )
    return f"{macs:.0f}"


def percent(value: float | None, digits: int = 2) -> str:
    """Percent points that are percent already: ``91.25``."""
    return "-" if value is None else f"{value:.{digits}f}"


def duration(seconds: float) -> str:
    """``45 s``, ``12 min``, ``3.5 h``, ``2.1 d``."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    if seconds < 100 * 60:
        return f"{seconds / 60:.0f} min"
    if seconds < 48 * 3600:
        return f"{seconds / 3600:.1f} h"
    return f"{seconds / 86400:.1f} d"


def size_text(num_bytes: float) -> str:
    """``1.5 MB``; decimal units."""
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if num_bytes >= size:
            return f"{num_bytes / size:.1f} {unit}"
    return f"{num_bytes:.0f} B"
