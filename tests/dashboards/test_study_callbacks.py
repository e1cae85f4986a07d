from invented import invent_facts, row

from dashboards.study_callbacks import filtered, kept_and_thinned

FACTS = invent_facts()


def test_filters_show_one_class_each(studies):
    view = studies.view("invented")
    snapshot, facts = view.snapshot(), view.reader.facts
    assert [r.number for r in filtered(snapshot, facts, "failed")] == [5]
    assert filtered(snapshot, facts, "front") == snapshot.front
    assert filtered(snapshot, facts, "all") == snapshot.rows[::-1]
    assert all(not r.feasible for r in filtered(snapshot, facts, "infeasible"))
    assert filtered(snapshot, facts, "infeasible")
    assert {r.kind for r in filtered(snapshot, facts, "uniform")} == {"baseline"}
    assert filtered(snapshot, facts, "stopped") == []
    assert set(r.number for r in snapshot.front) <= {
        r.number for r in filtered(snapshot, facts, "complete")
    }


def test_groups_that_are_always_kept_and_always_thinned():
    front = [row(1, 80.0, 200_000), row(2, 90.0, 500_000)]
    kept = {
        1: {"stage0.conv": 8, "stage1.conv": 4, "stage2.conv": 24, "stage3.conv": 16},
        2: {"stage0.conv": 8, "stage1.conv": 8, "stage2.conv": 10, "stage3.conv": 32},
    }
    always, thinned = kept_and_thinned(front, kept, FACTS)
    assert always.endswith(": stage0.conv.")
    assert thinned.endswith(": stage1.conv.")
