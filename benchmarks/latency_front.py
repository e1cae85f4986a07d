"""Does a search for latency find what it says? Its front, measured again.

    python benchmarks/latency_front.py --study digits --trials 30 --json FILE

Runs a study with ``search.objective = "latency"`` in a temporary folder, then loads every model of
the front and measures it again, several times, beside the dense model as trials do. Prints
the rank correlation between the latencies that the trials noted and those measured afterwards.
Nothing else should be running.
"""

from __future__ import annotations

import argparse
import datetime
import json
import statistics
import sys
import tempfile
from pathlib import Path

import scipy.stats

from automl_prune.config import load_study
from automl_prune.evaluate import hardware_name, measure_latency
from automl_prune.modelfile import load_pruned
from automl_prune.report import pareto_rows
from automl_prune.search import run_search
from automl_prune.storage import open_storage
from automl_prune.study import StudyHandle
from automl_prune.workbench import Workbench, versions


def main() -> int:
    """Search, measure again, print; exit status 1 where the correlation is below 0.95."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--study", default="digits")
    parser.add_argument("--trials", type=int, default=30)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--set", action="append", default=[], dest="overrides")
    parser.add_argument("--cache", type=Path, default=Path("dense-cache"))
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    overrides = ('search.objective="latency"', "search.baselines=0", *arguments.overrides)
    config = load_study(arguments.study, overrides)
    bench = Workbench.prepare(config, cache_dir=arguments.cache)
    with tempfile.TemporaryDirectory(prefix="latency-") as scratch:
        folder = Path(scratch)
        storage = open_storage(f"sqlite:///{folder / 'study.db'}")
        handle = StudyHandle.create_or_check(storage, config, bench.facts, folder / "artifacts")
        run_search(
            handle,
            bench,
            target=arguments.trials,
            checkpoint_dir=folder / "checkpoints",
            on_event=lambda _event: None,
            should_stop=lambda: False,
        )
        front = pareto_rows(handle.rows(), objective="latency")
        models = {}
        for row in front:
            with handle.model_folder(row.number) as model_folder:
                models[row.number] = load_pruned(model_folder)
        handle.close()
    again: dict[int, list[float]] = {number: [] for number in models}
    assert bench.facts.dense_latency is not None
    for _ in range(arguments.rounds):
        for number, model in models.items():
            found = measure_latency(
                model,
                bench.data.input_shape,
                batch_size=config.compute.latency_batch_size,
                threads=config.compute.threads,
                device="cpu",
                reference=(bench.dense, bench.facts.dense_latency),
            )
            again[number].append(found.median_ms)
    rows = [
        {
            "trial": row.number,
            "accuracy": row.accuracy,
            "macs_ratio": row.macs_ratio,
            "noted_ms": row.latency_ms,
            "again_ms": statistics.median(again[row.number]),
        }
        for row in front
    ]
    correlation = float(
        scipy.stats.spearmanr(
            [row["noted_ms"] for row in rows], [row["again_ms"] for row in rows]
        ).statistic
    )
    print("| trial | accuracy on select | MACs | noted, ms | measured again, ms |")
    print("|---|---|---|---|---|")
    for row in rows:
        print(
            f"| {row['trial']} | {row['accuracy']:.2f} | {row['macs_ratio']:.3f} | "
            f"{row['noted_ms']:.3f} | {row['again_ms']:.3f} |"
        )
    print(f"\n{len(rows)} models, rank correlation {correlation:.3f}")
    if arguments.json is not None:
        content = {
            "command": " ".join(sys.argv),
            "rows": rows,
            "correlation": correlation,
            "config": json.loads(config.to_json()),
            "hardware": hardware_name("cpu"),
            "versions": versions(),
            "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        }
        arguments.json.write_text(json.dumps(content, indent=1) + "\n")
    return 0 if correlation >= 0.95 else 1


if __name__ == "__main__":
    sys.exit(main())
