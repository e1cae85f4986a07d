"""Verbs that show a study to people: dashboard, report; neither loads torch."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from automl_prune.cli import options
from automl_prune.cli.screens import say

if TYPE_CHECKING:
    from dashboards.server import Running


def register(app: typer.Typer) -> None:
    """Add the verbs to the command line."""
    app.command("dashboard")(dashboard)
    app.command("report")(report)


def dashboard(
    study: Annotated[
        str | None,
        typer.Argument(
            metavar="STUDY",
            help="Opens at this study; default: the first of the storage.",
            show_default=False,
        ),
    ] = None,
    storage: options.Storage = None,
    host: Annotated[
        str,
        typer.Option(
            "--host",
            metavar="ADDRESS",
            help="Listen here; anything but this machine needs a token.",
        ),
    ] = "127.0.0.1",
    port: Annotated[
        int, typer.Option("--port", metavar="N", min=0, max=65535, help="0: any that is free.")
    ] = 8080,
    token: Annotated[
        str | None,
        typer.Option(
            "--token",
            metavar="TEXT",
            envvar="AUTOML_PRUNE_TOKEN",
            help="Who has it may come in; better in the variable, where `ps` does not show it.",
            show_default=False,
            show_envvar=True,
        ),
    ] = None,
    read_only: Annotated[
        bool,
        typer.Option(
            "--read-only", help="Refuse everything that writes, the Optuna dashboard included."
        ),
    ] = False,
    no_auth: Annotated[
        bool, typer.Option("--no-auth", help="Let everybody in who reaches the address.")
    ] = False,
) -> None:
    """Serve the Pareto explorer and, beside it, the Optuna dashboard, until Ctrl-C.

    Example: automl-prune dashboard digits --read-only
    """
    from automl_prune.cli.places import storage_to_show

    url, name = storage_to_show(study, storage)
    try:
        from dashboards.server import serve
    except ModuleNotFoundError as error:
        from automl_prune.errors import EnvironmentProblemError

        raise EnvironmentProblemError(
            f"the dashboard needs the package {error.name}: pip install 'automl-prune[dashboard]'"
        ) from error

    def ready(running: Running) -> None:
        from urllib.parse import urlencode

        page = running.url + (f"?{urlencode({'study': name})}" if name else "")
        say(f"Pareto explorer   {page}")
        say(f"Optuna dashboard  {running.optuna_url}")
        if read_only:
            say("read-only: nothing can be changed from here")
        sys.stdout.write("Ctrl-C ends it\n")
        sys.stdout.flush()  # a process that waits for us reads it now

    serve(
        url,
        host=host,
        port=port,
        token=token or None,
        read_only=read_only,
        no_auth=no_auth,
        on_ready=ready,
    )


def report(
    study: options.Study,
    out: Annotated[
        Path, typer.Option("--out", metavar="FILE", help="Where to write.", show_default=False)
    ],
    picked: Annotated[
        list[Path] | None,
        typer.Option(
            "--picked",
            metavar="DIR",
            help="A folder that `pick` wrote, whose accuracy on test is shown; may be repeated.",
            show_default=False,
        ),
    ] = None,
    storage: options.Storage = None,
) -> None:
    """Write a study as one self-contained page for people who were not there.

    Example: automl-prune report digits --out report.html --picked small
    """
    from automl_prune.cli.places import open_for_reading
    from dashboards.report_page import write_report

    write_report(out, open_for_reading(study, storage), picked=tuple(picked or ()))
    say(f"written: {out}")
