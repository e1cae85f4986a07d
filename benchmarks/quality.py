"""The best front for the same compute: our search against its rivals, side by side.

    python benchmarks/quality.py --study digits --seeds 101 102 103 --trials 24 --json FILE

Every method gets the same dense checkpoint, splits, number of trials and steps per trial (weight
steps plus ratio steps; a method without ratio steps gets them as weight steps), the same
recalibration and the same fine-tuning with distillation. Methods that use λ have one trial less,
which pays for the loop on which its scale is measured. Methods without an inner loop choose from
all keep ratios that the inner loop can reach. Methods are written as they end: a second call with
the same file goes on where the first one stopped.

The front is chosen on ``select``; the score is its hypervolume on ``test`` (reference point:
chance accuracy, dense MACs) and its test accuracy at 70, 50 and 30 % of the dense MACs. ``test``
is read at the end, for the models that were chosen.

Our study runs without its uniform control trials, since uniform pruning is a rival here. Beside it
stands the dense model, fine-tuned for as many steps as lie between it and our model at half the
MACs.

Two rivals are packages of their own; a method whose package is missing is left out:

    pip install torch-pruning
    pip install nvidia-modelopt==0.47.0 torchprofile==0.0.4 huggingface_hub
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import json
import sys
import warnings
from pathlib import Path

import numpy as np
import optuna
import scipy.stats
import torch
from contest import Contest, Point
from rivals import OURS, RIVALS

from automl_prune.atomic import write_file
from automl_prune.config import load_study
from automl_prune.evaluate import hardware_name
from automl_prune.pareto import front, hypervolume
from automl_prune.workbench import versions

BUDGETS = (0.7, 0.5, 0.3)
METHODS = RIVALS | OURS


def scores(points: list[Point], chance: float) -> dict[str, float]:
    """Test hypervolume of the front chosen on select, and test accuracy at the budgets."""
    chosen = [points[i] for i in _front(points)]
    result = {
        "hypervolume": hypervolume(
            [tested_accuracy(p) for p in chosen],
            [p.macs_ratio for p in chosen],
            chance_accuracy=chance,
            dense_cost=1.0,
        )
    }
    for budget in BUDGETS:
        best = best_at(points, budget)
        result[f"at {budget:.0%}"] = (
            float("nan") if best is None else tested_accuracy(points[best])
        )
    return result


def tested(points: list[Point], contest: Contest) -> list[Point]:
    """The same points, with the test accuracy of those that are chosen on ``select``."""
    chosen = {*_front(points), *(best_at(points, budget) for budget in BUDGETS)}
    return [
        dataclasses.replace(point, test_accuracy=contest.accuracy(model, "test"))
        if index in chosen
        else point
        for index, (point, model) in enumerate(zip(points, contest.models, strict=True))
    ]


def _front(points: list[Point]) -> list[int]:
    return front([p.accuracy for p in points], [p.macs_ratio for p in points])


def best_at(points: list[Point], budget: float) -> int | None:
    """The best on ``select`` with at most this share of the MACs; it lies on the front."""
    fitting = [i for i, p in enumerate(points) if p.macs_ratio <= budget]
    return max(fitting, key=lambda i: (points[i].accuracy, -points[i].macs_ratio), default=None)


def tested_accuracy(point: Point) -> float:
    """Of a point that was chosen on ``select``."""
    assert point.test_accuracy is not None
    return point.test_accuracy


def run_setting(arguments: argparse.Namespace, results: dict[str, object], path: Path) -> None:
    """Run what is missing; a method that was interrupted is begun again."""
    runs = results.setdefault("runs", {})
    assert isinstance(runs, dict)
    for seed in arguments.seeds:
        todo = [m for m in arguments.methods if f"{m}/{seed}" not in runs]
        if not todo:
            continue
        overrides = (
            *arguments.set,
            f"seed={seed}",
            "search.baselines=0",
            "compute.measure_latency=false",
        )
        config = load_study(arguments.study, overrides)
        contest = Contest(config, path.parent / "dense", arguments.trials)
        results["chance"] = 100.0 / contest.bench.data.num_classes
        for method in todo:
            points: list[Point] = []
            contest.models.clear()
            try:
                for point in METHODS[method](contest):
                    points.append(point)
                    print(f"{method} seed {seed} trial {len(points)}: {point}", flush=True)
            except ImportError as error:
                print(f"{method} is left out: {error}", flush=True)
                continue
            except (RuntimeError, ValueError, ZeroDivisionError) as error:
                if method in OURS:
                    raise
                reason = f"{type(error).__name__}: {error}"[:300]
                print(f"{method} seed {seed} breaks: {reason}", flush=True)
                runs[f"{method}/{seed}"] = {"error": reason}
            else:
                points = tested(points, contest)
                entry = {
                    "points": [dataclasses.asdict(point) for point in points],
                    "dense_select": contest.bench.facts.dense_accuracy,
                }
                half = best_at(points, 0.5)
                if method == "ours" and half is not None:
                    entry["dense_trained_on"] = contest.dense_trained_on(points[half].steps)
                runs[f"{method}/{seed}"] = entry
            write_file(path, json.dumps(results, indent=1).encode())


def table(results: dict[str, object], methods: list[str], seeds: list[int]) -> tuple[str, bool]:
    """The result table as Markdown, and whether ours has the highest mean hypervolume."""
    runs, chance = results["runs"], float(results["chance"])  # type: ignore[arg-type]
    assert isinstance(runs, dict)
    by_method: dict[str, list[dict[str, float]]] = {}
    broken: dict[str, str] = {}
    for method in methods:
        entries = [runs[f"{method}/{seed}"] for seed in seeds if f"{method}/{seed}" in runs]
        failed = [entry["error"] for entry in entries if "error" in entry]
        if failed:
            broken[method] = failed[0]
        elif len(entries) == len(seeds):
            by_method[method] = [
                scores([Point(**point) for point in entry["points"]], chance) for entry in entries
            ]
    columns = ["hypervolume", *(f"at {budget:.0%}" for budget in BUDGETS)]
    lines = [
        "| method | " + " | ".join(columns) + " | ours minus it (hypervolume, 95 % interval) |",
        "|" + "---|" * (len(columns) + 2),
    ]
    means = {m: np.mean([row["hypervolume"] for row in rows]) for m, rows in by_method.items()}
    for method, rows in sorted(by_method.items(), key=lambda item: -means[item[0]]):
        cells = [f"{np.mean([row['hypervolume'] for row in rows]):.4f}"]
        cells += [f"{np.nanmean([row[c] for row in rows]):.2f}" for c in columns[1:]]
        difference = ""
        if method != "ours" and "ours" in by_method:
            differences = [
                a["hypervolume"] - b["hypervolume"]
                for a, b in zip(by_method["ours"], rows, strict=True)
            ]
            difference = interval(differences)
        lines.append(f"| {method} | " + " | ".join(cells) + f" | {difference} |")
    lines += [f"| {method} | breaks: {error} |" for method, error in broken.items()]
    if "ours" in by_method:
        lines += ["", *_accuracy_lines(by_method, runs, seeds)]
    rivals = [mean for method, mean in means.items() if method in RIVALS]
    first = "ours" in means and all(means["ours"] >= mean for mean in rivals)
    return "\n".join(lines), bool(first)


def _accuracy_lines(
    by_method: dict[str, list[dict[str, float]]], runs: dict[str, object], seeds: list[int]
) -> list[str]:
    """Test accuracy at half the MACs against the dense model, at 30 % against uniform."""
    dense = [runs[f"ours/{seed}"].get("dense_trained_on") for seed in seeds]  # type: ignore[attr-defined]
    halves = [row["at 50%"] for row in by_method["ours"]]
    lines = []
    if None not in dense:
        lines.append(
            "At 50 % of the MACs, ours minus the dense model trained on for as many steps "
            f"({np.mean(dense):.2f}): {interval(list(np.subtract(halves, dense)))}"
        )
    if "uniform" in by_method:
        pairs = zip(by_method["ours"], by_method["uniform"], strict=True)
        lines.append(
            "At 30 % of the MACs, ours minus uniform: "
            + interval([mine["at 30%"] - other["at 30%"] for mine, other in pairs])
        )
    return lines


def interval(differences: list[float]) -> str:
    """Mean of paired differences with its 95 % t interval."""
    mean = float(np.mean(differences))
    if len(differences) < 2:
        return f"{mean:+.4f}"
    half = float(
        scipy.stats.t.ppf(0.975, len(differences) - 1)
        * np.std(differences, ddof=1)
        / np.sqrt(len(differences))
    )
    return f"{mean:+.4f} ± {half:.4f}"


def main() -> int:
    """Run, print the table; exit status 1 where ours is not first."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--study", default="digits")
    parser.add_argument("--seeds", type=int, nargs="+", default=[101, 102, 103, 104, 105])
    parser.add_argument("--trials", type=int, default=24)
    parser.add_argument("--methods", nargs="+", default=[*RIVALS, "ours"], choices=list(METHODS))
    parser.add_argument("--set", action="append", default=[])
    parser.add_argument("--json", type=Path, default=Path("runs/bench/quality.json"))
    arguments = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
    results: dict[str, object] = {}
    if arguments.json.is_file():
        results = json.loads(arguments.json.read_text())
    setting = {"study": arguments.study, "trials": arguments.trials, "set": arguments.set}
    if results.setdefault("setting", setting) != setting:
        print(f"{arguments.json} holds another setting: {results['setting']}", file=sys.stderr)
        return 2
    results |= {
        "hardware": hardware_name(torch.device("cpu")),
        "versions": versions(),
        "date": datetime.date.today().isoformat(),
    }
    run_setting(arguments, results, arguments.json)
    text, first = table(results, arguments.methods, arguments.seeds)
    print(text)
    return 0 if first else 1


if __name__ == "__main__":
    sys.exit(main())
