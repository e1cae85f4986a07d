"""Verbs for many workers: worker, migrate; none of them loads torch itself."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING, Annotated

import typer

from automl_prune.cli import options
from automl_prune.cli.screens import say, warn

if TYPE_CHECKING:
    from automl_prune.worker import WorkerEvent

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


def register(app: typer.Typer) -> None:
    """Add the verbs to the command line."""
    app.command("worker")(worker)
    app.command("migrate")(migrate)


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


def migrate(storage: RequiredStorage) -> None:
    """Bring the tables of a storage to this version. Make a backup first.

    Example: automl-prune migrate --storage postgresql://user@host/db
    """
    from automl_prune.storage.opening import migrate_storage

    before, after = migrate_storage(storage)
    say(f"schema {after}" if before == after else f"schema {before} is now {after}")
