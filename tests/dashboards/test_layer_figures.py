import json

import pytest
from invented import invent_facts, row

from dashboards.layer_figures import (
    MOST_COLUMNS,
    evenly,
    keep_figure,
    kept_share,
    prunable,
    short_names,
    spread_figure,
)

FACTS = invent_facts()
FRONT = [row(1, 80.0, 200_000), row(2, 90.0, 500_000), row(3, 94.0, 800_000)]
KEPT = {
    1: {"stage0.conv": 2, "stage1.conv": 4},
    2: {"stage0.conv": 4, "stage1.conv": 8},
    3: {"stage0.conv": 8, "stage1.conv": 16},
}


def test_heat_map_shows_the_kept_share_of_every_group():
    heat = keep_figure(FRONT, KEPT, FACTS).data[0]
    assert [list(line) for line in heat.z] == [
        [25.0, 50.0, 100.0],
        [25.0, 50.0, 100.0],
        [100.0] * 3,
        [100.0] * 3,
    ]
    assert heat.customdata[0][1][:3] == [2, "stage0.conv", "4 of 8"]


def test_heat_map_leaves_out_what_it_does_not_know():
    assert len(keep_figure(FRONT, {2: KEPT[2]}, FACTS).data[0].x) == 1


def test_a_long_front_is_shown_evenly_with_both_ends():
    many = [row(i, float(i), i + 1) for i in range(500)]
    shown = evenly(many)
    assert len(shown) == MOST_COLUMNS
    assert (shown[0].number, shown[-1].number) == (0, 499)
    assert len({r.number for r in shown}) == MOST_COLUMNS
    assert evenly(many[:5]) == many[:5]


def test_spread_is_lowest_mean_and_highest():
    lines, means = spread_figure(FRONT, KEPT, FACTS).data
    assert list(lines.x[:2]) == [25.0, 100.0]
    assert means.x[0] == pytest.approx((25 + 50 + 100) / 3)
    assert list(lines.x[6:8]) == [100.0, 100.0]


def test_names_and_shares():
    assert [group.name for group in prunable(FACTS)] == [f"stage{i}.conv" for i in range(4)]
    assert kept_share({}, FACTS.groups[0]) == 100.0
    long = short_names(FACTS.groups, longest=6)
    assert all(len(name) <= 6 for name in long)
    assert long[0].endswith(".conv")


def test_figures_are_plain_lists():
    for figure in (keep_figure(FRONT, KEPT, FACTS), spread_figure(FRONT, KEPT, FACTS)):
        assert "bdata" not in json.dumps(figure.to_plotly_json())
