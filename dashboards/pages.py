"""Static pages: one HTML file with its figures, styles and plotly.js in it; no network needed."""

from __future__ import annotations

import html
import json
from dataclasses import dataclass, field
from importlib.resources import files
from typing import TYPE_CHECKING

from plotly.offline import get_plotlyjs

from dashboards.style import DARK, LIGHT, css_variables, swap_table

if TYPE_CHECKING:
    from collections.abc import Sequence

    import plotly.graph_objects as go


@dataclass(slots=True, kw_only=True)
class Page:
    """A page that grows by sections."""

    title: str
    """Of the browser's tab."""
    body: list[str] = field(default_factory=list)
    figures: dict[str, go.Figure] = field(default_factory=dict)

    def add(self, *parts: str) -> None:
        """HTML that is safe to embed: made by the functions below."""
        self.body.extend(parts)

    def figure(self, name: str, figure: go.Figure, *, label: str) -> str:
        """HTML of a figure's place; the figure is drawn there when the page is opened.

        Args:
            name: unique on the page; letters and dashes.
            figure: in the light theme.
            label: read out by a screen reader.
        """
        self.figures[name] = figure
        return _place(name, figure, label)

    def figures_by_choice(
        self, name: str, choices: Sequence[tuple[str, str, go.Figure]], *, label: str
    ) -> str:
        """HTML of a figure that a list above it changes: (value, text in the list, figure)."""
        options = "".join(
            f'<option value="{escape(value)}">{escape(text)}</option>'
            for value, text, _ in choices
        )
        for value, _, figure in choices:
            self.figures[f"{value}/{name}"] = figure
        return (
            f'<select data-for="{name}" aria-label="{escape(label)}">{options}</select>'
            + _place(name, choices[0][2], label)
        )

    def render(self) -> str:
        """The whole document."""
        content = json.dumps(
            {
                "swap": swap_table(),
                "figures": {
                    name: figure.to_plotly_json() for name, figure in self.figures.items()
                },
            }
        )
        return (
            '<!doctype html>\n<html lang="en" data-theme="light"><head><meta charset="utf-8">'
            '<meta name="viewport" content="width=device-width, initial-scale=1">'
            '<meta name="color-scheme" content="light dark"><link rel="icon" href="data:,">'
            f"<title>{escape(self.title)}</title><style>{theme_css()}{asset('page.css')}</style>"
            f"<script>{get_plotlyjs()}</script></head>\n<body>"
            f'<main class="sheet">{"".join(self.body)}</main>\n'
            '<script type="application/json" id="figures">'
            + content.replace("<", "\\u003c")
            + f"</script>\n<script>{asset('page.js', 'static')}</script></body></html>\n"
        )


def escape(text: object) -> str:
    """Text as HTML."""
    return html.escape(str(text))


def asset(name: str, folder: str = "assets") -> str:
    """Text of a file of this package; the explorer serves ``assets``, never ``static``."""
    return (files("dashboards") / folder / name).read_text(encoding="utf-8")


def theme_css() -> str:
    """Colours of both themes; what the reader's system prefers unless the page says otherwise."""
    return (
        f":root {{ color-scheme: light; {css_variables(LIGHT)} }}\n"
        f':root[data-theme="dark"] {{ color-scheme: dark; {css_variables(DARK)} }}\n'
    )


def masthead(title: str, lead: str) -> str:
    """Heading, one line below it, and the button that changes the theme."""
    return (
        f'<header class="masthead"><div><h1>{escape(title)}</h1>'
        f'<p class="soft">{escape(lead)}</p></div>'
        '<button id="theme" type="button" aria-label="Change between light and dark">'
        "◐&nbsp;Theme</button></header>"
    )


def card(heading: str, lead: str, *content: str) -> str:
    """A section in a box: heading, one or two sentences, content."""
    said = f'<p class="lead">{escape(lead)}</p>' if lead else ""
    return f'<section class="card"><h2>{escape(heading)}</h2>{said}{"".join(content)}</section>'


def tiles(items: Sequence[tuple[str, str, str]]) -> str:
    """Key numbers: (name, value, a line below)."""
    cells = "".join(
        f'<div class="tile"><dt>{escape(name)}</dt><dd>{escape(value)}'
        f"<small>{escape(note)}</small></dd></div>"
        for name, value, note in items
    )
    return f'<dl class="tiles">{cells}</dl>'


def table(
    headings: Sequence[str],
    rows: Sequence[Sequence[object]],
    *,
    words: Sequence[int] = (0,),
    last_is_dense: bool = False,
) -> str:
    """A table that scrolls sideways on its own; ``words`` are the columns that are no numbers."""

    def cells(tag: str, values: Sequence[object]) -> str:
        return "".join(
            f"<{tag}{' class=words' if index in words else ''}>{escape(value)}</{tag}>"
            for index, value in enumerate(values)
        )

    lines = [
        f"<tr{' class=dense' if last_is_dense and row is rows[-1] else ''}>{cells('td', row)}</tr>"
        for row in rows
    ]
    return (
        f'<div class="scroll" tabindex="0"><table><thead><tr>{cells("th", headings)}</tr></thead>'
        f"<tbody>{''.join(lines)}</tbody></table></div>"
    )


def command(*lines: str) -> str:
    """Command lines to copy."""
    return f"<pre>{escape(chr(10).join(lines))}</pre>"


def _place(name: str, figure: go.Figure, label: str) -> str:
    height = int(figure.layout.height or 400)
    return (
        f'<div class="figure" id="{name}" data-figure="{name}" role="img" '
        f'aria-label="{escape(label)}" style="min-height:{height}px"></div>'
    )
