import json

import optuna
import pytest
from invented import fill

from dashboards import optuna_pages
from dashboards.optuna_pages import (
    CHANNELS_ID,
    FRONT_ID,
    OUR_MARK,
    PagePublisher,
    publish_pages,
    study_note,
    trial_note,
)


@pytest.fixture
def optuna_storage(stored_study):
    stored_study.publish()
    storage = optuna.storages.RDBStorage(stored_study.storage.url)
    yield storage
    storage.engine.dispose()


def notes(storage, study, number):
    from optuna_dashboard._note import get_note_from_system_attrs

    attributes = storage.get_study_system_attrs(study.optuna_study_id)
    trial_id = None
    if number is not None:
        trial_id = storage.get_trial_id_from_study_id_trial_number(study.optuna_study_id, number)
    return get_note_from_system_attrs(attributes, trial_id)["body"]


def figures(storage, study):
    from optuna_dashboard._custom_plot_data import get_plotly_graph_objects

    found = get_plotly_graph_objects(storage.get_study_system_attrs(study.optuna_study_id))
    return {name: json.loads(text) for name, text in found.items()}


def test_figures_and_notes_are_there_as_the_optuna_dashboard_reads_them(
    studies, stored_study, optuna_storage
):
    snapshot = studies.view("invented").snapshot()
    assert publish_pages(stored_study, snapshot, optuna_storage) == 12
    found = figures(optuna_storage, stored_study)
    assert set(found) == {FRONT_ID, CHANNELS_ID}
    assert "bdata" not in json.dumps(found)  # its plotly.js cannot read packed arrays
    names = [trace.get("name", "") for trace in found[FRONT_ID]["data"]]
    assert any(name.startswith("beyond the limits") for name in names)
    assert notes(optuna_storage, stored_study, None) == study_note(stored_study, snapshot)
    for number in (0, 7):
        assert f"{snapshot.by_number[number].accuracy:.2f} %" in notes(
            optuna_storage, stored_study, number
        )
    assert "loss became NaN" in notes(optuna_storage, stored_study, 5)


def test_figures_keep_their_ids_and_notes_are_written_once(
    studies, stored_study, optuna_storage, tmp_path
):
    publish_pages(stored_study, studies.view("invented").snapshot(), optuna_storage)
    fill(stored_study, tmp_path, 13)
    stored_study.publish()
    assert publish_pages(stored_study, studies.view("invented").snapshot(), optuna_storage) == 1
    assert set(figures(optuna_storage, stored_study)) == {FRONT_ID, CHANNELS_ID}


def test_what_a_person_wrote_is_left_alone(studies, stored_study, optuna_storage):
    from optuna_dashboard import save_note

    study = optuna.load_study(study_name="invented", storage=optuna_storage)
    save_note(study, "my own words")
    publish_pages(stored_study, studies.view("invented").snapshot(), optuna_storage)
    assert notes(optuna_storage, stored_study, None) == "my own words"


def test_only_some_notes_are_written_at_once_and_the_next_call_goes_on(
    studies, stored_study, optuna_storage, monkeypatch
):
    monkeypatch.setattr(optuna_pages, "NOTES_AT_ONCE", 8)
    publisher = PagePublisher(studies, optuna_storage)
    assert list(publisher.publish_changed()) == ["invented"]
    assert list(publisher.publish_changed()) == ["invented"]
    assert list(publisher.publish_changed()) == []
    assert all(notes(optuna_storage, stored_study, number) for number in range(12))


def test_the_publishers_thread_ends(studies, stored_study, optuna_storage):
    publisher = PagePublisher(studies, optuna_storage)
    publisher.start()
    publisher.stop()
    assert not publisher._thread.is_alive()


def test_a_note_is_short_and_says_who_wrote_it(studies, stored_study):
    snapshot = studies.view("invented").snapshot()
    text = trial_note(stored_study, snapshot.by_number[3])
    record = stored_study.record(3)
    assert f"| `stage0.conv` | {record.kept_units['stage0.conv']} | 8 |" in text
    assert text.endswith(OUR_MARK)
    infeasible = next(row for row in snapshot.rows if not row.feasible and row.accuracy)
    assert "Beyond the study's limits" in trial_note(stored_study, infeasible)
