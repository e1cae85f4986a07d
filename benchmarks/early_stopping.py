"""What early stopping saves, and what it costs: finished studies, replayed with each rule.

    python benchmarks/early_stopping.py --study digits --seeds 1 2 3 4 5 --json FILE

Runs the studies to their end with nothing stopped, noting every trial at its rungs. Then goes
through them again in the order in which trials finished: where would a rule have stopped a trial,
judging only by trials that it let finish? Prints the share of the search's compute (weight, ratio
and fine-tuning steps of all trials) that a rule saves, how many trials of the final front it would
have stopped, and how much hypervolume of the front was lost with them. A second call with the same
file measures nothing again.
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import json
import sys
import tempfile
from pathlib import Path

from automl_prune.config import load_study
from automl_prune.early_stopping import RULES, Rule, Rung, is_hopeless
from automl_prune.evaluate import hardware_name
from automl_prune.pareto import front, hypervolume
from automl_prune.search import hand_in, inheritance_of
from automl_prune.storage import open_storage
from automl_prune.study import StudyHandle
from automl_prune.trial import run_trial
from automl_prune.workbench import Workbench, versions

MARGINS = (0.0, 2.0, 5.0, 10.0)
DOMINATORS = (1, 2, 3, 5)


def run_study(study: str, overrides: tuple[str, ...], cache: Path) -> list[dict]:
    """Every trial in order: kind, steps, accuracy, MACs and rungs."""
    config = load_study(study, overrides)
    bench = Workbench.prepare(config, cache_dir=cache)
    trials = []
    with tempfile.TemporaryDirectory(prefix="early-stopping-") as scratch:
        storage = open_storage(f"sqlite:///{scratch}/study.db")
        handle = StudyHandle.create_or_check(
            storage, config, bench.facts, Path(scratch) / "artifacts"
        )
        while (assignment := handle.ask(config.search.trials)) is not None:
            rungs: list[Rung] = []

            def look(rung: Rung, rungs: list[Rung] = rungs) -> bool:
                rungs.append(rung)
                return False

            outcome = run_trial(
                bench,
                assignment.ratios,
                assignment.trade_off,
                kind=assignment.kind,
                seed=assignment.seed,
                inherited=inheritance_of(handle, bench, assignment.parent),
                is_hopeless=look,
            )
            record = outcome.record
            hand_in(handle, bench, assignment, outcome)
            trials.append(
                {
                    "kind": record.kind,
                    "accuracy": record.accuracy,
                    "macs": record.macs,
                    "steps": record.weight_steps + record.ratio_steps + record.finetune_steps,
                    "finetune_steps": record.finetune_steps,
                    "rungs": [dataclasses.asdict(rung) for rung in rungs],
                }
            )
        handle.close()
        storage.close()
    return trials


def replay(trials: list[dict], rule: Rule) -> dict[str, float]:
    """Share of the compute saved; trials stopped, and how many of them are on the final front."""
    let_finish: list[dict] = []
    saved = stopped = wrong = 0
    on_front = set(front([t["accuracy"] for t in trials], [t["macs"] for t in trials]))
    for number, trial in enumerate(trials):
        for rung in trial["rungs"] if trial["kind"] == "search" else ():
            same = [
                (other["accuracy"], other["macs"])
                for finished in let_finish
                for other in finished["rungs"]
                if other["number"] == rung["number"]
            ]
            if is_hopeless(Rung(**rung), same, rule):
                saved += trial["finetune_steps"] - rung["step"]
                stopped += 1
                wrong += number in on_front
                break
        else:
            let_finish.append(trial)
    whole = sum(trial["steps"] for trial in trials)
    return {
        "saved": saved / whole,
        "stopped": stopped,
        "wrong": wrong,
        "lost": score(trials) - score(let_finish),
        "front": len(on_front),
        "trials": len(trials),
    }


def score(trials: list[dict]) -> float:
    """Hypervolume on ``select``; reference point: a tenth right, the largest model's MACs."""
    largest = max(trial["macs"] for trial in trials)
    return hypervolume(
        [trial["accuracy"] for trial in trials],
        [trial["macs"] / largest for trial in trials],
        chance_accuracy=10.0,
        dense_cost=1.0,
    )


def main() -> int:
    """Run what is missing, replay, print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--study", default="digits")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3, 4, 5])
    parser.add_argument("--set", action="append", default=[], dest="overrides")
    parser.add_argument("--cache", type=Path, default=Path("dense-cache"))
    parser.add_argument("--json", type=Path, default=Path("runs/bench/early_stopping.json"))
    arguments = parser.parse_args()
    arguments.json.parent.mkdir(parents=True, exist_ok=True)
    found: dict = {"study": arguments.study, "set": arguments.overrides, "studies": {}}
    if arguments.json.is_file():
        found = json.loads(arguments.json.read_text())
        if [found["study"], found["set"]] != [arguments.study, arguments.overrides]:
            print(f"{arguments.json} holds another setting", file=sys.stderr)
            return 2
    for seed in arguments.seeds:
        if str(seed) in found["studies"]:
            continue
        overrides = (*arguments.overrides, f"seed={seed}", "compute.measure_latency=false")
        trials = run_study(arguments.study, overrides, arguments.cache)
        found["studies"][str(seed)] = trials
        found |= {
            "hardware": hardware_name("cpu"),
            "versions": versions(),
            "date": datetime.date.today().isoformat(),
        }
        arguments.json.write_text(json.dumps(found, indent=1) + "\n")
        print(f"seed {seed}: {len(trials)} trials", file=sys.stderr, flush=True)
    print(
        "| rule | compute saved, mean (least) | stopped | of the final fronts | hypervolume lost |"
    )
    print("|---|---|---|---|---|")
    named = {name: rule for name, rule in RULES.items()}
    grid = {
        f"{dominators} ahead by {margin:g}": Rule(dominators=dominators, margin=margin)
        for dominators in DOMINATORS
        for margin in MARGINS
    }
    for name, rule in (named | grid).items():
        rows = [replay(found["studies"][str(seed)], rule) for seed in arguments.seeds]
        saved = [row["saved"] for row in rows]
        total = {
            key: sum(row[key] for row in rows) for key in ("stopped", "wrong", "front", "trials")
        }
        print(
            f"| {name} | {sum(saved) / len(saved):.1%} ({min(saved):.1%}) | "
            f"{total['stopped']:.0f} of {total['trials']:.0f} | "
            f"{total['wrong']:.0f} of {total['front']:.0f} | "
            f"{sum(row['lost'] for row in rows) / len(rows):.4f} |"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
