"""Verbs that tidy up a stored study: gc, delete; neither loads torch."""

from __future__ import annotations

from typing import Annotated

import typer

from automl_prune.cli import options
from automl_prune.cli.screens import say, size_text


def register(app: typer.Typer) -> None:
    """Add the verbs to the command line."""
    app.command("gc")(gc)
    app.command("delete")(delete)


def gc(
    study: options.Study,
    storage: options.Storage = None,
    recent: Annotated[
        int, typer.Option("--recent", metavar="N", min=0, help="Also keep the N newest trials.")
    ] = 10,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would go.")] = False,
) -> None:
    """Delete the artifacts of trials that are neither on the front nor recent.

    Their rows stay. Example: automl-prune gc digits --recent 5
    """
    from automl_prune.cli.places import open_for_changing

    handle = open_for_changing(study, storage)
    rows = handle.rows()
    newest = sorted((row.number for row in rows), reverse=True)[:recent]
    keep = {row.number for row in handle.front(rows)} | set(newest)
    freed = handle.remove_artifacts(keep=keep, dry_run=dry_run)
    say(
        f"{'would free' if dry_run else 'freed'} {size_text(freed.num_bytes)} of "
        f"{freed.num_trials} trials; kept {len(keep)}"
    )


def delete(
    study: options.Study,
    storage: options.Storage = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Delete a study: its trials, results and artifacts. Asks first.

    Example: automl-prune delete digits
    """
    from automl_prune.cli.places import open_for_changing

    handle = open_for_changing(study, storage)
    if not yes:
        typer.confirm(
            f"Delete study {handle.name!r} with {len(handle.rows())} trials and their models?",
            abort=True,
        )
    name = handle.name
    handle.delete()
    say(f"deleted {name}")
