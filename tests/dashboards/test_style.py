import dataclasses
import re

import plotly.graph_objects as go
import pytest

from dashboards.style import DARK, LIGHT, THEMES, css_variables, series_colors, styled, swap_table


def luminance(color: str) -> float:
    channels = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("theme", THEMES.values(), ids=THEMES)
def test_no_two_roles_share_a_colour(theme):
    colors = dataclasses.astuple(theme)
    assert len(set(colors)) == len(colors)
    assert all(re.fullmatch("#[0-9a-fA-F]{6}", color) for color in colors)


@pytest.mark.parametrize("theme", THEMES.values(), ids=THEMES)
@pytest.mark.parametrize("role", ["ink", "soft", "accent", "good", "bad"])
def test_text_has_the_contrast_that_wcag_asks_for(theme, role):
    assert contrast(getattr(theme, role), theme.paper) >= 4.5
    assert contrast(getattr(theme, role), theme.page) >= 4.5


@pytest.mark.parametrize("theme", THEMES.values(), ids=THEMES)
@pytest.mark.parametrize("role", ["front", "chosen", "infeasible"])
def test_what_matters_stands_out_from_the_paper(theme, role):
    assert contrast(getattr(theme, role), theme.paper) >= 3


def test_themes_swap_colour_by_colour():
    table = swap_table()
    assert table[LIGHT.front] == DARK.front
    assert len(table) == len(dataclasses.fields(LIGHT))


def test_styled_figure_has_labels_and_the_themes_colours():
    figure = styled(go.Figure(), DARK, title="A", x="x, s", y="y, %")
    assert figure.layout.xaxis.title.text == "x, s"
    assert figure.layout.yaxis.title.text == "y, %"
    assert figure.layout.paper_bgcolor == DARK.paper
    assert "--front: #0072B2;" in css_variables(LIGHT)
    assert len(set(series_colors(LIGHT))) == 6
