"""All verbs in one place, and what happens to an error on its way to the person."""

from __future__ import annotations

import logging
import sys
import warnings
from typing import TYPE_CHECKING, Annotated

import typer

from automl_prune.atomic import NO_SPACE
from automl_prune.cli import (
    model_verbs,
    reading_verbs,
    shipping_verbs,
    showing_verbs,
    study_verbs,
    tidying_verbs,
    worker_verbs,
)
from automl_prune.cli.screens import complain, complain_unexpected
from automl_prune.errors import AutoMLPruneError, EnvironmentProblemError

if TYPE_CHECKING:
    from collections.abc import Sequence

INTERRUPTED = 130

app = typer.Typer(
    name="automl-prune",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Find the accuracy-against-FLOPs front of channel-pruned networks, and take a verified "
    "model off it.\n\nExample: [bold]automl-prune search digits[/bold], then "
    "[bold]automl-prune pareto digits[/bold], then "
    "[bold]automl-prune pick digits --knee --out small[/bold]",
)
study_verbs.register(app)
reading_verbs.register(app)
model_verbs.register(app)
shipping_verbs.register(app)
showing_verbs.register(app)
tidying_verbs.register(app)
worker_verbs.register(app)


@app.callback(invoke_without_command=True)
def _global_options(
    version: Annotated[bool, typer.Option("--version", help="Show the version and end.")] = False,
    debug: Annotated[
        bool, typer.Option("--debug", help="Show logs, and tracebacks of errors; goes anywhere.")
    ] = False,
) -> None:
    # ``--debug`` is taken out by main() wherever it stands; declared here for the help.
    if version:
        from automl_prune import __version__

        typer.echo(f"automl-prune {__version__}")
        raise typer.Exit


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: without the program's name; None: this process's own.

    Returns:
        The exit code: 0, 1 for a failed check or a fault of ours, 2 for a user's mistake, 130
        after Ctrl-C.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in words
    words = [word for word in words if word != "--debug"]
    logging.basicConfig(
        level=logging.INFO if debug else logging.WARNING,
        format="%(asctime)s %(levelname)s %(name)s: %(message)s" if debug else "%(message)s",
    )
    if not debug and not sys.warnoptions:
        warnings.simplefilter("ignore")  # of libraries, to their developers
    try:
        app(args=words, prog_name="automl-prune")
    except SystemExit as ending:
        code = ending.code if isinstance(ending.code, int) else int(ending.code is not None)
        if code == INTERRUPTED and not _explained(ending):
            sys.stderr.write("interrupted\n")
        return code
    except AutoMLPruneError as error:
        if debug:
            raise
        complain(error)
        return error.exit_code
    except OSError as error:
        if debug:
            raise
        if error.errno not in NO_SPACE:
            complain_unexpected(error)
            return 1
        complain(EnvironmentProblemError(_full(error)))
        return EnvironmentProblemError.exit_code
    except Exception as error:  # the last door: nothing may reach the person as a traceback
        if debug:
            raise
        complain_unexpected(error)
        return 1
    return 0


def _explained(ending: SystemExit) -> bool:
    """Whether the verb itself ended, with words of its own, and not a bare Ctrl-C."""
    cause = ending.__context__.__cause__ if ending.__context__ is not None else None
    return not isinstance(cause, KeyboardInterrupt)


def _full(error: OSError) -> str:
    place = f" ({error.filename})" if error.filename else ""
    return (
        f"a file could not be written{place}: {NO_SPACE[error.errno or 0]}. Make room, here and "
        "in the folder for temporary files, then try again"
    )
