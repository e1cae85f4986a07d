import json

import pytest

from automl_prune.config import DataConfig
from automl_prune.errors import ModelFolderError
from automl_prune.manifest import (
    MANIFEST_FILE,
    MANIFEST_VERSION,
    Builder,
    Manifest,
    Splits,
    describe_trial,
    read_manifest,
)
from automl_prune.records import GroupRow, StudyFacts, TrialRecord

FACTS = StudyFacts(
    groups=(
        GroupRow(
            name="a",
            layers=("a", "b"),
            units=8,
            channels_per_unit=2,
            macs_share=0.5,
            low=0.1,
            high=1.0,
        ),
        GroupRow(
            name="c",
            layers=("c",),
            units=4,
            channels_per_unit=1,
            macs_share=0.1,
            low=1.0,
            high=1.0,
        ),
    ),
    fixed=(),
    dense_macs=1000,
    dense_params=300,
    dense_accuracy=91.25,
    dense_digest="ab" * 32,
    dense_latency=None,
    min_macs=100,
    max_macs=1000,
    cost_scale=1.5,
    input_shape=(3, 8, 8),
    class_names=("cat", "dog"),
    split_sizes={"train": 70, "search": 10, "select": 20, "test": 30},
    select_contaminated=True,
)
RECORD = TrialRecord(
    kind="search",
    state="complete",
    seed=4,
    trade_off=0.5,
    start_ratios={"a": 0.5},
    final_ratios={"a": 0.4, "c": 1.0},
    kept_units={"a": 3, "c": 4},
    accuracy=90.0,
    accuracy_before_finetuning=80.0,
    loss=0.3,
    macs=400,
    params=120,
    weight_steps=10,
    ratio_steps=5,
    finetune_steps=20,
    equivalence_error=1e-7,
    config_digest="c" * 16,
    dense_digest="ab" * 32,
    weights_digest="cd" * 32,
)


@pytest.fixture
def manifest():
    return describe_trial(
        study="tiny",
        trial=7,
        builder=Builder(path="automl_prune.models:digits_net", num_classes=2),
        splits=Splits(
            config=DataConfig(source="digits"), seed=3, sizes=FACTS.split_sizes, digest="d1"
        ),
        mean=(0.5,),
        std=(0.2,),
        facts=FACTS,
        record=RECORD,
        widths={"a": {"out": 6}},
        created="2026-01-01T00:00:00+00:00",
    )


def write(folder, content):
    text = content if isinstance(content, str) else json.dumps(content)
    (folder / MANIFEST_FILE).write_text(text)


def test_a_manifest_comes_back_as_it_was(manifest, tmp_path):
    write(tmp_path, manifest.to_json())
    assert read_manifest(tmp_path) == manifest


def test_a_trial_is_described_by_its_own_numbers(manifest):
    assert [(g.name, g.kept, g.units, g.layers) for g in manifest.groups] == [
        ("a", 3, 8, ("a", "b")),
        ("c", 4, 4, ("c",)),
    ]
    assert (manifest.macs, manifest.params) == (RECORD.macs, RECORD.params)
    assert manifest.select.accuracy == RECORD.accuracy
    assert manifest.select.num_images == FACTS.split_sizes["select"]
    assert manifest.test is None
    assert manifest.dense.digest == FACTS.dense_digest
    assert manifest.select_contaminated


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"version": MANIFEST_VERSION + 1}, "upgrade automl-prune"),
        ({"version": "1"}, "no version number"),
        ({"surprise": 1}, "surprise"),
        ({"macs": "many"}, "macs"),
        ({"weights_sha256": "short"}, "weights_sha256"),
        ({"builder": {"path": "os.system", "num_classes": 2}}, r"builder\.path"),
    ],
)
def test_a_wrong_manifest_is_refused_with_the_reason(manifest, tmp_path, change, message):
    write(tmp_path, manifest.model_dump(mode="json") | change)
    with pytest.raises(ModelFolderError, match=message):
        read_manifest(tmp_path)


def test_a_newer_manifest_with_unknown_keys_says_newer_not_damaged(manifest, tmp_path):
    content = manifest.model_dump(mode="json") | {"version": 99, "surprise": 1}
    write(tmp_path, content)
    with pytest.raises(ModelFolderError, match="version 99"):
        read_manifest(tmp_path)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"version": 1}'])
def test_damaged_text_is_refused(tmp_path, text):
    write(tmp_path, text)
    with pytest.raises(ModelFolderError, match="damaged"):
        read_manifest(tmp_path)


def test_bytes_that_are_no_text_are_refused(tmp_path):
    (tmp_path / MANIFEST_FILE).write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ModelFolderError, match="cannot be read"):
        read_manifest(tmp_path)


def test_many_mistakes_fit_on_one_screen(manifest, tmp_path):
    content = manifest.model_dump(mode="json") | {f"surprise{i}": i for i in range(200)}
    write(tmp_path, content)
    with pytest.raises(ModelFolderError, match="and 190 more") as caught:
        read_manifest(tmp_path)
    assert len(str(caught.value).splitlines()) < 20


def test_a_folder_without_manifest_is_named(tmp_path):
    with pytest.raises(ModelFolderError, match=r"no manifest\.json in it"):
        read_manifest(tmp_path)
    with pytest.raises(ModelFolderError, match="no such folder"):
        read_manifest(tmp_path / "nowhere")


def test_manifest_model_forbids_unknown_keys_everywhere():
    for part in Manifest.__mro__[1].__subclasses__():
        assert part.model_config["extra"] == "forbid"
        assert part.model_config["frozen"]
