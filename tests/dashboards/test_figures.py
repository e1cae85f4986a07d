import json

from invented import invent_facts, row

from automl_prune.pareto import front
from automl_prune.report import hypervolume_curve
from dashboards.figures import LOOKS, describe, front_figure, hypervolume_figure
from dashboards.style import DARK, LIGHT

FACTS = invent_facts()
ROWS = [
    row(0, 90.0, 500_000, kind="baseline"),
    row(1, 80.0, 300_000, kind="baseline"),
    row(2, 91.0, 400_000),
    row(3, 92.0, 600_000),
    row(4, 85.0, 450_000),
    row(5, 70.0, 100_000, state="pruned"),
    row(6, 94.0, 900_000, feasible=False),
    row(7, None, None, state="failed", error="broken"),
]


def traces(figure):
    return {trace.name.split(" (")[0]: trace for trace in figure.data if trace.name}


def test_each_class_has_a_symbol_and_a_colour_of_its_own():
    found = traces(front_figure(ROWS, FACTS))
    assert len(found.pop("chosen").x) == 0
    assert set(found) == {look["label"] for look in LOOKS.values()} | {"dense model"}
    looks = [(trace.marker.symbol, trace.marker.color) for trace in found.values()]
    assert len({symbol for symbol, _ in looks}) == len(looks)
    assert len({color for _, color in looks}) == len(looks)


def test_points_stand_where_the_trials_are():
    found = traces(front_figure(ROWS, FACTS))
    best = found["front of the search"]
    assert list(best.x) == [40.0, 60.0]
    assert list(best.y) == [91.0, 92.0]
    assert [point[0] for point in best.customdata] == [2, 3]
    assert best.name.endswith("(2)")
    assert list(found["dense model"].x) == [100.0]
    assert list(found["dense model"].y) == [FACTS.dense_accuracy]


def test_hover_says_trial_accuracy_macs_share_and_latency():
    text = describe(ROWS[6])
    for part in (
        "trial 6",
        "94.00 %",
        "900 k MACs",
        "90.0% of dense",
        "latency 9.00 ms",
        "limits",
    ):
        assert part in text
    assert "stopped early" in describe(ROWS[5])


def test_what_does_not_fit_is_greyed_out_and_nothing_is_lost():
    figure = front_figure(ROWS, FACTS, fits=lambda r: (r.macs or 0) <= 420_000)
    numbers = {True: set(), False: set()}
    for trace in figure.data:
        if trace.mode == "markers" and trace.name not in ("dense model", "chosen"):
            numbers[trace.marker.color == LIGHT.faded] |= {p[0] for p in trace.customdata}
    assert numbers == {True: {0, 3, 4, 6}, False: {1, 2, 5}}


def test_chosen_trials_are_circled_and_numbered():
    figure = front_figure(ROWS, FACTS, chosen=(4, 2), theme=DARK)
    circle = figure.data[0]  # the explorer replaces it there
    assert circle.name == "chosen"
    assert {p[0] for p in circle.customdata} == {2, 4}
    assert circle.marker.line.color == DARK.chosen


def test_parameters_and_latency_as_axes():
    params = traces(front_figure(ROWS, FACTS, axis="params"))["front of the search"]
    assert list(params.x) == [40.0, 60.0]
    by_latency = front_figure(ROWS, FACTS, axis="latency")
    assert list(traces(by_latency)["front of the search"].x) == [4.0, 6.0]
    assert by_latency.layout.xaxis.title.text == "latency, ms (Test CPU)"


def test_a_crowd_is_thinned_and_its_size_is_said():
    crowd = [row(10 + i, 50.0 + i % 37 / 10, 500_000 + 31 * i) for i in range(3000)]
    trace = traces(front_figure([*ROWS, *crowd], FACTS, most_drawn=200))["dominated"]
    assert 20 < len(trace.x) <= 200
    assert "3,00" in trace.name


def test_hypervolume_lines_end_where_the_report_says():
    figure = hypervolume_figure(ROWS, FACTS)
    for name, kind in (("search", "search"), ("uniform pruning", "baseline")):
        curve = hypervolume_curve(ROWS, FACTS, kinds=(kind,))
        assert list(zip(traces(figure)[name].x, traces(figure)[name].y, strict=True)) == curve
    thinned = hypervolume_figure(ROWS, FACTS, most_drawn=2)
    assert traces(thinned)["search"].y[-1] == traces(figure)["search"].y[-1]
    assert len(traces(thinned)["search"].y) < len(ROWS)


def test_figures_are_plain_lists():
    text = json.dumps(front_figure(ROWS, FACTS).to_plotly_json())
    assert "bdata" not in text


def test_every_trial_with_an_accuracy_is_a_point_of_exactly_one_trace():
    points = [
        point[0]
        for trace in front_figure(ROWS, FACTS).data
        if trace.mode == "markers" and trace.name != "dense model"
        for point in trace.customdata
    ]
    assert sorted(points) == [r.number for r in ROWS if r.accuracy is not None]


def test_front_lines_run_through_the_fronts():
    lines = [trace for trace in front_figure(ROWS, FACTS).data if trace.mode == "lines"]
    assert [line.line.color for line in lines] == [LIGHT.uniform, LIGHT.front]
    for line, kind in zip(lines, ("baseline", "search"), strict=True):
        usable = [r for r in ROWS if r.usable and r.kind == kind]
        chosen = front([r.accuracy for r in usable], [r.macs for r in usable])
        expected = [(100 * usable[i].macs_ratio, usable[i].accuracy) for i in chosen]
        assert list(zip(line.x, line.y, strict=True)) == expected
        assert line.line.shape == "hv"  # the best accuracy within a budget, not a guess between


def test_without_a_finished_trial_only_the_dense_model_is_drawn():
    for rows in ([], ROWS[-1:]):
        assert set(traces(front_figure(rows, FACTS))) == {"chosen", "dense model"}
        assert not hypervolume_figure(rows, FACTS).data


def test_on_test_the_dense_model_is_left_out():
    rows = [row(0, 90.0, 500_000)]
    figure = front_figure(rows, invent_facts(), split="test")
    assert figure.layout.yaxis.title.text == "accuracy on test, %"
    assert "dense model" not in [trace.name for trace in figure.data]
    assert not figure.layout.shapes
