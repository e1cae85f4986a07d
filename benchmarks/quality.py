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
is evaluated after every trial only so that models need not be kept; nothing selects on it.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import datetime
import json
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import optuna
import scipy.stats
import torch

from automl_prune.atomic import write_file
from automl_prune.config import StudyConfig, load_study
from automl_prune.evaluate import evaluate, hardware_name
from automl_prune.graph.cost import count_macs
from automl_prune.inner import project_to_budget
from automl_prune.inner.rank import ranks_of, unit_importance
from automl_prune.inner.window import group_sizes, unit_groups
from automl_prune.mask import masked_forward
from automl_prune.pareto import front, hypervolume
from automl_prune.prune import prune_model
from automl_prune.seeds import derive_seed, trial_seed
from automl_prune.storage import open_storage
from automl_prune.study import StudyHandle
from automl_prune.train import FineTuner, recalibrate
from automl_prune.trial import run_trial
from automl_prune.workbench import Workbench, versions

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

BUDGETS = (0.7, 0.5, 0.3)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """One trial of one method."""

    accuracy: float
    """Percent, on ``select``."""
    test_accuracy: float
    macs_ratio: float
    seconds: float


class Contest:
    """One seed of one setting: the bench, and how a trial of any method is run and scored."""

    def __init__(self, config: StudyConfig, cache_dir: Path, trials: int) -> None:
        self.config = config
        self.trials = trials
        self.bench = Workbench.prepare(config, cache_dir=cache_dir)
        self.names = [row.name for row in self.bench.facts.groups if row.low < row.high]
        self.reachable = (config.groups.min_ratio, config.search.ratio[1])
        """Keep ratios that methods without an inner loop choose from."""
        inner = config.inner
        self.loop_steps = inner.steps + inner.steps // inner.weight_steps_per_ratio_step
        """Weight steps and ratio steps of our inner loop."""

    def run(
        self, ratios: dict[str, float], trade_off: float, kind: str, number: int
    ) -> tuple[Point, object]:
        """A trial of ours, or (``baseline``) the same compute with these ratios held fixed."""
        begun = time.perf_counter()
        outcome = run_trial(
            self.bench,
            ratios,
            trade_off,
            kind=kind,  # type: ignore[arg-type]
            seed=trial_seed(self.config.seed, number),
        )
        return self.score(outcome.model, begun), outcome

    def train_pruned(self, model: torch.nn.Module, number: int) -> Point:
        """A network that another tool pruned gets the compute of a whole trial as fine-tuning."""
        return self.finetuned(model, number, time.perf_counter(), self.loop_steps)

    def finetuned(
        self, model: torch.nn.Module, number: int, begun: float, extra_steps: int = 0
    ) -> Point:
        """Recalibrated and fine-tuned as every trial, and scored."""
        bench, config = self.bench, self.config
        seed = trial_seed(config.seed, number)
        model = model.to(memory_format=torch.channels_last).requires_grad_(True)
        recalibrate(
            model,
            bench.data,
            batches=config.finetune.recalibration_batches,
            batch_size=config.data.batch_size,
            seed=seed,
            device=bench.device,
        )
        tuner = FineTuner(
            model,
            bench.dense,
            bench.data,
            config,
            seed=seed,
            device=bench.device,
            steps=extra_steps + config.finetune.steps,
        )
        tuner.run(tuner.total_steps, None)
        return self.score(model.eval(), begun)

    def score(self, model: torch.nn.Module, begun: float) -> Point:
        """Accuracy on both splits and MACs."""
        bench = self.bench
        select, test = (
            evaluate(model, bench.data, split, self.config.data, device=bench.device).accuracy
            for split in ("select", "test")
        )
        return Point(
            accuracy=select,
            test_accuracy=test,
            macs_ratio=count_macs(model, bench.data.input_shape) / bench.facts.dense_macs,
            seconds=time.perf_counter() - begun,
        )


def uniform(contest: Contest) -> Iterator[Point]:
    """One fixed keep ratio for all groups, spread over the range; L2 ranking."""
    low, high = contest.reachable
    for number, ratio in enumerate(np.linspace(high, low, contest.trials)):
        ratios = dict.fromkeys(contest.names, float(ratio))
        yield contest.run(ratios, 1.0, "baseline", number)[0]


def random_search(contest: Contest) -> Iterator[Point]:
    """Random ratios per group, held fixed."""
    generator = np.random.default_rng(derive_seed(contest.config.seed, "random-search"))
    low, high = contest.reachable
    for number in range(contest.trials):
        ratios = {name: float(generator.uniform(low, high)) for name in contest.names}
        yield contest.run(ratios, 1.0, "baseline", number)[0]


def _optuna_search(contest: Contest, sampler: optuna.samplers.BaseSampler) -> Iterator[Point]:
    study = optuna.create_study(directions=["maximize", "minimize"], sampler=sampler)
    low, high = contest.reachable
    for number in range(contest.trials):
        trial = study.ask()
        ratios = {name: trial.suggest_float(name, low, high) for name in contest.names}
        point, _ = contest.run(ratios, 1.0, "baseline", number)
        study.tell(trial, [point.accuracy, point.macs_ratio])
        yield point


def tpe(contest: Contest) -> Iterator[Point]:
    """Plain Optuna: TPE over fixed ratios."""
    seed = derive_seed(contest.config.seed, "tpe") % 2**32
    yield from _optuna_search(contest, optuna.samplers.TPESampler(seed=seed))


def nsga2(contest: Contest) -> Iterator[Point]:
    """Plain Optuna: NSGA-II over fixed ratios."""
    seed = derive_seed(contest.config.seed, "nsga2") % 2**32
    sampler = optuna.samplers.NSGAIISampler(seed=seed, population_size=max(4, contest.trials // 4))
    yield from _optuna_search(contest, sampler)


def gradient_only(contest: Contest) -> Iterator[Point]:
    """The inner loop from one starting point, with a sweep of λ; no outer search."""
    low, high = contest.config.search.tradeoff
    for number, trade_off in enumerate(np.geomspace(low, high, contest.trials - 1)):
        ratios = dict.fromkeys(contest.names, 0.7)
        yield contest.run(ratios, float(trade_off), "search", number)[0]


def torch_pruning(contest: Contest, *, global_ranking: bool) -> Iterator[Point]:
    """Torch-Pruning: group L2, global or uniform, over a sweep of pruning ratios."""
    import torch_pruning as tp

    low, high = contest.reachable
    example = torch.zeros(1, *contest.bench.data.input_shape)
    for number, keep in enumerate(np.linspace(high, low, contest.trials)):
        model = copy.deepcopy(contest.bench.dense).requires_grad_(True)
        linears = [m for m in model.modules() if isinstance(m, torch.nn.Linear)]
        pruner = tp.pruner.BasePruner(
            model,
            example,
            importance=tp.importance.GroupMagnitudeImportance(p=2),
            global_pruning=global_ranking,
            pruning_ratio=1.0 - float(keep),
            ignored_layers=linears[-1:],
        )
        pruner.step()
        yield contest.train_pruned(model, number)


def torch_pruning_global(contest: Contest) -> Iterator[Point]:
    """Torch-Pruning with global ranking."""
    yield from torch_pruning(contest, global_ranking=True)


def torch_pruning_uniform(contest: Contest) -> Iterator[Point]:
    """Torch-Pruning with the same ratio everywhere."""
    yield from torch_pruning(contest, global_ranking=False)


def dms(contest: Contest) -> Iterator[Point]:
    """Differentiable Model Scaling (Liu et al. 2024, arXiv 2405.07194), over a sweep of MACs.

    Our reconstruction from the paper: units are ranked by a moving average of their Taylor
    importance; the ranks, spread evenly over (0, 1], pass a sigmoid of slope C around the pruning
    ratio a of their group; a and the weights are trained jointly on ``train``, with
    log(F / target) added to the loss while the network is too large.
    """
    low, high = contest.reachable
    cost = contest.bench.cost
    shares = [
        float(cost.macs(ratio * cost.dense_counts_G)) / cost.dense_macs for ratio in (low, high)
    ]
    for number, share in enumerate(np.linspace(shares[1], shares[0], contest.trials)):
        begun = time.perf_counter()
        model, keep_U = _dms_loop(contest, float(share), number)
        pruned = prune_model(model, contest.bench.graph, keep_U)
        yield contest.finetuned(pruned, number, begun)


DMS_RATIO_LR, DMS_DECAY, DMS_RESOURCE_WEIGHT = 0.02, 0.99, 1.0


def _dms_loop(contest: Contest, share: float, number: int) -> tuple[torch.nn.Module, torch.Tensor]:
    bench, inner = contest.bench, contest.config.inner
    graph, cost = bench.graph, bench.cost
    seed = trial_seed(contest.config.seed, number)
    model = copy.deepcopy(bench.dense).requires_grad_(True).train()
    group_U, sizes_G = unit_groups(graph), group_sizes(graph)
    a_G = torch.full_like(sizes_G, 0.05).requires_grad_(True)
    importance_U = unit_importance(model, graph)
    by_ratio = torch.optim.Adam([a_G], lr=DMS_RATIO_LR)
    by_weight = torch.optim.SGD(
        model.parameters(),
        lr=inner.weight_lr,
        momentum=inner.weight_momentum,
        weight_decay=inner.weight_decay,
        nesterov=True,
    )
    batches = bench.data.stream(
        "train",
        batch_size=contest.config.data.batch_size,
        seed=seed,
        augment=True,
        device=bench.device,
    )
    for step in range(contest.loop_steps):
        images_BCHW, labels_B = next(batches)
        place_U = 1.0 - ranks_of(importance_U, graph) / sizes_G[group_U]
        mask_U = torch.sigmoid(sizes_G[group_U] * (place_U - a_G[group_U]))
        mask_U.retain_grad()
        logits_BK = masked_forward(model, graph, mask_U, images_BCHW)
        counts_G = torch.zeros_like(sizes_G).index_add(0, group_U, mask_U)
        excess = torch.log(cost.macs(counts_G) / (share * cost.dense_macs)).clamp(min=0.0)
        by_ratio.zero_grad()
        by_weight.zero_grad()
        task = bench.data.loss(logits_BK, labels_B)
        task.backward(retain_graph=True)  # type: ignore[no-untyped-call]
        assert mask_U.grad is not None
        taylor_U = (mask_U.detach() * mask_U.grad).square()
        kept = 0.0 if step == 0 else DMS_DECAY
        importance_U = kept * importance_U + (1.0 - kept) * taylor_U
        (DMS_RESOURCE_WEIGHT * excess).backward()  # type: ignore[no-untyped-call]
        by_ratio.step()
        by_weight.step()
        with torch.no_grad():
            a_G.copy_(torch.minimum(a_G.clamp(min=0.0), 1.0 - bench.low_G))
    counts_G = project_to_budget(
        1.0 - a_G.detach(),
        cost,
        share * cost.dense_macs,
        low_G=bench.low_G,
        high_G=bench.high_G,
    )
    return model, ranks_of(importance_U, graph) < counts_G[group_U]


def ours(contest: Contest) -> Iterator[Point]:
    """The study as shipped: baselines first, then proposals and the inner loop."""
    with tempfile.TemporaryDirectory() as folder:
        storage = open_storage(f"sqlite:///{folder}/study.db")
        handle = StudyHandle.create_or_check(
            storage, contest.config, contest.bench.facts, Path(folder) / "artifacts"
        )
        try:
            while (assignment := handle.ask(contest.trials - 1)) is not None:
                point, outcome = contest.run(
                    assignment.ratios, assignment.trade_off, assignment.kind, assignment.number
                )
                handle.complete(assignment, outcome.record, outcome.curves, {})  # type: ignore[attr-defined]
                yield point
        finally:  # its thread writes to the folder
            handle.close()
            storage.close()


METHODS: dict[str, Callable[[Contest], Iterator[Point]]] = {
    "ours": ours,
    "uniform": uniform,
    "torch-pruning global": torch_pruning_global,
    "torch-pruning uniform": torch_pruning_uniform,
    "random ratios": random_search,
    "tpe ratios": tpe,
    "nsga2 ratios": nsga2,
    "dms": dms,
    "gradient only": gradient_only,
}


def scores(points: list[Point], chance: float) -> dict[str, float]:
    """Test hypervolume of the front chosen on select, and test accuracy at the budgets."""
    chosen = [
        points[i] for i in front([p.accuracy for p in points], [p.macs_ratio for p in points])
    ]
    result = {
        "hypervolume": hypervolume(
            [p.test_accuracy for p in chosen],
            [p.macs_ratio for p in chosen],
            chance_accuracy=chance,
            dense_cost=1.0,
        )
    }
    for budget in BUDGETS:
        fitting = [p for p in points if p.macs_ratio <= budget]
        best = max(fitting, key=lambda p: p.accuracy, default=None)
        result[f"at {budget:.0%}"] = best.test_accuracy if best else float("nan")
    return result


def run_setting(arguments: argparse.Namespace, results: dict[str, object], path: Path) -> None:
    """Run what is missing; a method that was interrupted is begun again."""
    runs = results.setdefault("runs", {})
    assert isinstance(runs, dict)
    for seed in arguments.seeds:
        todo = [m for m in arguments.methods if f"{m}/{seed}" not in runs]
        if not todo:
            continue
        overrides = (*arguments.set, f"seed={seed}", "compute.measure_latency=false")
        config = load_study(arguments.study, overrides)
        contest = Contest(config, path.parent / "dense", arguments.trials)
        results["chance"] = 100.0 / contest.bench.data.num_classes
        for method in todo:
            points = []
            try:
                for point in METHODS[method](contest):
                    points.append(dataclasses.asdict(point))
                    print(f"{method} seed {seed} trial {len(points)}: {point}", flush=True)
            except (RuntimeError, ValueError, ZeroDivisionError) as error:
                if method == "ours":
                    raise
                runs[f"{method}/{seed}"] = {"error": f"{type(error).__name__}: {error}"[:300]}
            else:
                runs[f"{method}/{seed}"] = {
                    "points": points,
                    "dense_select": contest.bench.facts.dense_accuracy,
                }
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
    first = "ours" in means and all(means["ours"] >= value for value in means.values())
    return "\n".join(lines), bool(first)


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
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS))
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
