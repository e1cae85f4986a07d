"""How figures and pages look: colours for light and dark, and one layout for every figure.

Colours come from Okabe and Ito's palette, and every class of points has a symbol of its own too,
so nothing is told by colour alone. The dark theme is a one-to-one swap of the light one's colours:
a static page can change theme in the browser without drawing from data again.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import plotly.graph_objects as go

ThemeName = Literal["light", "dark"]

FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"
MONO = "ui-monospace, SFMono-Regular, Menlo, Consolas, 'DejaVu Sans Mono', monospace"
SEQUENCE = "Cividis"
"""Colour scale of ordered values; made for colour-blind readers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Theme:
    """Colours by role; no two roles share a colour, so that themes can be swapped by colour."""

    page: str
    paper: str
    ink: str
    soft: str
    grid: str
    faded: str
    """Points that a limit rules out."""
    front: str
    dominated: str
    uniform: str
    stopped: str
    infeasible: str
    chosen: str
    accent: str
    good: str
    bad: str


LIGHT = Theme(
    page="#f4f6f9",
    paper="#ffffff",
    ink="#17202b",
    soft="#566270",
    grid="#e2e7ed",
    faded="#ccd3db",
    front="#0072B2",
    dominated="#7fa8c4",
    uniform="#E69F00",
    stopped="#CC79A7",
    infeasible="#D55E00",
    chosen="#009E73",
    accent="#005f99",
    good="#00694c",
    bad="#b23c00",
)
DARK = Theme(
    page="#0e1217",
    paper="#171d25",
    ink="#e8edf3",
    soft="#a4b0bd",
    grid="#2c3541",
    faded="#3d4753",
    front="#56B4E9",
    dominated="#56809c",
    uniform="#F0B030",
    stopped="#DB94BC",
    infeasible="#F2803A",
    chosen="#23C799",
    accent="#6cbcec",
    good="#4fd3ab",
    bad="#ff9a66",
)
THEMES: dict[ThemeName, Theme] = {"light": LIGHT, "dark": DARK}


def swap_table() -> dict[str, str]:
    """Colours of the light theme to those of the dark one."""
    return dict(zip(dataclasses.astuple(LIGHT), dataclasses.astuple(DARK), strict=True))


def series_colors(theme: Theme) -> tuple[str, ...]:
    """Colours of a few lines or bars side by side, most telling first."""
    return (
        theme.front,
        theme.infeasible,
        theme.chosen,
        theme.uniform,
        theme.stopped,
        theme.soft,
    )


def css_variables(theme: Theme) -> str:
    """The colours as CSS custom properties: ``--paper: #ffffff; ...``."""
    return " ".join(f"--{role}: {color};" for role, color in dataclasses.asdict(theme).items())


def styled(
    figure: go.Figure,
    theme: Theme,
    *,
    title: str,
    x: str,
    y: str,
    height: int = 460,
) -> go.Figure:
    """The same fonts, grid, margins and hover boxes for every figure; changes ``figure``.

    Args:
        figure: with its traces.
        theme: colours.
        title: one line; empty: none, and no room for it.
        x: label of the horizontal axis, with its unit.
        y: label of the vertical axis, with its unit.
        height: pixels.
    """
    axis = {
        "automargin": True,
        "gridcolor": theme.grid,
        "linecolor": theme.grid,
        "zerolinecolor": theme.grid,
        "tickfont": {"color": theme.soft, "size": 12},
    }
    label = {"color": theme.soft, "size": 13}
    return figure.update_layout(
        template="none",
        paper_bgcolor=theme.paper,
        plot_bgcolor=theme.paper,
        title={
            "text": title,
            "x": 0,
            "xref": "paper",
            "xanchor": "left",
            "yref": "container",
            "y": 0.985,
            "yanchor": "top",
            "font": {"size": 16, "color": theme.ink, "weight": 600},
        },
        font={"family": FONT, "size": 13, "color": theme.ink},
        xaxis={**axis, "title": {"text": x, "font": label, "standoff": 10}},
        yaxis={**axis, "title": {"text": y, "font": label, "standoff": 10}},
        legend={
            "orientation": "h",
            "x": 0,
            "xanchor": "left",
            "y": 1.02,
            "yanchor": "bottom",
            "font": {"color": theme.ink, "size": 12},
            "bgcolor": "rgba(0,0,0,0)",
        },
        margin={"l": 12, "r": 16, "t": 84 if title else 44, "b": 12, "pad": 2},
        height=height,
        hovermode="closest",
        hoverlabel={
            "align": "left",
            "bgcolor": theme.paper,
            "bordercolor": theme.soft,
            "font": {"family": FONT, "size": 13, "color": theme.ink},
        },
        modebar={
            "bgcolor": "rgba(0,0,0,0)",
            "color": theme.soft,
            "activecolor": theme.accent,
            "orientation": "h",
        },
    )
