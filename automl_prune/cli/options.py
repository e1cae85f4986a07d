"""Arguments and options that several verbs share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Study = Annotated[
    str,
    typer.Argument(
        metavar="STUDY",
        help="A study file (.toml), the name of a shipped study, or a name in the storage.",
        show_default=False,
    ),
]
Storage = Annotated[
    str | None,
    typer.Option(
        "--storage",
        metavar="URL",
        envvar="AUTOML_PRUNE_STORAGE",
        help="SQLAlchemy URL of the storage, or embedded: a PostgreSQL of the study's own; "
        "default: what is in runs/STUDY, else sqlite:///runs/STUDY/study.db.",
        show_default=False,
        show_envvar=True,
    ),
]
Overrides = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Override a key of the study file, as in inner.steps=50; may be repeated.",
        show_default=False,
    ),
]
Trust = Annotated[
    list[str] | None,
    typer.Option(
        "--trust",
        metavar="PACKAGE",
        help="Allow builders, data and metrics from this package; may be repeated.",
        show_default=False,
    ),
]
Device = Annotated[
    str, typer.Option("--device", help="Where to compute: cpu, cuda, cuda:1.", metavar="DEVICE")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
DataRoot = Annotated[
    str | None,
    typer.Option(
        "--data-root",
        metavar="FOLDER",
        help="Where the data lie on this machine, if not where the manifest says.",
        show_default=False,
    ),
]
ModelDir = Annotated[
    Path,
    typer.Argument(metavar="DIR", help="A model folder, as `pick` wrote it.", show_default=False),
]
