"""Verbs for many workers: init, worker, launch, migrate; all but init do without torch."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from automl_prune.cli import options
from automl_prune.cli.screens import say, warn

if TYPE_CHECKING:
    from automl_prune.study import StudyHandle
    from automl_prune.worker import WorkerEvent

Trials = Annotated[
    int | None,
    typer.Option(
        "--trials",
        metavar="N",
        min=1,
        help="Finished trials that the study shall have; default: as asked before, or "
        "search.trials.",
        show_default=False,
    ),
]
RequiredStorage = Annotated[
    str,
    typer.Option(
        "--storage",
        metavar="URL",
        envvar="AUTOML_PRUNE_STORAGE",
        help="SQLAlchemy URL of the storage.",
        show_default=False,
        show_envvar=True,
    ),
]


Artifacts = Annotated[
    Path | None,
    typer.Option(
        "--artifacts",
        metavar="DIR",
        envvar="AUTOML_PRUNE_ARTIFACTS",
        help="Folder of a new study's artifacts, the same path on every host; default: "
        "runs/STUDY/artifacts.",
        show_default=False,
        show_envvar=True,
    ),
]


def register(app: typer.Typer) -> None:
    """Add the verbs to the command line."""
    app.command("init")(init)
    app.command("worker")(worker)
    app.command("launch")(launch)
    app.command("migrate")(migrate)


def init(
    study: options.Study,
    storage: RequiredStorage,
    trials: Trials = None,
    overrides: options.Overrides = None,
    trust: options.Trust = None,
    device: options.Device = "cpu",
    artifacts: Artifacts = None,
) -> None:
    """Enter a study in a storage, its dense model trained and measured; workers can join then.

    A study that is there already is compared with the file and left as it is.
    Example: automl-prune init digits --storage postgresql://user@host/db
    """
    from automl_prune.cli.places import locate
    from automl_prune.cli.progress import search_display
    from automl_prune.cli.study_verbs import begin, stored
    from automl_prune.errors import ConfigError

    place = locate(study, storage, overrides)
    if place.config is None:
        raise ConfigError(f"init needs a study file (.toml) or a shipped study, found {study!r}")
    handle = stored(place)
    done = "was there already"
    if handle is None:
        from automl_prune.workbench import Workbench

        with search_display(place.config.search.trials, 0) as display:
            bench = Workbench.prepare(
                place.config,
                cache_dir=place.dense_dir,
                device=device,
                trusted=tuple(trust or ()),
                on_dense_progress=display.dense,
            )
        handle = begin(place, place.config, bench, artifacts or place.artifact_dir)
        done = "is ready"
    with closing(handle.storage):
        if trials is not None:
            handle.set_target(trials)
        shown, target = handle.storage.shown, handle.target()
    say(f"study {handle.name} {done} in {shown}: {target} trials asked for")


def worker(
    storage: RequiredStorage,
    study: Annotated[
        str,
        typer.Option(
            "--study", metavar="NAME", help="Its name in the storage.", show_default=False
        ),
    ],
    trust: options.Trust = None,
    device: options.Device = "cpu",
    lease_s: Annotated[
        float | None,
        typer.Option(
            "--lease-s",
            metavar="SECONDS",
            envvar="AUTOML_PRUNE_LEASE_S",
            min=1.0,
            help="A worker that is silent for so long loses its trial; default: 90.",
            show_default=False,
            show_envvar=True,
        ),
    ] = None,
) -> None:
    """Join a study: run trials until it has as many finished ones as it shall have.

    SIGTERM or Ctrl-C finishes the step, writes a checkpoint and hands the trial back; a second
    one stops at once.
    Example: automl-prune worker --storage postgresql://user@host/db --study digits
    """
    from automl_prune.stopping import StopRequest
    from automl_prune.storage import open_storage
    from automl_prune.study import StudyHandle
    from automl_prune.worker import Worker

    stop = StopRequest()
    with closing(open_storage(storage, must_exist=True)) as opened, stop.on_signals():
        handle = StudyHandle.load(opened, study)
        if lease_s is not None:
            handle.lease_s = lease_s
        with closing(handle):
            done = Worker(
                handle,
                device=device,
                trusted=tuple(trust or ()),
                on_event=_tell,
                should_stop=stop,
            ).work()
            finished = handle.finished_count()
    if not done:
        warn(f"stopped; the study has {finished} finished trials, the running one was handed back")
        raise typer.Exit(130)
    say(f"study {study} has its {finished} finished trials")


def _tell(event: WorkerEvent) -> None:
    if event.what == "started" and event.assignment is not None:
        again = f" (attempt {event.assignment.attempt})" if event.assignment.attempt > 1 else ""
        say(f"trial {event.assignment.number}, {event.assignment.kind}{again}")
    elif event.what == "ended" and event.assignment is not None and event.ending != "counted":
        warn(f"trial {event.assignment.number}: {event.ending}")


def launch(
    study: options.Study,
    workers: Annotated[
        int, typer.Option("--workers", metavar="N", min=1, help="Processes on this host.")
    ],
    storage: Annotated[
        str | None,
        typer.Option(
            "--storage",
            metavar="URL",
            envvar="AUTOML_PRUNE_STORAGE",
            help="PostgreSQL URL, or embedded: a server of the study's own in its run folder, "
            "which is the default.",
            show_default=False,
            show_envvar=True,
        ),
    ] = None,
    trials: Trials = None,
    overrides: options.Overrides = None,
    trust: options.Trust = None,
    device: Annotated[
        list[str] | None,
        typer.Option(
            "--device",
            metavar="DEVICE",
            help="cpu, cuda:0, ...; repeated: the workers take them in turn. Default: cpu.",
            show_default=False,
        ),
    ] = None,
    artifacts: Artifacts = None,
) -> None:
    """Run several workers on this host until the study has its trials.

    Crashed workers are restarted; Ctrl-C has all of them hand back their trials.
    Example: automl-prune launch digits --workers 2 --trials 40
    """
    from automl_prune.cli.live_view import live_view
    from automl_prune.cli.places import locate
    from automl_prune.embedded import EMBEDDED
    from automl_prune.launch import Launch, several_on_a_file
    from automl_prune.stopping import StopRequest
    from automl_prune.storage.urls import parse_url, sqlite_file

    place = locate(study, storage, overrides)
    if place.default_storage and not place.begun:
        place = locate(study, EMBEDDED, overrides)
    url = place.url
    if workers > 1 and sqlite_file(parse_url(url)) is not None:
        raise several_on_a_file(url, workers)
    names = device or ["cpu"]
    devices = [names[index % len(names)] for index in range(workers)]
    handle = _entered(study, url, trials, overrides, trust, devices[0], artifacts)
    stop = StopRequest()
    with closing(handle.storage), stop.on_signals(), live_view(handle) as show:
        done = Launch(
            handle,
            devices=devices,
            log_dir=place.run_dir / "logs",
            trusted=tuple(trust or ()),
            on_look=show,
            should_stop=stop,
        ).run()
        finished, target = handle.finished_count(), handle.target()
    if not done:
        warn(f"stopped with {finished} of {target} trials finished; the same command goes on")
        raise typer.Exit(130)
    say(f"{finished} trials finished")


def _entered(
    study: str,
    url: str,
    trials: int | None,
    overrides: list[str] | None,
    trust: list[str] | None,
    device: str,
    artifacts: Path | None,
) -> StudyHandle:
    """The stored study; ``init``, in a process of its own that loads torch, makes a new one."""
    import os
    import subprocess
    import sys

    from automl_prune.cli.places import locate
    from automl_prune.errors import EnvironmentProblemError
    from automl_prune.launch import COMMAND, STORAGE_VARIABLE
    from automl_prune.storage import open_storage
    from automl_prune.study import StudyHandle

    place = locate(study, url, overrides)
    if place.config is not None:
        words = [sys.executable, "-c", COMMAND, "init", study, "--device", device]
        words += [word for text in overrides or () for word in ("--set", text)]
        words += [word for text in trust or () for word in ("--trust", text)]
        words += ["--artifacts", str(artifacts)] if artifacts else []
        words += ["--trials", str(trials)] if trials is not None else []
        code = subprocess.run(
            words, env=os.environ | {STORAGE_VARIABLE: url}, check=False
        ).returncode
        if code == 2:  # its screen says why
            raise typer.Exit(2)
        if code:
            raise EnvironmentProblemError(f"`automl-prune init {study}` ended with {code}")
    handle = StudyHandle.load(open_storage(url, must_exist=True), place.name)
    if trials is not None:
        handle.set_target(trials)
    return handle


def migrate(storage: RequiredStorage) -> None:
    """Bring the tables of a storage to this version. Make a backup first.

    Example: automl-prune migrate --storage postgresql://user@host/db
    """
    from automl_prune.storage.opening import migrate_storage

    before, after = migrate_storage(storage)
    say(f"schema {after}" if before == after else f"schema {before} is now {after}")
