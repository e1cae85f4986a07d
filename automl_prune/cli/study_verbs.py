"""Verbs that make things: inspect, train, search."""

from __future__ import annotations

import dataclasses
import json
from contextlib import closing
from typing import TYPE_CHECKING, Annotated

import typer

from automl_prune.cli import options
from automl_prune.cli.screens import (
    duration,
    macs_text,
    percent,
    print_pairs,
    print_table,
    say,
    size_text,
    warn,
)

if TYPE_CHECKING:
    from pathlib import Path

    from automl_prune.cli.places import Place
    from automl_prune.config import StudyConfig
    from automl_prune.inspection import Inspection
    from automl_prune.study import StudyHandle
    from automl_prune.workbench import Workbench


def register(app: typer.Typer) -> None:
    """Add the verbs to the command line."""
    app.command("inspect")(inspect)
    app.command("train")(train)
    app.command("search")(search)


def inspect(
    study: options.Study,
    storage: options.Storage = None,
    overrides: options.Overrides = None,
    trust: options.Trust = None,
    device: options.Device = "cpu",
    as_json: options.AsJson = False,
) -> None:
    """Show groups, what cannot be pruned and why, reachable MACs, and what a search would cost.

    Writes nothing. Example: automl-prune inspect digits --set search.trials=100
    """
    from automl_prune.cli.places import locate

    config = _config_of(locate(study, storage, overrides))
    from automl_prune.inspection import inspect_study

    found = inspect_study(config, device=device, trusted=tuple(trust or ()))
    if as_json:
        say(json.dumps(dataclasses.asdict(found), indent=2))
        return
    _show_inspection(config, found)


def _show_inspection(config: StudyConfig, found: Inspection) -> None:
    print_table(
        f"{config.name}: {len(found.groups)} groups of coupled channels",
        ["group", "layers", "units", "channels", "MACs share", "keep ratio"],
        [
            (
                group.name,
                _names([layer for layer in group.layers if layer != group.name]),
                str(group.units),
                str(group.units * group.channels_per_unit),
                f"{group.macs_share:.1%}",
                "whole" if group.low == 1.0 else f"{group.low:.2f} .. {group.high:.2f}",
            )
            for group in found.groups
        ],
        left=2,
    )
    if found.fixed:
        print_table(
            "kept whole, and why",
            ["layer", "reason", "channels"],
            [(row.layer, row.reason, str(row.channels)) for row in found.fixed],
            left=2,
        )
    cost = found.estimate
    say("")
    print_pairs(
        [
            ("images", ", ".join(f"{name} {size:,}" for name, size in found.split_sizes.items())),
            (
                "dense model",
                f"{macs_text(found.dense_macs)}MACs, {found.dense_params:,} parameters",
            ),
            (
                "reachable",
                f"{found.min_macs:,} .. {found.max_macs:,} MACs "
                f"({found.min_macs / found.dense_macs:.1%} .. "
                f"{found.max_macs / found.dense_macs:.1%} of the dense model)",
            ),
            (
                "time",
                f"about {duration(cost.total_s)}: dense model {duration(cost.dense_s)}, "
                f"{cost.trials} trials of {duration(cost.trial_s)}",
            ),
            ("disk", f"about {size_text(cost.disk_bytes)}"),
            ("memory", f"at least {size_text(cost.memory_bytes)}"),
            ("measured on", f"{cost.hardware}, {config.compute.threads} threads"),
        ]
    )


def _names(layers: list[str]) -> str:
    shown = ", ".join(layers[:3])
    return shown if len(layers) <= 3 else f"{shown} and {len(layers) - 3} more"


def train(
    study: options.Study,
    storage: options.Storage = None,
    overrides: options.Overrides = None,
    trust: options.Trust = None,
    device: options.Device = "cpu",
) -> None:
    """Train the dense model of a study, or find it trained already.

    Kept in runs/dense, named by the digest of what made it; `search` does this by itself.
    Example: automl-prune train digits
    """
    from automl_prune.cli.places import locate
    from automl_prune.cli.progress import search_display

    place = locate(study, storage, overrides)
    config = _config_of(place)
    from automl_prune.workbench import Workbench, dense_digest

    with search_display(config.search.trials, 0) as display:
        bench = Workbench.prepare(
            config,
            cache_dir=place.dense_dir,
            device=device,
            trusted=tuple(trust or ()),
            on_dense_progress=display.dense,
        )
    facts = bench.facts
    file = place.dense_dir / f"{dense_digest(config, bench.data)}.safetensors"
    say(
        f"dense model: accuracy {percent(facts.dense_accuracy)} on select, "
        f"{macs_text(facts.dense_macs)}MACs, {facts.dense_params:,} parameters"
    )
    if file.is_file():
        say(f"kept in {file}")
    _warn_contaminated(facts.select_contaminated)


def search(
    study: options.Study,
    trials: Annotated[
        int | None,
        typer.Option(
            "--trials",
            metavar="N",
            min=1,
            help="Finished trials that the study shall have; default: search.trials of the study.",
            show_default=False,
        ),
    ] = None,
    storage: options.Storage = None,
    overrides: options.Overrides = None,
    trust: options.Trust = None,
    device: options.Device = "cpu",
) -> None:
    """Run trials until the study has as many finished ones as asked; goes on where it stopped.

    Ctrl-C ends cleanly: the running trial is kept and the next call takes it up again.
    Example: automl-prune search digits --trials 40
    """
    from automl_prune.cli.places import locate
    from automl_prune.cli.progress import search_display

    place = locate(study, storage, overrides)
    handle = stored(place)
    config = handle.config if handle is not None else _config_of(place)
    target = trials if trials is not None else (place.config or config).search.trials
    finished = handle.finished_count() if handle is not None else 0
    if finished >= target:
        say(f"{place.name} has {finished} finished trials already; ask for more with --trials N")
        return
    import optuna

    from automl_prune.search import run_search
    from automl_prune.stopping import StopRequest
    from automl_prune.workbench import Workbench

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    stop = StopRequest()
    with search_display(target, finished) as display:
        bench = Workbench.prepare(
            config,
            cache_dir=place.dense_dir,
            facts=handle.facts if handle is not None else None,
            device=device,
            trusted=tuple(trust or ()),
            on_dense_progress=display.dense,
        )
        if handle is None:
            handle = begin(place, config, bench, place.artifact_dir)
        handle.device = device
        handle.set_target(target)
        with closing(handle), stop.on_signals():
            done = run_search(
                handle,
                bench,
                target=target,
                checkpoint_dir=place.checkpoint_dir,
                on_event=display.event,
                should_stop=stop,
            )
            finished = handle.finished_count()
    if not done:
        warn(
            f"stopped with {finished} of {target} trials finished; the same command goes on "
            "from here"
        )
        raise typer.Exit(130)
    _warn_contaminated(bench.facts.select_contaminated)
    say(
        f"{finished} trials finished; see the front with `automl-prune pareto {study}"
        f"{'' if place.default_storage else ' --storage URL'}`"
    )


def _config_of(place: Place) -> StudyConfig:
    """The config from the file, or from the storage if the study was named by its name there."""
    if place.config is not None:
        return place.config
    from automl_prune.cli.places import open_existing
    from automl_prune.study import StudyHandle

    return StudyHandle.load(open_existing(place), place.name).config


def stored(place: Place) -> StudyHandle | None:
    """The stored study if it was begun before, checked against the file; makes nothing."""
    from automl_prune.cli.places import open_existing
    from automl_prune.errors import StudyNotFoundError
    from automl_prune.study import StudyHandle

    try:
        handle = StudyHandle.load(open_existing(place), place.name)
    except StudyNotFoundError:
        if place.config is None:
            raise
        return None
    if place.config is not None:
        handle = StudyHandle.create_or_check(
            handle.storage, place.config, handle.facts, handle.artifact_dir
        )
    return handle


def begin(place: Place, config: StudyConfig, bench: Workbench, artifact_dir: Path) -> StudyHandle:
    """Make the study, and leave its dense weights where workers find them."""
    from automl_prune.storage import open_storage
    from automl_prune.study import StudyHandle

    place.make_database_folder()
    handle = StudyHandle.create_or_check(
        open_storage(place.url), config, bench.facts, artifact_dir
    )
    bench.keep_dense(handle.dense_dir)
    return handle


def _warn_contaminated(contaminated: bool) -> None:
    if contaminated:
        warn(
            "note: the dense weights came from outside and may have seen the images of select; "
            "trust the accuracy on test, which `pick` measures"
        )
