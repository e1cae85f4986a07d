"""Facts and records of trials that nobody computed, for tests of what is stored and shown."""

from pathlib import Path

from automl_prune.config import StudyConfig
from automl_prune.records import GroupRow, Latency, StudyFacts, TrialCurves, TrialRecord

CURVES = TrialCurves(
    ratio_steps=(2,),
    ratios={"l0": (0.5,)},
    macs_ratio=(0.5,),
    search_loss=(1.0,),
    inner_loss=((1, 0.5),),
    finetune_loss=(),
)


def made_up_config(name="made-up", **tables):
    search = {"trials": 12, "baselines": 3, **tables.pop("search", {})}
    content = {
        "name": name,
        "seed": 5,
        "data": {"source": "digits"},
        "model": {"builder": "automl_prune.models:digits_net"},
        "search": search,
        **tables,
    }
    return StudyConfig.model_validate(content)


def made_up_facts(num_groups=3, **fields):
    groups = tuple(
        GroupRow(
            name=f"l{index}",
            layers=(f"l{index}",),
            units=16,
            channels_per_unit=1,
            macs_share=0.1,
            low=0.1,
            high=1.0,
        )
        for index in range(num_groups)
    )
    content = {
        "groups": groups,
        "fixed": (),
        "dense_macs": 1_000_000,
        "dense_params": 1000,
        "dense_accuracy": 95.0,
        "dense_digest": "d",
        "dense_latency": None,
        "min_macs": 10_000,
        "max_macs": 1_000_000,
        "cost_scale": 1.0,
        "input_shape": (1, 8, 8),
        "class_names": tuple("0123456789"),
        "split_sizes": {"train": 100},
        "select_contaminated": False,
    }
    return StudyFacts(**{**content, **fields})


def made_up_record(assignment, **fields):
    """A function of the assignment alone: a repetition gives the same record."""
    ratios = list(assignment.ratios.values())
    macs = round(1e6 * sum(r * r for r in ratios) / len(ratios))
    accuracy = 95 - 40 * sum((1 - r) ** 2 * (1 + i) for i, r in enumerate(ratios)) / (
        len(ratios) * (1 + len(ratios)) / 2
    )
    content = {
        "kind": assignment.kind,
        "state": "complete",
        "seed": assignment.seed,
        "trade_off": assignment.trade_off,
        "start_ratios": assignment.ratios,
        "final_ratios": assignment.ratios,
        "kept_units": {name: round(16 * r) for name, r in assignment.ratios.items()},
        "accuracy": accuracy,
        "accuracy_before_finetuning": accuracy - 1,
        "loss": 1.0,
        "macs": macs,
        "params": macs // 1000,
        "weight_steps": 1,
        "ratio_steps": 1,
        "finetune_steps": 1,
        "equivalence_error": 0.0,
        "config_digest": "c",
        "dense_digest": "d",
        "weights_digest": f"w{assignment.seed}",
        "parent": assignment.parent,
        "phase_s": {"inner": 0.5, "finetune": 0.25},
    }
    return TrialRecord(**{**content, **fields})


def made_up_latency(milliseconds, hardware="CPU"):
    return Latency(
        median_ms=milliseconds, spread_ms=0.1, batch_size=64, threads=1, hardware=hardware
    )


def model_files(folder: Path) -> dict[str, Path]:
    folder.mkdir(parents=True, exist_ok=True)
    files = {}
    for name in ("model.safetensors", "manifest.json"):
        (folder / name).write_bytes(f"bytes of {name}".encode())
        files[name] = folder / name
    return files


def finish_one(handle, target, folder, **fields):
    """Ask, make a record up, hand it in; None if there was nothing to do."""
    assignment = handle.ask(target)
    if assignment is not None:
        record = made_up_record(assignment, **fields)
        assert handle.complete(assignment, record, CURVES, model_files(folder))
    return assignment
