import multiprocessing
import threading

import made_up_trials
import optuna
import pytest
import sqlalchemy as sa
from made_up_trials import (
    CURVES,
    made_up_config,
    made_up_facts,
    made_up_record,
    model_files,
)
from optuna.artifacts import FileSystemArtifactStore, get_all_artifact_meta
from optuna.exceptions import StorageInternalError
from optuna.trial import TrialState
from sqlalchemy.exc import SQLAlchemyError

from automl_prune import publishing
from automl_prune.errors import StorageError
from automl_prune.optuna_storage import open_optuna
from automl_prune.publishing import Publisher
from automl_prune.records import FailureRecord
from automl_prune.storage import open_storage
from automl_prune.storage.tables import slots
from automl_prune.study import StudyHandle

LIMITS = {"limits": {"max_macs_ratio": 0.3}}


@pytest.fixture
def handle(storage_url, tmp_path):
    storage = open_storage(storage_url)
    config = made_up_config(search=LIMITS)
    handle = StudyHandle.create_or_check(storage, config, made_up_facts(), tmp_path / "artifacts")
    yield handle
    handle.close()
    storage.close()


@pytest.fixture
def optuna_storage(handle):
    storage = open_optuna(handle.storage.database)
    yield storage
    storage.remove_session()
    storage.engine.dispose()


def settle(handle):
    """Carry over what is pending, and let no thread do it later."""
    if handle._carrier is not None:
        handle._carrier.stop()
        handle._carrier = None
    handle.publish()


def finish_one(handle, target, folder, **fields):
    assignment = made_up_trials.finish_one(handle, target, folder, **fields)
    settle(handle)
    return assignment


def optuna_trials(handle, optuna_storage):
    """As they stand there now; nothing is carried over meanwhile."""
    return optuna.load_study(study_name=handle.name, storage=optuna_storage).get_trials()


def publisher(handle):
    handle.publish()
    return handle._publisher


def set_stage(handle, number, stage):
    handle.storage.database.write(
        lambda c: c.execute(
            sa.update(slots).where(slots.c.number == number).values(optuna_stage=stage)
        )
    )


def test_a_finished_trial_stands_in_optunas_study_as_it_was(handle, optuna_storage, tmp_path):
    assignments = [finish_one(handle, 5, tmp_path / "m") for _ in range(5)]
    trials = optuna_trials(handle, optuna_storage)
    assert [t.number for t in trials] == [a.number for a in assignments]
    for trial, assignment in zip(trials, assignments, strict=True):
        record = made_up_record(assignment)
        assert trial.state == TrialState.COMPLETE
        assert trial.values == [record.accuracy, record.macs]
        assert trial.params == handle.space.to_params(assignment.ratios, assignment.trade_off)
        assert trial.user_attrs["kind"] == assignment.kind
        assert trial.user_attrs["seed"] == str(assignment.seed)
        parent = assignment.parent
        assert trial.user_attrs.get("parent") == (None if parent is None else parent.number)
        assert trial.constraints == {"max_macs_ratio": record.macs / 1e6 - 0.3}
        assert trial.datetime_start <= trial.datetime_complete


def test_parameters_are_not_written_one_by_one(postgres_url, tmp_path, monkeypatch):
    storage = open_storage(postgres_url)
    config, facts = made_up_config(), made_up_facts(num_groups=40)
    handle = StudyHandle.create_or_check(storage, config, facts, tmp_path / "artifacts")
    finish_one(handle, 2, tmp_path)
    monkeypatch.setattr(handle, "_carry_soon", lambda: None)
    made_up_trials.finish_one(handle, 2, tmp_path)
    statements = []

    def counted(database):
        opened = open_optuna(database)
        sa.event.listen(
            opened.engine, "after_cursor_execute", lambda *about: statements.append(about[2])
        )
        return opened

    monkeypatch.setattr(publishing, "open_optuna", counted)
    assert handle.publish() == 1
    assert 41 < len(statements) < 2 * 41  # Optuna looks the trial up for every parameter
    handle.close()
    storage.close()


def test_the_study_says_what_its_objectives_are(handle, optuna_storage):
    study = optuna.load_study(study_name=handle.name, storage=optuna_storage)
    assert [d.name for d in study.directions] == ["MAXIMIZE", "MINIMIZE"]
    assert study.metric_names == ["accuracy", "macs"]


def test_the_optuna_dashboard_finds_the_artifacts(handle, optuna_storage, tmp_path):
    finish_one(handle, 1, tmp_path / "m")
    (trial,) = optuna_trials(handle, optuna_storage)
    found = get_all_artifact_meta(trial, storage=optuna_storage)
    assert sorted(meta.filename for meta in found) == [
        "curves.json",
        "manifest.json",
        "model.safetensors",
    ]
    store = FileSystemArtifactStore(handle.artifact_dir)
    for meta in found:
        with store.open_reader(meta.artifact_id) as file:
            assert file.read() == handle.artifact(0, meta.filename)


def test_a_running_trial_is_shown_as_running_with_all_its_parameters(handle, optuna_storage):
    assignment = handle.ask(3)
    settle(handle)
    (trial,) = optuna_trials(handle, optuna_storage)
    assert trial.state == TrialState.RUNNING
    assert trial.params == handle.space.to_params(assignment.ratios, assignment.trade_off)
    assert trial.constraints == {}, "a constraint is written once, at the very end"


def test_a_failed_trial_shows_its_error(handle, optuna_storage):
    assignment = handle.ask(3)
    failure = FailureRecord(
        kind="baseline", seed=1, trade_off=1.0, start_ratios={}, error="E" * 9000, log=""
    )
    assert handle.fail(assignment, failure)
    settle(handle)
    (trial,) = optuna_trials(handle, optuna_storage)
    assert trial.state == TrialState.FAIL
    assert trial.user_attrs["error"] == "E" * 500


def test_a_trial_that_was_stopped_early_is_pruned(handle, optuna_storage, tmp_path):
    finish_one(handle, 1, tmp_path / "m", state="pruned")
    assert optuna_trials(handle, optuna_storage)[0].state == TrialState.PRUNED


def test_a_repetition_is_the_same_trial(handle, optuna_storage, tmp_path):
    assert handle.release(handle.ask(1))
    finish_one(handle, 1, tmp_path / "m")
    (trial,) = optuna_trials(handle, optuna_storage)
    assert trial.state == TrialState.COMPLETE


@pytest.mark.parametrize("lost", ["creation", "end"])
def test_what_was_written_but_not_noted_is_recognised(handle, optuna_storage, tmp_path, lost):
    finish_one(handle, 2, tmp_path / "m")
    before = optuna_trials(handle, optuna_storage)
    set_stage(handle, 0, 0 if lost == "creation" else 1)
    assert handle.publish() == 1
    assert publisher(handle).pending() == 0
    assert optuna_trials(handle, optuna_storage) == before


def test_whoever_comes_by_carries_over_what_a_dead_worker_left(
    handle, optuna_storage, tmp_path, monkeypatch
):
    monkeypatch.setattr(StudyHandle, "publish", lambda self, limit=None: 0)
    for _ in range(4):
        finish_one(handle, 4, tmp_path / "m")
    assert optuna_trials(handle, optuna_storage) == []
    monkeypatch.undo()
    other = StudyHandle.load(handle.storage, handle.name)
    assert other.publish(limit=3) == 3
    assert [t.number for t in optuna_trials(handle, optuna_storage)] == [0, 1, 2]
    assert other.ask(4) is None
    assert [t.number for t in optuna_trials(handle, optuna_storage)] == [0, 1, 2, 3]
    other.close()


def test_a_trial_that_somebody_else_wrote_is_not_taken_for_ours(handle, optuna_storage, tmp_path):
    study = optuna.load_study(study_name=handle.name, storage=optuna_storage)
    study.ask()
    with pytest.raises(StorageError, match=r"trial 0 there was written by somebody else"):
        finish_one(handle, 1, tmp_path / "m")


def test_a_study_that_was_deleted_in_the_dashboard_is_named(handle, optuna_storage, tmp_path):
    finish_one(handle, 2, tmp_path / "m")
    optuna.delete_study(study_name=handle.name, storage=optuna_storage)
    with pytest.raises(StorageError, match=r"not as automl-prune left it.*results are safe"):
        finish_one(handle, 2, tmp_path / "m")
    assert len(handle.rows()) == 2


def test_a_study_that_was_renamed_in_the_dashboard_goes_on(handle, optuna_storage, tmp_path):
    finish_one(handle, 2, tmp_path / "m")
    with optuna_storage.engine.begin() as connection:
        connection.execute(sa.text("UPDATE studies SET study_name = 'renamed'"))
    finish_one(handle, 2, tmp_path / "m")
    study = optuna.load_study(study_name="renamed", storage=optuna_storage)
    assert [t.number for t in study.get_trials()] == [0, 1]


def finish_some(url, count, folder, barrier):
    storage = open_storage(url)
    handle = StudyHandle.load(storage, "made-up")
    barrier.wait()
    while (assignment := handle.ask(count)) is not None:
        handle.complete(assignment, made_up_record(assignment), CURVES, model_files(folder))
    handle.close()
    storage.close()


@pytest.mark.postgres
def test_optunas_numbers_are_ours_however_many_publish(postgres_url, tmp_path):
    storage = open_storage(postgres_url)
    handle = StudyHandle.create_or_check(
        storage,
        made_up_config(search={"sampler": "random"}),
        made_up_facts(),
        tmp_path / "artifacts",
    )
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(4)
    processes = [
        context.Process(target=finish_some, args=(postgres_url, 30, tmp_path / f"m{i}", barrier))
        for i in range(4)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * 4
    handle.publish()
    optuna_storage = open_optuna(storage.database)
    trials = optuna_trials(handle, optuna_storage)
    rows = handle.rows()
    assert [t.number for t in trials] == [row.number for row in rows] == list(range(30))
    assert [t.values for t in trials] == [[row.accuracy, row.macs] for row in rows]
    optuna_storage.engine.dispose()
    storage.close()


@pytest.mark.postgres
def test_a_publisher_that_lost_its_connection_writes_nothing(handle_on_postgres):
    """A frozen publisher whose session the server ended wakes up: no lock, no write."""
    handle = handle_on_postgres
    handle.ask(3)
    settle(handle)
    set_stage(handle, 0, 0)
    killer = open_optuna(handle.storage.database)
    with handle._publisher._locked(wait=True) as storage:
        with killer.engine.begin() as connection:
            connection.execute(
                sa.text(
                    "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory'"
                )
            )
        with pytest.raises((StorageInternalError, SQLAlchemyError)):
            storage.get_n_trials(handle.optuna_study_id)
        storage.remove_session()
        with pytest.raises(publishing.LockLostError):
            storage.get_n_trials(handle.optuna_study_id)
    killer.engine.dispose()
    assert handle.publish() == 1, "and with the lock it goes on"


@pytest.fixture
def handle_on_postgres(postgres_url, tmp_path):
    storage = open_storage(postgres_url)
    handle = StudyHandle.create_or_check(
        storage, made_up_config(), made_up_facts(), tmp_path / "artifacts"
    )
    yield handle
    handle.close()
    storage.close()


def test_one_publishes_at_a_time(handle, tmp_path):
    finish_one(handle, 2, tmp_path / "m")
    set_stage(handle, 0, 1)
    with handle._publisher._locked(wait=True) as storage:
        assert storage is not None
        assert handle.publish(limit=5) == 0, "somebody is at it: left to that one"
        waiting = threading.Thread(target=handle.publish)
        waiting.start()
    waiting.join(timeout=20)
    assert isinstance(handle._publisher, Publisher)
    assert handle._publisher.pending() == 0
