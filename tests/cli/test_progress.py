import io
from types import SimpleNamespace

import pytest
from rich.console import Console
from rich.progress import Progress

from automl_prune.cli import progress
from automl_prune.search import TrialFailed, TrialFinished, TrialMoved, TrialStarted
from automl_prune.trial_state import TrialProgress


def assignment(number):
    return SimpleNamespace(number=number)


def moved(step):
    return TrialMoved(
        progress=TrialProgress(
            phase="inner",
            step=step,
            total_steps=10,
            fraction=step / 20,
            loss=1.25,
            macs_ratio=0.431,
            mean_ratio=0.62,
        )
    )


@pytest.fixture
def finished(tiny_outcome):
    return TrialFinished(assignment=assignment(3), record=tiny_outcome.record, finished=4)


def test_plain_lines_say_what_a_finished_trial_found(finished, capsys):
    with progress.search_display(8, 3) as display:
        display.event(TrialStarted(assignment=assignment(3), finished=3))
        display.event(moved(5))
        display.event(finished)
    (line,) = capsys.readouterr().out.splitlines()
    record = finished.record
    assert f"{record.accuracy:.2f}" in line
    assert f"{record.macs:,}" in line
    assert "[4/8]" in line
    assert "left" in line


def test_plain_lines_come_from_inside_a_long_trial_too(monkeypatch, capsys):
    monkeypatch.setattr(progress, "PLAIN_EVERY_S", 0.0)
    with progress.search_display(8, 3) as display:
        display.event(TrialStarted(assignment=assignment(3), finished=3))
        display.event(moved(5))
    out = capsys.readouterr().out
    for part in ("trial   3", "inner 5/10", "loss 1.250", "0.62", "43.1%"):
        assert part in out


def test_a_failed_trial_is_a_line(capsys):
    failure = SimpleNamespace(error="RuntimeError: no")
    with progress.search_display(8, 3) as display:
        display.event(TrialFailed(assignment=assignment(3), failure=failure))
    assert capsys.readouterr().out == "trial   3 failed: RuntimeError: no\n"


def test_a_training_ends_with_a_line(capsys):
    with progress.step_display("seed 2", 10) as on_step:
        for step in range(1, 11):
            on_step(step, 1 / step)
    assert capsys.readouterr().out == "seed 2: step 10/10, loss 0.100\n"


def test_bars_show_loss_ratio_macs_and_time_left(finished):
    screen = io.StringIO()
    console = Console(file=screen, width=160, force_terminal=True)
    with Progress(*progress.columns(), console=console, auto_refresh=False) as bars:
        display = progress.Bars(bars, 8, 3, "dense model")
        display.dense(5, 10, 0.5)
        bars.refresh()
        assert "dense model" in screen.getvalue()
        display.dense(10, 10, 0.4)
        display.event(TrialStarted(assignment=assignment(3), finished=3))
        display.event(moved(9))
        bars.refresh()
        display.event(finished)
        bars.refresh()
    out = screen.getvalue()
    for part in ("study", "trial 3", "loss 1.250", "ratio 0.62", "MACs 43%", "left"):
        assert part in out
    (study,) = bars.tasks
    assert (study.completed, study.total) == (4, 8)


def test_time_left_follows_the_trials_of_this_call(monkeypatch):
    clock = SimpleNamespace(now=100.0)
    monkeypatch.setattr(progress.time, "monotonic", lambda: clock.now)
    left = progress.Clock(10, 4)
    assert left.left() == ""
    clock.now += 60
    left.finished = 6
    assert left.left() == "about 2 min left"  # 30 s each, 4 to go
    assert left.left(0.5) == "about 84 s left"  # 24 s each, 3.5 to go
