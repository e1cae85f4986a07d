from made_up_trials import finish_one

from automl_prune.early_stopping import Rung
from automl_prune.storage.rungs import finished_at_rung, note_rung


def note(handle, number, rung, accuracy, macs=500):
    at = Rung(number=rung, step=10 * rung, accuracy=accuracy, macs=macs)
    handle.storage.database.write(lambda c: note_rung(c, handle.study_id, number, at))


def at_rung(handle, rung):
    return sorted(
        handle.storage.database.read(lambda c: finished_at_rung(c, handle.study_id, rung))
    )


def test_only_trials_that_ran_to_their_end_are_compared_with(handle, tmp_path):
    finish_one(handle, 4, tmp_path / "m")
    finish_one(handle, 4, tmp_path / "m", state="pruned")
    handle.ask(4)
    for number in range(3):
        note(handle, number, 1, 80.0 + number)
    assert at_rung(handle, 1) == [(80.0, 500)]
    assert at_rung(handle, 0) == []


def test_a_repetition_of_the_trial_writes_its_rung_again(handle, tmp_path):
    assignment = handle.ask(4)
    note(handle, assignment.number, 0, 70.0)
    note(handle, assignment.number, 0, 71.0, macs=400)
    note(handle, assignment.number, 1, 75.0)
    handle.release(assignment)
    finish_one(handle, 4, tmp_path / "m")
    assert at_rung(handle, 0) == [(71.0, 400)]
    assert at_rung(handle, 1) == [(75.0, 500)]
