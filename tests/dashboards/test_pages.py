import json
import re

import plotly.graph_objects as go

from dashboards.pages import Page, card, command, masthead, table, tiles


def test_text_cannot_break_out_of_the_page():
    bad = "</script><script>alert(1)</script>"
    page = Page(title=bad)
    figure = go.Figure(go.Scatter(x=[1], y=[2], name=bad))
    page.add(
        masthead(bad, bad),
        card(bad, bad, page.figure("f", figure, label=bad)),
        tiles([(bad, bad, bad)]),
        table([bad], [[bad]]),
        command(bad),
    )
    text = page.render()
    assert "<script>alert(1)" not in text
    content = re.search(r'<script type="application/json" id="figures">(.*?)</script>', text, re.S)
    assert json.loads(content[1])["figures"]["f"]["data"][0]["name"] == bad


def test_plotly_is_in_the_page_once_and_nothing_is_loaded_from_elsewhere():
    page = Page(title="t")
    page.add(page.figure("a", go.Figure(), label="a"), page.figure("b", go.Figure(), label="b"))
    text = page.render()
    assert text.count("plotly.js v") == 1
    assert re.findall(r'<(?:script|link|img|iframe)[^>]*(?:src|href)="(?!data:)[^"]*"', text) == []


def test_a_figure_can_be_chosen_from_a_list():
    page = Page(title="t")
    text = page.figures_by_choice(
        "r", [("t1", "trial 1", go.Figure()), ("t2", "trial 2", go.Figure())], label="of"
    )
    assert set(page.figures) == {"t1/r", "t2/r"}
    assert text.count("<option") == 2


def test_a_table_marks_words_and_the_dense_row():
    text = table(["trial", "x"], [["1", 2], ["dense", 3]], last_is_dense=True)
    assert "<tr><td class=words>1</td><td>2</td></tr>" in text
    assert "<tr class=dense><td class=words>dense</td>" in text
