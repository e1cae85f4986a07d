"""Invented results for a study that is really stored: no network is trained here."""

import dataclasses
import hashlib
import json
import math
from pathlib import Path

import numpy as np
import sqlalchemy as sa

from automl_prune.config import StudyConfig
from automl_prune.records import (
    FailureRecord,
    GroupRow,
    Latency,
    StudyFacts,
    TrialCurves,
    TrialRecord,
    to_json,
)
from automl_prune.report import ResultRow
from automl_prune.storage import tables
from automl_prune.study import StudyHandle

HARDWARE = "Test CPU"


def latency(milliseconds: float, hardware: str = HARDWARE) -> Latency:
    return Latency(
        median_ms=milliseconds, spread_ms=0.1, batch_size=64, threads=1, hardware=hardware
    )


def invent_facts(num_groups: int = 4) -> StudyFacts:
    groups = tuple(
        GroupRow(
            name=f"stage{i}.conv",
            layers=(f"stage{i}.conv", f"stage{i}.norm"),
            units=8 * (1 + i % 4),
            channels_per_unit=1,
            macs_share=0.8 / num_groups,
            low=0.1,
            high=1.0,
        )
        for i in range(num_groups)
    )
    return StudyFacts(
        groups=groups,
        fixed=(),
        dense_macs=1_000_000,
        dense_params=50_000,
        dense_accuracy=95.0,
        dense_digest="d" * 64,
        dense_latency=latency(10.0),
        min_macs=20_000,
        max_macs=1_000_000,
        cost_scale=1.0,
        input_shape=(1, 8, 8),
        class_names=tuple("0123456789"),
        split_sizes={"train": 1000, "search": 100, "select": 100, "test": 300},
        select_contaminated=False,
    )


def invent_config(**search: object) -> StudyConfig:
    return StudyConfig.model_validate(
        {
            "name": "invented",
            "description": "Invented results",
            "data": {"source": "digits"},
            "model": {"builder": "automl_prune.models:digits_net"},
            "search": {"trials": 12, "baselines": 3, "sampler": "random", **search},
        }
    )


def invent_record(
    facts: StudyFacts,
    ratios: dict[str, float],
    *,
    number: int,
    kind: str = "search",
    trade_off: float = 0.5,
) -> TrialRecord:
    """Accuracy and MACs that follow from the ratios: the first group matters most."""
    rng = np.random.default_rng(number)
    final = {g.name: ratios.get(g.name, 1.0) for g in facts.groups}
    kept = {g.name: max(1, round(final[g.name] * g.units)) for g in facts.groups}
    share = float(np.mean(list(final.values())))
    first = final[facts.groups[0].name]
    accuracy = 95.0 - 30.0 * (1 - first) ** 2 - 20.0 * (1 - share) ** 3 + rng.normal(0, 0.3)
    macs = int(facts.dense_macs * share**1.5)
    return TrialRecord(
        kind=kind,
        state="complete",
        seed=number,
        trade_off=trade_off,
        start_ratios=dict(ratios),
        final_ratios=final,
        kept_units=kept,
        accuracy=round(accuracy, 2),
        accuracy_before_finetuning=round(accuracy - 5, 2),
        loss=0.2,
        macs=macs,
        params=int(facts.dense_params * share),
        weight_steps=50,
        ratio_steps=25,
        finetune_steps=50,
        equivalence_error=2e-7,
        config_digest="c" * 16,
        dense_digest=facts.dense_digest,
        weights_digest=hashlib.sha256(str(number).encode()).hexdigest(),
        latency=latency(10.0 * share),
        phase_s={"inner": 2.0, "finetune": 1.5},
        hardware=HARDWARE,
        versions={"torch": "0"},
    )


def invent_curves(facts: StudyFacts, record: TrialRecord) -> TrialCurves:
    steps = tuple(range(2, 51, 2))
    return TrialCurves(
        ratio_steps=steps,
        ratios={
            g.name: tuple(r0 + (record.final_ratios[g.name] - r0) * s / 50 for s in steps)
            for g in facts.groups
            for r0 in [record.start_ratios.get(g.name, 1.0)]
        },
        macs_ratio=tuple(0.9 - 0.5 * s / 50 for s in steps),
        search_loss=tuple(math.exp(-s / 20) for s in steps),
        inner_loss=tuple((s, math.exp(-s / 15)) for s in range(1, 51)),
        finetune_loss=tuple((s, 0.5 * math.exp(-s / 15)) for s in range(1, 51)),
    )


def fill(handle: StudyHandle, folder: Path, trials: int, *, fail: tuple[int, ...] = ()) -> None:
    """Finish trials until there are so many."""
    while (found := handle.ask(trials)) is not None:
        if found.number in fail:
            handle.fail(
                found,
                FailureRecord(
                    kind=found.kind,
                    seed=found.seed,
                    trade_off=found.trade_off,
                    start_ratios=found.ratios,
                    error="loss became NaN at step 7",
                    log="Traceback <lines>\nFloatingPointError: loss became NaN",
                ),
            )
            continue
        record = invent_record(
            handle.facts,
            found.ratios,
            number=found.number,
            kind=found.kind,
            trade_off=found.trade_off,
        )
        model = folder / "model.safetensors"
        model.write_bytes(b"weights of %d" % found.number)
        manifest = folder / "manifest.json"
        manifest.write_text(json.dumps({"version": 1, "trial": found.number}))
        handle.complete(
            found,
            record,
            invent_curves(handle.facts, record),
            {model.name: model, manifest.name: manifest},
        )


def row(number: int, accuracy: float | None, macs: int | None, **changes: object) -> ResultRow:
    """A search trial that is complete and feasible unless something else is said."""
    base = ResultRow(
        number=number,
        kind="search",
        state="complete",
        finish_order=number + 1,
        finished_at=1000.0 + number,
        seconds=3.0,
        trade_off=0.5,
        accuracy=accuracy,
        loss=0.1,
        macs=macs,
        macs_ratio=None if macs is None else macs / 1_000_000,
        params=None if macs is None else macs // 20,
        latency_ms=None if macs is None else macs / 100_000,
        latency_hardware=None if macs is None else HARDWARE,
        feasible=True,
        error=None,
    )
    return dataclasses.replace(base, **changes)


def fill_fast(handle: StudyHandle, trials: int) -> None:
    """Many finished trials at once, straight into our tables; none of them has artifacts."""
    slot_rows, result_rows = [], []
    rng = np.random.default_rng(0)
    for number in range(trials):
        kind = "baseline" if number < 5 else "search"
        center = 0.3 + 0.16 * number if kind == "baseline" else rng.uniform(0.3, 0.9)
        ratios = {
            g.name: float(np.clip(center + (kind == "search") * rng.normal(0, 0.1), 0.1, 1.0))
            for g in handle.facts.groups
        }
        trade_off = float(rng.uniform(0.1, 3.0))
        record = invent_record(handle.facts, ratios, number=number, kind=kind, trade_off=trade_off)
        ids = {"study_id": handle.study_id, "number": number, "kind": kind}
        slot_rows.append(
            {
                **ids,
                "state": "complete",
                "ratios": json.dumps(ratios),
                "trade_off": trade_off,
                "seed": number,
                "sampler_notes": "{}",
                "attempts": 1,
                "optuna_stage": 2,
            }
        )
        result_rows.append(
            {
                **ids,
                "token": f"{number:032d}",
                "finish_order": number + 1,
                "finished_at": 1e9 + number,
                "seconds": 3.5,
                "state": "complete",
                "trade_off": trade_off,
                "accuracy": record.accuracy,
                "loss": record.loss,
                "macs": record.macs,
                "params": record.params,
                "latency_ms": record.latency.median_ms,
                "latency_hardware": HARDWARE,
                "feasible": True,
                "constraints": "{}",
                "error": None,
                "record": to_json(record),
                "artifacts": "{}",
            }
        )

    def insert(connection: sa.Connection) -> None:
        connection.execute(sa.insert(tables.slots), slot_rows)
        connection.execute(sa.insert(tables.results), result_rows)
        connection.execute(sa.update(tables.studies).values(num_slots=trials, num_finished=trials))

    handle.storage.database.write(insert)
