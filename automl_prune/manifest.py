"""``manifest.json`` of a model folder: what the model is, how it was made, what was measured.

Readable without torch.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from automl_prune.config import DataConfig, Kwargs
from automl_prune.errors import ModelFolderError
from automl_prune.records import GroupRow, Latency, StudyFacts, TrialRecord

MANIFEST_VERSION = 1
MANIFEST_FILE = "manifest.json"
WEIGHTS_FILE = "model.safetensors"
CARD_FILE = "README.md"
ONNX_FILE = "model.onnx"
PT2_FILE = "model.pt2"
EXPORT_FORMATS = ("onnx", "pt2")
OUR_FILES = frozenset({MANIFEST_FILE, WEIGHTS_FILE, CARD_FILE, ONNX_FILE, PT2_FILE})

Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Positive = Annotated[int, Field(ge=1)]


class Part(BaseModel):
    """Base of every table of a manifest: immutable, unknown keys refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())


class Builder(Part):
    """What builds the dense network that the weights are narrowed from; needs no network."""

    path: Annotated[str, Field(pattern=r"^[\w.]+:[\w.]+$")]
    kwargs: Kwargs = {}
    num_classes: Positive


class Preprocessing(Part):
    """From an image in [0, 1] to the network's input."""

    input_shape: tuple[Positive, Positive, Positive]
    """Channels, height, width."""
    mean: tuple[float, ...]
    std: tuple[float, ...]


class KeptGroup(Part):
    """How many units of one group of coupled channels stayed."""

    name: str
    layers: tuple[str, ...]
    units: Positive
    kept: Positive
    channels_per_unit: Positive


class Splits(Part):
    """The images that the numbers were measured on."""

    config: DataConfig
    seed: Annotated[int, Field(ge=0)]
    sizes: dict[str, Positive]
    digest: str
    """Of which image is in which split."""


class Measured(Part):
    """Quality on one split."""

    accuracy: float
    """Percent."""
    loss: float
    num_images: Positive


class Dense(Part):
    """The model before pruning."""

    macs: Positive
    params: Positive
    accuracy: float
    """Percent, on ``select``."""
    digest: str
    """SHA-256 over its parameters and buffers."""


class Export(Part):
    """One exported form, as it was proven against the safetensors model."""

    file: str
    sha256: Digest
    max_abs_difference: float
    """Largest difference of any output on real images."""
    output_scale: float
    """Largest absolute output of the safetensors model on the same images."""
    num_images: Positive
    tool: str
    """Name and version of what ran it."""


class LatencyRow(Part):
    """One line of the ``latency`` verb."""

    model: str
    """``dense`` or ``pruned``."""
    runtime: str
    """``torch`` or ``onnxruntime``."""
    latency: Latency


class Manifest(Part):
    """The whole of ``manifest.json``."""

    version: int = MANIFEST_VERSION
    study: str
    trial: Annotated[int, Field(ge=0)]
    created: str
    """UTC, ISO 8601."""
    builder: Builder
    preprocessing: Preprocessing
    class_names: tuple[str, ...]
    groups: tuple[KeptGroup, ...]
    widths: dict[str, dict[str, int]]
    """Sizes of every narrowed layer, by module path."""
    macs: Positive
    params: Positive
    dense: Dense
    splits: Splits
    select: Measured
    select_contaminated: bool
    """True: the dense weights came from outside and may have seen ``select``."""
    test: Measured | None = None
    """None until the model was picked: nothing may select on ``test``."""
    latency: Latency | None = None
    latencies: tuple[LatencyRow, ...] = ()
    exports: dict[str, Export] = {}
    equivalence_error: float
    """max |masked - pruned| over max |masked|, when the channels were removed."""
    seed: int
    trade_off: float
    weight_steps: int
    ratio_steps: int
    finetune_steps: int
    parent: int | None = None
    """Trial of the same study that it started from; None: from the dense model."""
    inherited_steps: int = 0
    """Steps of the trials before it in its line."""
    config_digest: str
    weights_digest: Digest
    """SHA-256 over parameters and buffers."""
    weights_sha256: Digest
    """SHA-256 of model.safetensors."""
    origin: str = "search"
    """What made the weights: ``search``, ``baseline``, ``finetune`` or ``scratch``."""
    hardware: str = ""
    versions: dict[str, str] = {}

    def to_json(self) -> str:
        """As it stands in the file."""
        return json.dumps(self.model_dump(mode="json"), indent=2, sort_keys=True) + "\n"


def describe_trial(
    *,
    study: str,
    trial: int,
    builder: Builder,
    splits: Splits,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    facts: StudyFacts,
    record: TrialRecord,
    widths: dict[str, dict[str, int]],
    created: str,
) -> Manifest:
    """The manifest of a trial's model, before its file is written.

    ``weights_sha256`` is filled in when the folder is saved.
    """
    return Manifest(
        study=study,
        trial=trial,
        created=created,
        builder=builder,
        preprocessing=Preprocessing(input_shape=facts.input_shape, mean=mean, std=std),
        class_names=facts.class_names,
        groups=tuple(_kept(group, record) for group in facts.groups),
        widths=widths,
        macs=record.macs,
        params=record.params,
        dense=Dense(
            macs=facts.dense_macs,
            params=facts.dense_params,
            accuracy=facts.dense_accuracy,
            digest=facts.dense_digest,
        ),
        splits=splits,
        select=Measured(
            accuracy=record.accuracy, loss=record.loss, num_images=splits.sizes["select"]
        ),
        select_contaminated=facts.select_contaminated,
        latency=record.latency,
        equivalence_error=record.equivalence_error,
        seed=record.seed,
        trade_off=record.trade_off,
        weight_steps=record.weight_steps,
        ratio_steps=record.ratio_steps,
        finetune_steps=record.finetune_steps,
        parent=None if record.parent is None else record.parent.number,
        inherited_steps=0 if record.parent is None else record.parent.steps,
        config_digest=record.config_digest,
        weights_digest=record.weights_digest,
        weights_sha256="0" * 64,
        origin=record.kind,
        hardware=record.hardware,
        versions=record.versions,
    )


def read_manifest(folder: Path) -> Manifest:
    """Read and check ``manifest.json`` of a model folder.

    Raises:
        ModelFolderError: no such folder, no manifest, damaged, or from a newer automl-prune.
    """
    path = Path(folder) / MANIFEST_FILE
    if not path.is_file():
        found = "no such folder" if not Path(folder).is_dir() else f"no {MANIFEST_FILE} in it"
        raise ModelFolderError(
            f"{folder} is not a model folder: {found}; `automl-prune pick` writes one"
        )
    try:
        return parse_manifest(path.read_text(encoding="utf-8"), origin=str(path))
    except (OSError, UnicodeDecodeError) as error:
        raise ModelFolderError(f"{path} cannot be read: {error}") from error


def parse_manifest(text: str, *, origin: str) -> Manifest:
    """Check the text of a manifest; ``origin`` names it in messages.

    Raises:
        ModelFolderError: damaged, or from a newer automl-prune.
    """
    try:
        content: Any = json.loads(text)
    except json.JSONDecodeError as error:
        raise ModelFolderError(
            f"{origin} is damaged: {error}; pick the model again or restore the file"
        ) from error
    version = content.get("version") if isinstance(content, dict) else None
    if not isinstance(version, int) or isinstance(version, bool):
        raise ModelFolderError(f"{origin} is damaged: it has no version number")
    if version > MANIFEST_VERSION:
        raise ModelFolderError(
            f"{origin} has version {version}, this automl-prune reads up to {MANIFEST_VERSION}; "
            "upgrade automl-prune"
        )
    try:
        return Manifest.model_validate(content)
    except ValidationError as error:
        mistakes = error.errors()
        lines = [
            f"  {'.'.join(str(part) for part in mistake['loc'])}: {mistake['msg']}"
            for mistake in mistakes[:10]
        ]
        if len(mistakes) > len(lines):
            lines.append(f"  and {len(mistakes) - len(lines)} more")
        raise ModelFolderError("\n".join([f"{origin} is damaged:", *lines])) from error


def _kept(group: GroupRow, record: TrialRecord) -> KeptGroup:
    return KeptGroup(
        name=group.name,
        layers=group.layers,
        units=group.units,
        kept=record.kept_units.get(group.name, group.units),
        channels_per_unit=group.channels_per_unit,
    )
