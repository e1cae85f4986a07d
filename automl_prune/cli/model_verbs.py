"""Verbs about one model: pick, verify."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from automl_prune.cli import options
from automl_prune.cli.screens import percent, print_pairs, print_table, say, warn
from automl_prune.cli.shipping_verbs import formats_of, show_exports

if TYPE_CHECKING:
    from automl_prune.manifest import Manifest
    from automl_prune.reading import StudyReader


def register(app: typer.Typer) -> None:
    """Add the verbs to the command line."""
    app.command("pick")(pick)
    app.command("verify")(verify)


def pick(
    study: options.Study,
    out: Annotated[
        Path, typer.Option("--out", metavar="DIR", help="Where to write.", show_default=False)
    ],
    trial: Annotated[
        int | None, typer.Option("--trial", metavar="N", min=0, help="This trial.")
    ] = None,
    max_macs: Annotated[
        float | None,
        typer.Option("--max-macs", metavar="X", min=1, help="The best with at most X MACs."),
    ] = None,
    max_params: Annotated[
        float | None,
        typer.Option("--max-params", metavar="X", min=1, help="... at most X parameters."),
    ] = None,
    max_latency_ms: Annotated[
        float | None,
        typer.Option("--max-latency-ms", metavar="X", min=0, help="... at most X milliseconds."),
    ] = None,
    max_drop: Annotated[
        float | None,
        typer.Option(
            "--max-drop",
            metavar="PTS",
            min=0,
            help="The smallest that loses at most PTS points of accuracy against dense.",
        ),
    ] = None,
    knee: Annotated[
        bool,
        typer.Option(
            "--knee",
            help="The knee of the front: all MACs are worth a tenth of the accuracy above chance.",
        ),
    ] = False,
    formats: Annotated[
        str | None,
        typer.Option(
            "--format", metavar="LIST", help="Export too: onnx, pt2, or both.", show_default=False
        ),
    ] = None,
    storage: options.Storage = None,
    trust: options.Trust = None,
    data_root: options.DataRoot = None,
    device: options.Device = "cpu",
) -> None:
    """Take a model off the front into a folder, and measure it on test.

    Example: automl-prune pick digits --max-drop 1.0 --out small
    """
    from automl_prune.cli.places import open_for_reading
    from automl_prune.errors import ConfigError
    from automl_prune.report import pick as pick_row

    ways = (trial, max_macs, max_params, max_latency_ms, max_drop, knee or None)
    given = sum(way is not None for way in ways)
    if given != 1:
        raise ConfigError(
            "pick needs exactly one of --trial, --max-macs, --max-params, --max-latency-ms, "
            f"--max-drop, --knee; found {given}"
        )
    wanted = formats_of(formats) if formats is not None else ()
    handle = open_for_reading(study, storage)
    row = pick_row(
        handle.rows(),
        handle.facts,
        trial=trial,
        max_macs=max_macs,
        max_params=max_params,
        max_latency_ms=max_latency_ms,
        max_drop=max_drop,
        knee=knee or None,
    )
    from automl_prune.picking import take_model

    trusted = tuple(trust or ())
    with handle.model_folder(row.number) as folder:
        manifest = take_model(folder, out, trusted=trusted, data_root=data_root, device=device)
    _show_manifest(out, manifest)
    _note_test(handle, row.number, manifest)
    if wanted:
        from automl_prune.export import export_folder

        show_exports(out, export_folder(out, wanted, trusted=trusted, data_root=data_root))


def _note_test(study: StudyReader, number: int, manifest: Manifest) -> None:
    """For the explorer, which shows the accuracy on test of those trials that were picked."""
    from automl_prune.errors import EnvironmentProblemError
    from automl_prune.tested import note_test

    if manifest.test is None:
        return
    try:
        note_test(
            study,
            number,
            accuracy=manifest.test.accuracy,
            num_images=manifest.test.num_images,
            weights_digest=manifest.weights_digest,
        )
    except EnvironmentProblemError as error:
        warn(f"note: the dashboard will not show the accuracy on test: {error}")


def _show_manifest(folder: Path, manifest: Manifest) -> None:
    dense = manifest.dense
    say(f"{folder}: trial {manifest.trial} of {manifest.study}")
    pairs = [
        (
            "MACs",
            f"{manifest.macs:,} ({manifest.macs / dense.macs:.1%} of the dense {dense.macs:,})",
        ),
        ("parameters", f"{manifest.params:,} ({manifest.params / dense.params:.1%} of dense)"),
        (
            "accuracy",
            f"{percent(manifest.select.accuracy)} on select (dense {percent(dense.accuracy)})"
            + (f", {percent(manifest.test.accuracy)} on test" if manifest.test else ""),
        ),
    ]
    print_pairs(pairs)
    if manifest.select_contaminated:
        warn(
            "note: the dense weights came from outside and may have seen the images of select; "
            "trust the accuracy on test"
        )


def verify(
    folder: options.ModelDir,
    trust: options.Trust = None,
    data_root: options.DataRoot = None,
    device: options.Device = "cpu",
    as_json: options.AsJson = False,
) -> None:
    """Reload a model folder and compare all that its manifest claims; exit 1 where it differs.

    Example: automl-prune verify small
    """
    import dataclasses

    from automl_prune.manifest import read_manifest

    read_manifest(folder)  # say what is wrong before torch is loaded
    from automl_prune.errors import VerificationError
    from automl_prune.modelfile import verify_folder

    report = verify_folder(folder, trusted=tuple(trust or ()), data_root=data_root, device=device)
    if as_json:
        say(json.dumps([dataclasses.asdict(line) for line in report.lines], indent=2))
    else:
        print_table(
            str(folder),
            ["", "what", "manifest", "found"],
            [
                ("ok" if line.ok else "DIFFERS", line.name, _short(line.expected), line.found)
                if not line.ok
                else ("ok", line.name, _short(line.expected), _short(line.found))
                for line in report.lines
            ],
            left=4,
        )
    if not report.ok:
        wrong = [line.name for line in report.lines if not line.ok]
        raise VerificationError(
            f"{folder} is not what its manifest says; different: {', '.join(wrong)}"
        )
    if not as_json:
        say("verified")


def _short(text: str) -> str:
    return text if len(text) <= 60 else f"{text[:24]}..."
