from contextlib import closing

import pytest
from made_up_trials import finish_one, made_up_config, made_up_facts

from automl_prune.storage import open_storage
from automl_prune.study import StudyHandle
from automl_prune.tested import OnTest, measured_on_test, note_test


@pytest.fixture
def study(tmp_path):
    storage = open_storage(f"sqlite:///{tmp_path / 'study.db'}")
    with closing(storage):
        handle = StudyHandle.create_or_check(
            storage, made_up_config(), made_up_facts(), tmp_path / "artifacts"
        )
        with closing(handle):
            for _ in range(2):
                finish_one(handle, 12, tmp_path / "files")
            yield handle


def note(study, number, accuracy=91.5, digest=None):
    digest = study.record(number).weights_digest if digest is None else digest
    note_test(study, number, accuracy=accuracy, num_images=300, weights_digest=digest)


def test_a_note_comes_back_and_the_last_one_counts(study):
    assert measured_on_test(study) == {}
    note(study, 1, 90.0)
    note(study, 1)
    assert measured_on_test(study) == {1: OnTest(accuracy=91.5, num_images=300)}


def test_a_note_on_other_weights_or_no_trial_does_not_count(study):
    note(study, 0, digest="of an earlier study")
    note(study, 7, digest="of no trial")
    assert measured_on_test(study) == {}


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"accuracy": 3', "\udcff"])
def test_what_is_no_note_is_passed_over(study, text):
    note(study, 1)
    folder = next(study.artifact_dir.glob("tested/*"))
    (folder / "0.json").write_bytes(text.encode(errors="surrogateescape"))
    (folder / "readme.json").write_text("{}")
    assert list(measured_on_test(study)) == [1]
