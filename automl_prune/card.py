"""The model card of a model folder: what it is, how it was made, what was measured."""

from __future__ import annotations

from typing import TYPE_CHECKING

from automl_prune.manifest import ONNX_FILE, PT2_FILE

if TYPE_CHECKING:
    from automl_prune.manifest import LatencyRow, Manifest

_MADE = {
    "search": "an alternating search over weights and keep ratios",
    "baseline": "uniform keep ratios that were held fixed",
    "finetune": "further fine-tuning of a picked model",
    "scratch": "training a picked architecture from scratch",
}


def model_card(manifest: Manifest) -> str:
    """Markdown, from the manifest alone."""
    parts = [
        f"# {manifest.study}, trial {manifest.trial}",
        _what_it_is(manifest),
        "## Load it",
        _how_to_load(manifest),
        "## What was measured",
        _measured(manifest),
        *_latency(manifest),
        *_exports(manifest),
        "## How it was made",
        _how_it_was_made(manifest),
        "## Channels kept",
        _channels(manifest),
    ]
    return "\n\n".join(parts) + "\n"


def _what_it_is(manifest: Manifest) -> str:
    channels, height, width = manifest.preprocessing.input_shape
    return (
        f"A channel-pruned `{manifest.builder.path}` for {len(manifest.class_names)} classes of "
        f"images with {channels} x {height} x {width} values, with "
        f"{manifest.macs / manifest.dense.macs:.1%} of the multiply-accumulates (MACs) and "
        f"{manifest.params / manifest.dense.params:.1%} of the parameters of the dense model."
    )


def _how_to_load(manifest: Manifest) -> str:
    package = manifest.builder.path.partition(":")[0].partition(".")[0]
    known = package in ("automl_prune", "torchvision", "timm")
    trust = "" if known else f', trust="{package}"'
    mean, std = (
        ", ".join(f"{value:.6g}" for value in values)
        for values in (manifest.preprocessing.mean, manifest.preprocessing.std)
    )
    return (
        "```python\n"
        "import automl_prune, torch\n\n"
        f'model = automl_prune.load_pruned("."{trust})\n'
        f"mean, std = torch.tensor([{mean}]), torch.tensor([{std}])\n"
        "# images: (batch, channels, height, width), pixels in 0..1\n"
        "logits = model((images - mean[:, None, None]) / std[:, None, None])\n"
        "```\n\n"
        "`automl-prune verify .` checks digests, MACs and accuracy again."
    )


def _measured(manifest: Manifest) -> str:
    dense = manifest.dense
    rows = [
        "| | this model | dense model |",
        "|---|---|---|",
        f"| accuracy on select, % ({manifest.select.num_images:,} images) "
        f"| {manifest.select.accuracy:.2f} | {dense.accuracy:.2f} |",
    ]
    if manifest.test is not None:
        rows.append(
            f"| accuracy on test, % ({manifest.test.num_images:,} images) "
            f"| {manifest.test.accuracy:.2f} | not measured |"
        )
    rows += [
        f"| MACs | {manifest.macs:,} | {dense.macs:,} |",
        f"| parameters | {manifest.params:,} | {dense.params:,} |",
    ]
    text = "\n".join(rows)
    text += "\n\nThis model was chosen by its accuracy on select; nothing was chosen by test."
    if manifest.select_contaminated:
        text += (
            " The dense weights came from outside and may have been trained on images of select: "
            "trust test."
        )
    return text


def _latency(manifest: Manifest) -> list[str]:
    if not manifest.latencies:
        return []
    rows = [
        "| hardware | threads | runtime | batch | dense, ms | pruned, ms | dense / pruned |",
        "|---|---|---|---|---|---|---|",
        *(_latency_line(dense, pruned) for dense, pruned in latency_pairs(manifest.latencies)),
    ]
    return ["## Latency", "\n".join(rows) + "\n\nMedian and interquartile range."]


def latency_pairs(rows: tuple[LatencyRow, ...]) -> list[tuple[LatencyRow, LatencyRow]]:
    """Dense and pruned, measured on the same hardware in the same way."""
    dense = {_conditions(row): row for row in rows if row.model == "dense"}
    return [
        (dense[_conditions(row)], row)
        for row in rows
        if row.model == "pruned" and _conditions(row) in dense
    ]


def _conditions(row: LatencyRow) -> tuple[str, str, int, int]:
    latency = row.latency
    return row.runtime, latency.hardware, latency.threads, latency.batch_size


def _latency_line(dense: LatencyRow, pruned: LatencyRow) -> str:
    runtime, hardware, threads, batch_size = _conditions(pruned)
    return (
        f"| {hardware} | {threads} | {runtime} | {batch_size} "
        f"| {dense.latency.median_ms:.3f} ± {dense.latency.spread_ms:.3f} "
        f"| {pruned.latency.median_ms:.3f} ± {pruned.latency.spread_ms:.3f} "
        f"| {dense.latency.median_ms / pruned.latency.median_ms:.2f} |"
    )


def _exports(manifest: Manifest) -> list[str]:
    if not manifest.exports:
        return []
    names = {ONNX_FILE: "ONNX, input `images`, output `logits`", PT2_FILE: "`torch.export`"}
    lines = [
        f"- `{export.file}`: {names[export.file]}; differs from the safetensors model by at most "
        f"{export.max_abs_difference:.1e} at an output scale of {export.output_scale:.1e}, on "
        f"{export.num_images} images ({export.tool})"
        for _, export in sorted(manifest.exports.items())
    ]
    return ["## Exports", "\n".join(lines)]


def _line_of(manifest: Manifest) -> list[str]:
    if manifest.parent is None:
        return []
    return [
        f"- started from the model of trial {manifest.parent}, {manifest.inherited_steps} steps "
        "away from the dense model"
    ]


def _how_it_was_made(manifest: Manifest) -> str:
    splits = ", ".join(f"{name} {size:,}" for name, size in manifest.splits.sizes.items())
    versions = ", ".join(f"{name} {value}" for name, value in sorted(manifest.versions.items()))
    lines = [
        f"- by {_MADE.get(manifest.origin, manifest.origin)}: {manifest.weight_steps} weight "
        f"steps, {manifest.ratio_steps} ratio steps, {manifest.finetune_steps} fine-tuning steps",
        *_line_of(manifest),
        f"- seed {manifest.seed}, trade-off λ {manifest.trade_off:.4g}",
        f"- data `{manifest.splits.config.source}`: {splits}",
        f"- removing the channels changed the outputs by {manifest.equivalence_error:.1e} of "
        "their scale",
        f"- {manifest.created}, {manifest.hardware or 'hardware not recorded'}, {versions}",
    ]
    return "\n".join(lines)


def _channels(manifest: Manifest) -> str:
    rows = ["| group | kept | of |", "|---|---|---|"]
    rows += [
        f"| `{group.name}` | {group.kept * group.channels_per_unit} "
        f"| {group.units * group.channels_per_unit} |"
        for group in manifest.groups
    ]
    return "\n".join(rows)
