import pytest
from invented import invent_curves, invent_facts, invent_record

from dashboards.trial_figures import channels_figure, loss_figure, trajectory_figure

FACTS = invent_facts()
RECORD = invent_record(FACTS, {group.name: 0.5 for group in FACTS.groups}, number=1)
CURVES = invent_curves(FACTS, RECORD)
KEPT = {
    1: {"stage0.conv": 2, "stage1.conv": 4},
    3: {"stage0.conv": 8, "stage1.conv": 16},
}


def test_trajectories_have_a_line_per_group_and_one_for_macs():
    figure = trajectory_figure(CURVES, FACTS)
    assert [trace.name for trace in figure.data] == [
        *(group.name for group in FACTS.groups),
        "MACs of the whole model",
    ]
    assert figure.data[0].y[-1] == pytest.approx(100 * CURVES.ratios["stage0.conv"][-1])


def test_many_groups_are_coloured_by_depth():
    facts = invent_facts(12)
    record = invent_record(facts, {g.name: 0.5 for g in facts.groups}, number=1)
    figure = trajectory_figure(invent_curves(facts, record), facts)
    lines = [trace for trace in figure.data if trace.mode == "lines"]
    assert len(lines) == 13
    assert len({trace.line.color for trace in lines}) == 13
    assert figure.data[-1].marker.colorbar.title.text == "12 groups, by depth"


def test_losses_go_from_the_inner_loop_to_fine_tuning():
    figure = loss_figure(CURVES)
    assert [trace.name for trace in figure.data] == [
        "inner loop, train",
        "inner loop, search",
        "fine-tuning, train",
    ]
    assert figure.data[2].x[0] == CURVES.inner_loss[-1][0] + CURVES.finetune_loss[0][0]


def test_channels_of_two_trials_beside_the_dense_model():
    figure = channels_figure({1: KEPT[1], 3: KEPT[3]}, FACTS)
    dense, one, other = figure.data
    assert list(dense.x) == [8, 16, 24, 32]
    assert list(one.x) == [2, 4, 24, 32]
    assert other.name == "trial 3"
    assert one.marker.color != other.marker.color
