"""Does the inner loop do what it promises? Tables, and the same as JSON.

    python benchmarks/inner_loop.py destination --study digits --json FILE
    python benchmarks/inner_loop.py calibration --study cifar10_resnet20 --set model.builder=...
    python benchmarks/inner_loop.py uniform --study digits --json FILE
    python benchmarks/inner_loop.py uniform --study fashion_mnist_resnet20 --set inner.steps=60 ...

``destination``: final MACs over 8 trade-offs, with the study's number of ratio steps and with
twice as many, and from three starting points; without a budget, so that the price alone decides.
``calibration``: from r = 0.7 alone, as the study says, to see that λ means the same on any
network. ``uniform``: the pruned and fine-tuned model against one of uniform widths at the same
MACs (never fewer, at most one unit of channels more), with the same number of steps, on paired
seeds.
"""

from __future__ import annotations

import argparse
import copy
import datetime
import json
import sys
from pathlib import Path

import numpy as np
import scipy.stats
import torch

from automl_prune.config import StudyConfig, expected_macs_ratio, load_study
from automl_prune.evaluate import evaluate, hardware_name
from automl_prune.graph import count_macs
from automl_prune.inner import InnerLoop, project_to_budget
from automl_prune.prune import prune_model
from automl_prune.space import Space
from automl_prune.train import FineTuner, recalibrate
from automl_prune.workbench import Workbench, versions

STARTS = (0.7, 0.95, 0.4)


def run_loop(
    bench: Workbench,
    start: float | torch.Tensor,
    trade_off: float,
    seed: int,
    *,
    fixed: bool = False,
    stride: int | None = None,
) -> InnerLoop:
    config = bench.config
    if stride is not None:
        inner = config.inner.model_copy(update={"weight_steps_per_ratio_step": stride})
        config = config.model_copy(update={"inner": inner})
    start_G = torch.as_tensor(start, dtype=torch.float64).expand_as(bench.low_G)
    loop = InnerLoop(
        copy.deepcopy(bench.dense).requires_grad_(True),
        bench.graph,
        bench.cost,
        bench.data,
        config,
        start_G=torch.minimum(torch.maximum(start_G, bench.low_G), bench.high_G),
        low_G=bench.low_G,
        high_G=bench.high_G,
        trade_off=trade_off,
        cost_scale=bench.facts.cost_scale,
        seed=seed,
        device=bench.device,
        fixed=fixed,
    )
    loop.run(loop.total_steps)
    return loop


def counts_of(bench: Workbench, loop: InnerLoop) -> torch.Tensor:
    """Kept units of every group, in whole channels."""
    keep_U = loop.result().keep_U
    return torch.tensor([float(keep_U[g.units].sum()) for g in bench.graph.groups]).double()


def destination(bench: Workbench, seeds: list[int], trade_offs: list[float]) -> dict:
    stride = bench.config.inner.weight_steps_per_ratio_step
    if stride % 2:
        sys.exit("inner.weight_steps_per_ratio_step must be even here, so that it can be halved")

    def counts(start: float, stride: int) -> torch.Tensor:
        """Shape (trade-offs, seeds, groups)."""
        rows = []
        for trade_off in trade_offs:
            loops = [run_loop(bench, start, trade_off, s, stride=stride) for s in seeds]
            rows.append(torch.stack([counts_of(bench, loop) for loop in loops]))
            print(f"start {start}, λ {trade_off:.3f}, stride {stride}", file=sys.stderr)
        return torch.stack(rows)

    def macs(counts: torch.Tensor) -> np.ndarray:
        return np.array(
            [[float(bench.cost.macs(c)) / bench.cost.dense_macs for c in row] for row in counts]
        )

    by_start = {start: counts(start, stride) for start in STARTS}
    usual, doubled = macs(by_start[STARTS[0]]), macs(counts(STARTS[0], stride // 2))
    shift = (doubled - usual).mean(axis=1)
    half = scipy.stats.t.ppf(0.975, len(seeds) - 1) * scipy.stats.sem(doubled - usual, axis=1)
    pairs = [(by_start[a], by_start[b]) for a in STARTS for b in STARTS if a < b]
    widths = torch.tensor([float(g.num_units) for g in bench.graph.groups]).double()
    return {
        "trade_offs": trade_offs,
        "macs": usual.tolist(),
        "macs_doubled": doubled.tolist(),
        "macs_by_start": {str(s): macs(by_start[s]).mean(axis=1).tolist() for s in STARTS[1:]},
        "spearman": float(scipy.stats.spearmanr(trade_offs, usual.mean(axis=1)).statistic),
        "shift": shift.tolist(),
        "shift_half_interval": half.tolist(),
        "shift_mean": float(np.abs(shift).mean()),
        "shift_max": float(np.abs(shift).max()),
        "same_model_by_start": float(
            np.mean([((a == b).all(-1)).double().mean() for a, b in pairs])
        ),
        "width_difference_by_start": float(
            np.mean([((a - b).abs() / widths).mean() for a, b in pairs])
        ),
    }


def calibration(bench: Workbench, seeds: list[int], trade_offs: list[float]) -> dict:
    """MACs over the dense model's, per λ and seed: of the model, and where the ratios end."""
    dense = bench.cost.dense_macs
    loops = [[run_loop(bench, STARTS[0], t, seed) for seed in seeds] for t in trade_offs]
    return {
        "trade_offs": trade_offs,
        "expected": [expected_macs_ratio(trade_off) for trade_off in trade_offs],
        "macs": [[float(bench.cost.macs(counts_of(bench, x))) / dense for x in r] for r in loops],
        "of_ratios": [[loop.macs_ratio for loop in row] for row in loops],
        "lowest": bench.facts.min_macs / dense,
    }


def accuracy_of(bench: Workbench, loop: InnerLoop, seed: int) -> tuple[float, float, float]:
    """Accuracy on select before and after fine-tuning, and MACs over the dense model's."""
    config = bench.config
    model = prune_model(loop.model, bench.graph, loop.result().keep_U)
    recalibrate(
        model,
        bench.data,
        batches=config.finetune.recalibration_batches,
        batch_size=config.data.batch_size,
        seed=seed,
        device=bench.device,
    )

    def score() -> float:
        return evaluate(
            model.eval(), bench.data, "select", config.data, device=bench.device
        ).accuracy

    before = score()
    tuner = FineTuner(model, bench.dense, bench.data, config, seed=seed, device=bench.device)
    tuner.run(tuner.total_steps)
    macs = count_macs(model, bench.data.input_shape) / bench.facts.dense_macs
    return before, score(), macs


def uniform_at(bench: Workbench, macs_ratio: float) -> torch.Tensor:
    """Keep ratios in whole channels, as even as they can be, with at least these MACs."""
    wanted, budget = macs_ratio * bench.cost.dense_macs, macs_ratio * bench.cost.dense_macs
    bounds = {"low_G": bench.low_G, "high_G": bench.high_G}
    while True:
        counts_G = project_to_budget(
            torch.ones_like(bench.low_G),
            bench.cost,
            budget,
            channel_multiple=bench.config.groups.channel_multiple,
            **bounds,
        )
        if float(bench.cost.macs(counts_G.double())) >= wanted - 0.5:
            return counts_G / bench.cost.dense_counts_G
        budget += 0.001 * bench.cost.dense_macs


def uniform(
    bench: Workbench,
    seeds: list[int],
    trade_offs: list[float],
    start: float | None,
    notes: Path | None,
) -> dict:
    """Pairs of models; written to ``notes`` as they come, and taken from there when repeated."""
    done: list[dict] = []
    if notes is not None and notes.exists():
        done = [json.loads(line) for line in notes.read_text().splitlines()]
    rows = []
    for seed in seeds:
        for trade_off in trade_offs:
            begin = (1.0 + trade_off) ** -0.5 if start is None else start
            name = {
                "study": bench.config.digest(),
                "trade_off": trade_off,
                "start": begin,
                "seed": seed,
            }
            row = next((row for row in done if {key: row[key] for key in name} == name), None)
            if row is None:
                ours = accuracy_of(bench, run_loop(bench, begin, trade_off, seed), seed)
                even_G = uniform_at(bench, ours[2])
                theirs = accuracy_of(bench, run_loop(bench, even_G, 0.0, seed, fixed=True), seed)
                row = {**name, "ours": ours, "uniform": theirs}
                if notes is not None:
                    with notes.open("a") as file:
                        file.write(json.dumps(row) + "\n")
            rows.append(row)
            print(json.dumps(row), file=sys.stderr, flush=True)
    # trade-offs of one seed are averaged first: seeds are what is independent
    return {"rows": rows, "before": paired(rows, seeds, 0), "after": paired(rows, seeds, 1)}


def paired(rows: list[dict], seeds: list[int], column: int) -> dict[str, float]:
    by_seed = [
        float(np.mean([r["ours"][column] - r["uniform"][column] for r in rows if r["seed"] == s]))
        for s in seeds
    ]
    mean = float(np.mean(by_seed))
    half = float(scipy.stats.t.ppf(0.975, len(seeds) - 1) * scipy.stats.sem(by_seed))
    return {"mean": mean, "low": mean - half, "high": mean + half, "seeds": len(seeds)}


def show(name: str, found: dict) -> None:
    if name == "calibration":
        keys = ("trade_offs", "expected", "macs", "of_ratios")
        for trade_off, expected, macs, of_ratios in zip(*(found[k] for k in keys), strict=True):
            print(
                f"  λ {trade_off:<7.3f} stands for {expected:.3f}: MACs of the model "
                f"{np.mean(macs):.3f}, where the ratios end {np.mean(of_ratios):.3f}"
            )
        print(f"  at the lowest bounds {found['lowest']:.3f}")
        return
    if name == "destination":
        print("  λ        MACs     doubled  " + "  ".join(f"start {s}" for s in STARTS[1:]))
        for index, trade_off in enumerate(found["trade_offs"]):
            others = "  ".join(f"{v[index]:9.3f}" for v in found["macs_by_start"].values())
            usual, doubled = np.mean(found["macs"][index]), np.mean(found["macs_doubled"][index])
            print(f"  {trade_off:<7.3f}  {usual:.3f}    {doubled:.3f}  {others}")
        interval = max(found["shift_half_interval"])
        print(
            f"Spearman {found['spearman']:.3f}\n"
            f"doubling the ratio steps moves the mean by {found['shift_mean']:.3f} on average, "
            f"by {found['shift_max']:.3f} at most (95% interval: +-{interval:.3f} or less)\n"
            f"models from two starting points differ by {found['width_difference_by_start']:.3f} "
            f"of a group's width; {found['same_model_by_start']:.3f} of them are the same"
        )
        return
    print("  λ        MACs ours / uniform   accuracy ours / uniform, fine-tuned")
    for trade_off in dict.fromkeys(row["trade_off"] for row in found["rows"]):
        rows = [row for row in found["rows"] if row["trade_off"] == trade_off]
        ours = np.mean([row["ours"] for row in rows], axis=0)
        even = np.mean([row["uniform"] for row in rows], axis=0)
        print(
            f"  {trade_off:<7.3f}  {ours[2]:.3f} / {even[2]:.3f}         "
            f"{ours[1]:.2f} / {even[1]:.2f}"
        )
    for when in ("before", "after"):
        d = found[when]
        print(
            f"{when} fine-tuning: ours - uniform = {d['mean']:+.2f} points, 95% interval "
            f"[{d['low']:+.2f}, {d['high']:+.2f}], {d['seeds']} paired seeds"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("table", choices=["destination", "calibration", "uniform"])
    parser.add_argument("--study", default="digits")
    parser.add_argument("--set", action="append", default=[], dest="overrides")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--trade-offs", type=float, nargs="+")
    parser.add_argument(
        "--start",
        type=float,
        help="keep ratio to start from; default: (1 + λ)^-1/2, near where λ leads",
    )
    parser.add_argument("--cache", type=Path, default=Path("dense-cache"))
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    # without a budget: where the price itself leads
    price_alone = () if arguments.table == "calibration" else ("inner.budget_ratio=none",)
    config: StudyConfig = load_study(arguments.study, (*price_alone, *arguments.overrides))
    bench = Workbench.prepare(config, cache_dir=arguments.cache)
    low, high = Space.of(config, bench.facts).useful_trade_offs
    count = 8 if arguments.table == "destination" else 3
    trade_offs = arguments.trade_offs or np.geomspace(low, high, count).tolist()
    if arguments.table == "destination":
        found = destination(bench, arguments.seeds, trade_offs)
    elif arguments.table == "calibration":
        found = calibration(bench, arguments.seeds, trade_offs)
    else:
        notes = arguments.json and arguments.json.with_suffix(".pairs.jsonl")
        found = uniform(bench, arguments.seeds, trade_offs, arguments.start, notes)
    show(arguments.table, found)
    if arguments.json is not None:
        content = {
            "table": arguments.table,
            "command": " ".join(sys.argv),
            "seeds": arguments.seeds,
            "config": json.loads(config.to_json()),
            "dense_accuracy": bench.facts.dense_accuracy,
            "hardware": hardware_name(bench.device),
            "threads": config.compute.threads,
            "versions": versions(),
            "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            **found,
        }
        arguments.json.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
