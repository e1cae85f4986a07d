import pytest

from automl_prune.errors import EnvironmentProblemError, ModelError, StudyNotFoundError
from automl_prune.manifest import read_manifest
from automl_prune.modelfile import verify_folder
from automl_prune.report import pick
from automl_prune.search import (
    TrialFailed,
    TrialFinished,
    TrialMoved,
    TrialStarted,
    run_search,
)
from automl_prune.storage import open_storage
from automl_prune.study import StudyHandle


@pytest.fixture
def handle(tiny_bench, tmp_path):
    storage = open_storage(f"sqlite:///{tmp_path}/study.db")
    study = StudyHandle.create_or_check(
        storage, tiny_bench.config, tiny_bench.facts, tmp_path / "artifacts"
    )
    yield study
    study.close()
    storage.close()


@pytest.fixture
def run(handle, tiny_bench, tmp_path):
    def run(target, *, on_event=lambda event: None, should_stop=lambda: False):
        return run_search(
            handle,
            tiny_bench,
            target=target,
            checkpoint_dir=tmp_path / "checkpoints",
            on_event=on_event,
            should_stop=should_stop,
        )

    return run


def test_it_runs_as_many_trials_as_asked_and_no_more(handle, run):
    events = []
    assert run(2, on_event=events.append)
    assert handle.finished_count() == 2
    kinds = [type(event) for event in events if not isinstance(event, TrialMoved)]
    assert kinds == [TrialStarted, TrialFinished, TrialStarted, TrialFinished]
    assert [e.finished for e in events if isinstance(e, TrialFinished)] == [1, 2]
    fractions = [e.progress.fraction for e in events if isinstance(e, TrialMoved)]
    assert max(fractions) == 1.0
    assert run(2, on_event=events.append)
    assert handle.finished_count() == 2


def test_every_finished_trial_leaves_record_curves_and_a_model_that_verifies(handle, run):
    run(2)
    for number in (0, 1):
        record = handle.record(number)
        with handle.model_folder(number) as folder:
            manifest = read_manifest(folder)
            assert verify_folder(folder).ok
        assert manifest.trial == number
        assert manifest.weights_digest == record.weights_digest
        assert manifest.macs == record.macs
        assert handle.curves(number).finetune_loss
    assert handle.record(0).kind == "baseline"
    assert handle.record(1).kind == "search"


def test_a_stopped_trial_is_given_back_and_taken_up_again(handle, run, tmp_path):
    moved = []

    def note(event):
        if isinstance(event, TrialMoved):
            moved.append(event.progress)

    assert not run(1, on_event=note, should_stop=lambda: len(moved) >= 8)
    assert handle.finished_count() == 0
    (trial,) = handle.open_trials()
    assert trial.state == "waiting"
    assert list((tmp_path / "checkpoints" / "trial-0").iterdir())
    stopped_at = moved[-1].fraction
    moved.clear()
    assert run(1, on_event=note)
    assert moved[0].fraction >= stopped_at
    assert handle.finished_count() == 1
    assert not (tmp_path / "checkpoints" / "trial-0").exists()


def test_a_trial_that_fails_is_recorded_and_the_search_goes_on(handle, run, monkeypatch):
    import automl_prune.search as search

    real, calls = search.run_trial, []

    def fail_first(*args, **kwargs):
        calls.append(1)
        if len(calls) == 1:
            raise RuntimeError("out of luck\nsecond line")
        return real(*args, **kwargs)

    monkeypatch.setattr(search, "run_trial", fail_first)
    events = []
    assert run(2, on_event=events.append)
    failed = handle.record(0)
    assert failed.error == "RuntimeError: out of luck"
    assert "fail_first" in failed.log
    assert [e.failure for e in events if isinstance(e, TrialFailed)] == [failed]
    assert handle.record(1).macs > 0


def test_a_search_that_only_fails_ends(handle, run, monkeypatch):
    import automl_prune.search as search

    def fail(*_, **__):
        raise RuntimeError("always")

    monkeypatch.setattr(search, "run_trial", fail)
    with pytest.raises(ModelError, match=r"3 trials failed one after the other.*always"):
        run(50)
    assert len(handle.rows()) == 3


def test_what_this_machine_lacks_is_no_fault_of_the_trial(handle, run, monkeypatch):
    import automl_prune.search as search

    def full(*_, **__):
        raise EnvironmentProblemError("the disk is full")

    monkeypatch.setattr(search, "hand_in", full)
    with pytest.raises(EnvironmentProblemError):
        run(1)
    assert handle.rows() == []
    assert [trial.state for trial in handle.open_trials()] == ["waiting"]


def test_ctrl_c_at_the_second_time_ends_at_once_and_gives_the_trial_back(handle, run):
    def interrupt(event):
        if isinstance(event, TrialMoved):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(1, on_event=interrupt)
    assert [trial.state for trial in handle.open_trials()] == ["waiting"]


def test_a_trial_that_is_stopped_early_leaves_a_record_and_no_model(handle, run, monkeypatch):
    monkeypatch.setattr(type(handle), "has_rungs", True)
    monkeypatch.setattr(handle, "is_hopeless", lambda assignment, _: assignment.kind == "search")
    run(2)
    baseline, stopped = handle.rows()
    assert (baseline.state, stopped.state) == ("complete", "pruned")
    assert handle.record(1).finetune_steps == 0
    assert list(handle.artifacts_of(1)) == ["curves.json"]
    assert stopped not in handle.front(handle.rows())
    with pytest.raises(StudyNotFoundError, match="trial 1 was stopped early"):
        pick(handle.rows(), handle.facts, trial=1)
