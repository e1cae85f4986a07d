import pytest

from automl_prune.cli.places import locate, open_for_changing, open_for_reading
from automl_prune.errors import ConfigError, StudyNotFoundError


def test_a_file_a_shipped_name_and_a_stored_name(here):
    place = locate("tiny.toml", None)
    assert (place.name, place.url) == ("tiny", "sqlite:///runs/tiny/study.db")
    assert place.config.inner.steps == 12
    shipped = locate("digits", None, ["inner.steps=7"])
    assert (shipped.name, shipped.config.inner.steps) == ("digits", 7)
    stored = locate("somewhere-else", "sqlite:///other.db")
    assert (stored.name, stored.url, stored.config) == (
        "somewhere-else",
        "sqlite:///other.db",
        None,
    )
    assert [path.name for path in here.iterdir()] == ["tiny.toml"]


def test_folders_are_those_of_the_study_but_dense_models_are_shared(here):
    place = locate("tiny.toml", None)
    assert str(place.artifact_dir) == "runs/tiny/artifacts"
    assert str(place.checkpoint_dir) == "runs/tiny/checkpoints"
    assert place.dense_dir == locate("digits", None).dense_dir
    place.make_database_folder()
    assert (here / "runs" / "tiny").is_dir()
    locate("digits", "sqlite:///other.db").make_database_folder()
    assert not (here / "runs" / "digits").exists()


def test_overrides_need_something_to_override(here):
    with pytest.raises(ConfigError, match=r"inner\.steps=7"):
        locate("somewhere-else", None, ["inner.steps=7"])


def test_a_near_miss_is_suggested(searched):
    with pytest.raises(StudyNotFoundError, match="did you mean 'tiny'"):
        open_for_reading("tinny", None)
    with pytest.raises(StudyNotFoundError, match="did you mean 'digits'"):
        open_for_changing("digitz", None)


def test_reading_and_changing_open_the_same_study(searched):
    reader, handle = open_for_reading("tiny", None), open_for_changing("tiny", None)
    assert reader.rows() == handle.rows()
    assert not hasattr(reader, "ask")
    assert handle.facts == reader.facts
