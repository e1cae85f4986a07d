"""Verbs that ready a picked model for use: export, latency, finetune."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from automl_prune.cli import options
from automl_prune.cli.screens import percent, print_table, say, warn

if TYPE_CHECKING:
    from automl_prune.export import Format
    from automl_prune.finetune import FinetuneRequest
    from automl_prune.manifest import Manifest


def register(app: typer.Typer) -> None:
    """Add the verbs to the command line."""
    app.command("export")(export)
    app.command("latency")(latency)
    app.command("finetune")(finetune)


def formats_of(text: str) -> tuple[Format, ...]:
    """``onnx,pt2`` to its parts.

    Raises:
        ConfigError: one of them is no format.
    """
    from automl_prune.errors import ConfigError
    from automl_prune.manifest import EXPORT_FORMATS

    names = tuple(part.strip() for part in text.split(",") if part.strip())
    wrong = [name for name in names if name not in EXPORT_FORMATS]
    if wrong or not names:
        raise ConfigError(
            f"--format {text!r}: found {wrong[0] if wrong else 'nothing'}; write one or more of "
            f"{', '.join(EXPORT_FORMATS)}, separated by commas"
        )
    return names  # type: ignore[return-value]


def export(
    folder: options.ModelDir,
    formats: Annotated[
        str, typer.Option("--format", metavar="LIST", help="onnx, pt2 (torch.export), or both.")
    ] = "onnx,pt2",
    trust: options.Trust = None,
    data_root: options.DataRoot = None,
) -> None:
    """Write ONNX and torch.export forms into a model folder, each proven on real images.

    Example: automl-prune export small --format onnx
    """
    from automl_prune.manifest import read_manifest

    wanted = formats_of(formats)
    read_manifest(folder)  # say what is wrong before torch is loaded
    from automl_prune.export import export_folder

    show_exports(
        folder, export_folder(folder, wanted, trusted=tuple(trust or ()), data_root=data_root)
    )


def show_exports(folder: Path, manifest: Manifest) -> None:
    """One line per exported form."""
    for _, done in sorted(manifest.exports.items()):
        say(
            f"{folder / done.file}: differs by at most {done.max_abs_difference:.1e} at an output "
            f"scale of {done.output_scale:.1e}, on {done.num_images} images ({done.tool})"
        )


def latency(
    folder: options.ModelDir,
    threads: Annotated[
        int, typer.Option("--threads", metavar="N", min=1, help="CPU threads.")
    ] = 1,
    trust: options.Trust = None,
    as_json: options.AsJson = False,
) -> None:
    """Measure dense against pruned on this CPU: batch 1 and 64, torch and onnxruntime.

    One measurement at a time on this host. Example: automl-prune latency small --threads 2
    """
    from automl_prune.card import latency_pairs
    from automl_prune.manifest import read_manifest

    read_manifest(folder)
    from automl_prune.latency import measure_folder

    manifest = measure_folder(folder, threads=threads, trusted=tuple(trust or ()))
    from automl_prune.evaluate import hardware_name

    here = hardware_name("cpu")
    pairs = [
        pair for pair in latency_pairs(manifest.latencies) if here == pair[1].latency.hardware
    ]
    if as_json:
        say(json.dumps([row.model_dump(mode="json") for pair in pairs for row in pair], indent=2))
        return
    print_table(
        f"{folder} on {here}, {threads} threads; median and interquartile range",
        ["runtime", "batch", "dense ms", "pruned ms", "dense / pruned"],
        [
            (
                pruned.runtime,
                str(pruned.latency.batch_size),
                f"{dense.latency.median_ms:.3f} ± {dense.latency.spread_ms:.3f}",
                f"{pruned.latency.median_ms:.3f} ± {pruned.latency.spread_ms:.3f}",
                f"{dense.latency.median_ms / pruned.latency.median_ms:.2f}",
            )
            for dense, pruned in pairs
        ],
    )


def finetune(
    folder: options.ModelDir,
    out: Annotated[
        Path, typer.Option("--out", metavar="DIR", help="Where to write.", show_default=False)
    ],
    steps: Annotated[
        int, typer.Option("--steps", metavar="N", min=1, help="Training steps.")
    ] = 2000,
    lr: Annotated[
        float | None,
        typer.Option(
            "--lr",
            metavar="X",
            min=0,
            help="Highest learning rate; default 0.02, from scratch 0.1.",
            show_default=False,
        ),
    ] = None,
    from_scratch: Annotated[
        bool, typer.Option("--from-scratch", help="Forget the weights, keep the widths.")
    ] = False,
    seeds: Annotated[
        int,
        typer.Option(
            "--seeds", metavar="N", min=1, help="Train N times; DIR/seed-0, DIR/seed-1, ..."
        ),
    ] = 1,
    seed: Annotated[int, typer.Option("--seed", metavar="N", min=0, help="First seed.")] = 0,
    dense_dir: Annotated[
        Path,
        typer.Option(
            "--dense-dir", metavar="FOLDER", help="Where dense models are kept, for a teacher."
        ),
    ] = Path("runs/dense"),
    trust: options.Trust = None,
    data_root: options.DataRoot = None,
    device: options.Device = "cpu",
) -> None:
    """Train a picked model longer and write a new model folder; goes on where it stopped.

    Example: automl-prune finetune small --steps 5000 --seeds 3 --out longer
    """
    from automl_prune.manifest import read_manifest

    before = read_manifest(folder)
    from automl_prune.finetune import FinetuneRequest
    from automl_prune.stopping import StopRequest
    from automl_prune.trial_state import TrialInterruptedError

    made: list[Manifest] = []
    stop = StopRequest()
    try:
        with stop.on_signals():
            for number in range(seed, seed + seeds):
                request = FinetuneRequest(
                    steps=steps,
                    lr=lr if lr is not None else 0.1 if from_scratch else 0.02,
                    seed=number,
                    from_scratch=from_scratch,
                )
                target = out if seeds == 1 else out / f"seed-{number}"
                made.append(
                    _finetune_one(
                        folder,
                        target,
                        request,
                        stop,
                        dense_dir=dense_dir,
                        trusted=tuple(trust or ()),
                        data_root=data_root,
                        device=device,
                    )
                )
    except TrialInterruptedError:
        warn("stopped; the same command goes on from here")
        raise typer.Exit(130) from None
    _show_finetuned(before, made)


def _finetune_one(
    folder: Path,
    target: Path,
    request: FinetuneRequest,
    stop: object,
    *,
    dense_dir: Path,
    trusted: tuple[str, ...],
    data_root: str | None,
    device: str,
) -> Manifest:
    from automl_prune.cli.progress import step_display
    from automl_prune.finetune import finetune_folder

    assert callable(stop)
    with step_display(f"seed {request.seed}", request.steps) as on_step:
        manifest = finetune_folder(
            folder,
            target,
            request,
            dense_dir=dense_dir,
            trusted=trusted,
            data_root=data_root,
            device=device,
            on_step=on_step,
            should_stop=stop,
        )
    assert manifest.test is not None
    say(
        f"{target}: accuracy {percent(manifest.select.accuracy)} on select, "
        f"{percent(manifest.test.accuracy)} on test"
    )
    return manifest


def _show_finetuned(before: Manifest, made: list[Manifest]) -> None:
    import statistics

    say(f"before: accuracy {percent(before.select.accuracy)} on select")
    if len(made) < 2:
        return
    for split in ("select", "test"):
        values = [getattr(manifest, split).accuracy for manifest in made]
        say(
            f"{split}: mean {statistics.mean(values):.2f}, standard deviation "
            f"{statistics.stdev(values):.2f} over {len(values)} seeds"
        )
