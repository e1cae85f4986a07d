import optuna
import pytest
from made_up_trials import made_up_config, made_up_facts

from automl_prune.errors import StudyMismatchError
from automl_prune.optuna_storage import create_optuna_study, open_optuna
from automl_prune.storage import open_storage
from automl_prune.study import StudyHandle


@pytest.mark.parametrize("with_trial", [False, True])
def test_a_foreign_study_of_the_same_name_is_refused(storage_url, tmp_path, with_trial):
    storage = open_storage(storage_url)
    theirs = open_optuna(storage.database)
    directions = ["maximize", "minimize"] if with_trial else ["minimize"]
    study = optuna.create_study(study_name="made-up", storage=theirs, directions=directions)
    if with_trial:
        study.ask()
    with pytest.raises(StudyMismatchError, match="automl-prune did not make"):
        StudyHandle.create_or_check(
            storage, made_up_config(), made_up_facts(), tmp_path / "artifacts"
        )
    assert storage.study_names() == []
    theirs.engine.dispose()
    storage.close()


def test_a_study_that_was_begun_and_not_entered_is_taken_over(storage_url, tmp_path):
    storage, config = open_storage(storage_url), made_up_config()
    first = create_optuna_study(storage.database, config)
    handle = StudyHandle.create_or_check(storage, config, made_up_facts(), tmp_path / "artifacts")
    assert handle.optuna_study_id == first
    storage.close()
