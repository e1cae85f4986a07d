"""The Pareto explorer: a Dash app that reads a storage and writes nothing."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dash import Dash, no_update, set_props
from flask import Flask, Response, send_file

from automl_prune.errors import AutoMLPruneError, EnvironmentProblemError
from dashboards import layout
from dashboards.downloads import model_zip, table_csv
from dashboards.front_callbacks import register_front
from dashboards.study_callbacks import register_study
from dashboards.trial_callbacks import register_trial

if TYPE_CHECKING:
    from dashboards.view import Studies

logger = logging.getLogger(__name__)

PREFIX = "/explorer/"


def make_explorer(studies: Studies) -> Flask:
    """The explorer as a WSGI application, to be mounted under ``PREFIX``.

    Everything that the browser loads comes from here; no torch, no Optuna.
    """
    server = Flask(__name__, static_folder=None)
    app = Dash(
        __name__,
        server=server,  # type: ignore[arg-type]  # a Flask app is what it wants
        requests_pathname_prefix=PREFIX,
        routes_pathname_prefix="/",
        assets_folder=str(Path(__file__).with_name("assets")),
        serve_locally=True,
        title="Pareto explorer",
        update_title="",
        suppress_callback_exceptions=True,
        add_log_handler=False,
        enable_mcp=False,
        on_error=_show_problem,
    )
    app.index_string = layout.index_page()
    app.layout = lambda: layout.page(studies.names(), studies.storage.shown)
    register_front(app, studies)
    register_trial(app, studies)
    register_study(app, studies)
    _register_downloads(server, studies)
    server.register_error_handler(AutoMLPruneError, _refuse)
    return server


def _show_problem(error: Exception) -> Any:
    """A callback failed: say why on the page; faults of ours go to the log."""
    if isinstance(error, AutoMLPruneError):
        set_props("problem", {"children": str(error)})
    else:
        logger.error("explorer: a callback failed", exc_info=error)
        set_props(
            "problem",
            {"children": f"A fault in the explorer: {type(error).__name__}. See its log."},
        )
    return no_update


def _refuse(error: AutoMLPruneError) -> Response:
    damaged = isinstance(error, EnvironmentProblemError)
    return Response(f"{error}\n", status=500 if damaged else 404, mimetype="text/plain")


def _register_downloads(server: Flask, studies: Studies) -> None:
    @server.get("/download/<name>/<int:number>/model.zip")
    def download_model(name: str, number: int) -> Response:
        reader = studies.view(name).reader
        return send_file(
            model_zip(reader, number),
            mimetype="application/zip",
            as_attachment=True,
            download_name=f"{reader.name}-trial-{number}.zip",
            max_age=0,
        )

    @server.get("/download/<name>/trials.csv")
    def download_table(name: str) -> Response:
        view = studies.view(name)
        return Response(
            table_csv(view.snapshot().rows),
            mimetype="text/csv",
            headers={
                "Content-Disposition": f'attachment; filename="{view.reader.name}-trials.csv"'
            },
        )
