"""Numbers as people read them on pages and in figures."""

from __future__ import annotations


def short_count(count: float) -> str:
    """Three digits and a unit: ``41.2 M``; below a thousand the number itself."""
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if count >= size:
            digits = 0 if count / size >= 99.95 else 1 if count / size >= 9.995 else 2
            return f"{count / size:.{digits}f} {unit}"
    return f"{count:.0f}"


def percent_of(part: float, whole: float, digits: int = 1) -> str:
    """``41.3 %``."""
    return f"{100.0 * part / whole:.{digits}f} %"


def duration(seconds: float) -> str:
    """``45 s``, ``12 min``, ``3.5 h``, ``2.1 d``."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    if seconds < 100 * 60:
        return f"{seconds / 60:.0f} min"
    if seconds < 48 * 3600:
        return f"{seconds / 3600:.1f} h"
    return f"{seconds / 86400:.1f} d"


def milliseconds(value: float | None) -> str:
    """Three digits: ``0.952``, ``1.04``, ``12.3``, ``214``; a dash where nothing was measured."""
    if value is None:
        return "–"
    digits = 3 if value < 1 else 2 if value < 10 else 1 if value < 100 else 0
    return f"{value:.{digits}f}"


def size(num_bytes: float) -> str:
    """``1.5 MB``; decimal units."""
    for unit, unit_bytes in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if num_bytes >= unit_bytes:
            return f"{num_bytes / unit_bytes:.1f} {unit}"
    return f"{num_bytes:.0f} B"


def plural(count: int, noun: str) -> str:
    """``1 trial``, ``2 trials``."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def sentence(text: str) -> str:
    """With a capital letter and a full stop."""
    return text[:1].upper() + text[1:] + ("" if text.endswith(".") else ".")
