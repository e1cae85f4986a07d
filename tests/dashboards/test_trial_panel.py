import json

from plotly.utils import PlotlyJSONEncoder

from automl_prune.tested import note_test
from dashboards.style import LIGHT
from dashboards.trial_panel import (
    channels_panel,
    checked_files,
    comparison_panel,
    data_table,
    inner_loop_panel,
    trial_panel,
)


def text_of(components):
    return json.dumps(
        [getattr(c, "to_plotly_json", lambda c=c: c)() for c in components],
        cls=PlotlyJSONEncoder,
        ensure_ascii=False,
    )


def panel(study, number):
    row = next(row for row in study.rows() if row.number == number)
    facts = trial_panel(study, row, shown_url="sqlite:///study.db")
    curves = [] if row.state == "failed" else inner_loop_panel(study, row, LIGHT)
    return text_of([*facts, *channels_panel(study, row, LIGHT), *curves])


def test_the_panel_shows_the_record(stored_study):
    record = stored_study.record(4)
    text = panel(stored_study, 4)
    for part in (
        f"{record.accuracy:.2f} %",
        f"{record.macs:,}",
        f"{record.params:,}",
        "graph-channels",
        "graph-ratios",
        "graph-losses",
        "automl-prune pick invented --trial 4",
        "download/invented/4/model.zip",
        f"{record.start_ratios['stage0.conv']:.3f}",
        "outputs differ by 2.0e-07",
    ):
        assert part in text


def test_a_failed_trial_shows_error_and_log(stored_study):
    text = panel(stored_study, 5)
    assert "loss became NaN at step 7" in text
    assert "Traceback <lines>" in text
    assert "model.zip" not in text


def test_a_trial_without_files_says_so(stored_study):
    stored_study.remove_artifacts(keep=())
    text = panel(stored_study, 4)
    assert "tidied away" in text
    assert "No curves" in text
    assert "graph-channels" in text


def test_checking_the_files_finds_damage(stored_study):
    assert "every file has the digest" in checked_files(stored_study, 4)
    artifact = stored_study.artifacts_of(4)["curves.json"]
    (stored_study.artifact_dir / artifact.id).write_bytes(b"{}")
    assert checked_files(stored_study, 4).startswith("Damaged")
    assert "No curves" in panel(stored_study, 4)


def test_trials_side_by_side(stored_study):
    rows = {row.number: row for row in stored_study.rows()}
    text = text_of(comparison_panel(stored_study, rows, [8, 2, 5, 99], LIGHT))
    assert text.index("trial 8") < text.index("trial 2")
    assert "trial 5" not in text
    assert f"{stored_study.record(2).accuracy:.2f} %" in text
    assert "None of these" in text_of(comparison_panel(stored_study, rows, [5], LIGHT))


def test_a_table_can_be_scrolled_by_keyboard():
    table = data_table(["a", "b"], [["x", 1]], id="t")
    assert table.tabIndex == 0
    assert table.id == "t"


def test_a_uniform_trial_has_no_ratios_that_move(stored_study):
    text = panel(stored_study, 0)
    assert "Held fixed" in text
    assert "graph-ratios" not in text
    assert "graph-losses" in text


def test_accuracy_on_test_is_shown_once_it_was_read(stored_study):
    assert "not read" in panel(stored_study, 4)
    digest = stored_study.record(4).weights_digest
    note_test(stored_study, 4, accuracy=81.25, num_images=400, weights_digest=digest)
    assert "81.25 % of 400 images" in panel(stored_study, 4)
    assert "not read" in panel(stored_study, 6)
