import dataclasses
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from automl_prune.errors import SchemaError
from automl_prune.records import (
    RECORD_VERSION,
    VOLATILE,
    FailureRecord,
    FixedRow,
    GroupRow,
    Latency,
    StudyFacts,
    TrialCurves,
    TrialRecord,
    from_json,
    to_json,
)

LATENCY = Latency(median_ms=0.1 + 0.2, spread_ms=1e-9, batch_size=64, threads=2, hardware="CPU")
RECORD = TrialRecord(
    kind="search",
    state="complete",
    seed=2**62 + 1,
    trade_off=1 / 3,
    start_ratios={"conv1": 0.1 + 0.2},
    final_ratios={"conv1": 2 / 3},
    kept_units={"conv1": 11},
    accuracy=91.7,
    accuracy_before_finetuning=88.123456789,
    loss=5e-324,
    macs=2**40 + 1,
    params=3,
    weight_steps=1,
    ratio_steps=2,
    finetune_steps=3,
    equivalence_error=1e-7,
    config_digest="a",
    dense_digest="b",
    weights_digest="c",
    latency=LATENCY,
    phase_s={"inner": 1.5},
    hardware="CPU",
    versions={"torch": "2"},
)
FACTS = StudyFacts(
    groups=(
        GroupRow(
            name="conv1",
            layers=("conv1", "layer1.0.conv2"),
            units=16,
            channels_per_unit=1,
            macs_share=0.1,
            low=0.1,
            high=1.0,
        ),
    ),
    fixed=(FixedRow(layer="linear", channels=10, reason="model output"),),
    dense_macs=1,
    dense_params=2,
    dense_accuracy=3.0,
    dense_digest="d",
    dense_latency=None,
    min_macs=1,
    max_macs=2,
    cost_scale=0.7,
    input_shape=(3, 32, 32),
    class_names=("a", "b"),
    split_sizes={"train": 5},
    select_contaminated=False,
)
CURVES = TrialCurves(
    ratio_steps=(2, 4),
    ratios={"conv1": (0.5, 0.25)},
    macs_ratio=(0.5, 0.1 + 0.2),
    search_loss=(1.0, 2.0),
    inner_loss=((1, 0.5), (2, 0.25)),
    finetune_loss=(),
)
FAILURE = FailureRecord(
    kind="baseline", seed=1, trade_off=1.0, start_ratios={}, error="boom", log="line\nline"
)


@pytest.mark.parametrize("record", [RECORD, FACTS, CURVES, FAILURE, LATENCY], ids=type)
def test_records_come_back_from_json_equal(record):
    assert from_json(type(record), to_json(record)) == record


def test_parts_come_back_with_their_types():
    record = from_json(TrialRecord, to_json(RECORD))
    assert isinstance(record.latency, Latency)
    facts = from_json(StudyFacts, to_json(FACTS))
    assert isinstance(facts.groups[0], GroupRow)
    assert isinstance(facts.groups[0].layers, tuple)
    assert isinstance(from_json(TrialCurves, to_json(CURVES)).inner_loss[0], tuple)


@given(st.floats(allow_nan=False, allow_infinity=False), st.integers(0, 2**63 - 1))
def test_numbers_keep_every_bit(number, seed):
    record = dataclasses.replace(RECORD, loss=number, seed=seed, phase_s={"x": number})
    back = from_json(TrialRecord, to_json(record))
    assert back.loss.hex() == number.hex()
    assert back.phase_s["x"].hex() == number.hex()
    assert back.seed == seed


def test_equal_records_give_equal_text_whatever_the_order_of_their_dicts():
    one = dataclasses.replace(RECORD, kept_units={"a": 1, "b": 2})
    two = dataclasses.replace(RECORD, kept_units={"b": 2, "a": 1})
    assert to_json(one) == to_json(two)


def test_a_record_of_a_newer_version_is_refused():
    content = json.loads(to_json(RECORD)) | {"version": RECORD_VERSION + 1}
    with pytest.raises(SchemaError, match=r"upgrade automl-prune"):
        from_json(TrialRecord, json.dumps(content))


def test_an_unknown_field_of_the_same_version_is_passed_over():
    content = json.loads(to_json(RECORD)) | {"added_later": 1}
    assert from_json(TrialRecord, json.dumps(content)) == RECORD


def test_deterministic_part_leaves_out_exactly_what_may_differ():
    other = dataclasses.replace(
        RECORD, latency=None, phase_s={}, hardware="other", versions={"torch": "3"}
    )
    assert RECORD.deterministic() == other.deterministic()
    fields = {field.name for field in dataclasses.fields(TrialRecord)}
    assert fields - RECORD.deterministic().keys() == VOLATILE
    changed = dataclasses.replace(RECORD, weights_digest="z")
    assert RECORD.deterministic() != changed.deterministic()


def test_records_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        RECORD.macs = 5
