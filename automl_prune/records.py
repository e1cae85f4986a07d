"""What a study and a trial leave behind: frozen, versioned, JSON. Read by everything else."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeVar, get_args, get_origin, get_type_hints

from automl_prune.errors import SchemaError

RECORD_VERSION = 1

TrialKind = Literal["search", "baseline"]
TrialState = Literal["complete", "pruned"]


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupRow:
    """One group of coupled channels, as the study's stored table shows it."""

    name: str
    """Name of the group's first layer; the Optuna parameter is ``ratio/<name>``."""
    layers: tuple[str, ...]
    """Every layer that loses channels with this group."""
    units: int
    """Units that can be removed one by one (C)."""
    channels_per_unit: int
    """Channels of the first layer in one unit."""
    macs_share: float
    """Share of the dense MACs that a group kept at one unit would save, all others dense."""
    low: float
    """Lowest keep ratio allowed, in (0, 1]."""
    high: float
    """Highest keep ratio allowed; low == high == 1.0: kept whole."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FixedRow:
    """Channels that cannot be removed, and why."""

    layer: str
    channels: int
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyFacts:
    """What is measured once and stored in the study, so that readers never load a model."""

    groups: tuple[GroupRow, ...]
    fixed: tuple[FixedRow, ...]
    dense_macs: int
    dense_params: int
    dense_accuracy: float
    """Percent, on ``select``."""
    dense_digest: str
    """SHA-256 of the dense weights."""
    dense_latency: Latency | None
    min_macs: int
    """MACs with every group at its lowest keep ratio."""
    max_macs: int
    """MACs with every group at its highest keep ratio."""
    cost_scale: float
    """s of the loss L = CE + λ·s·F/F_dense."""
    input_shape: tuple[int, int, int]
    """Channels, height, width."""
    class_names: tuple[str, ...]
    split_sizes: dict[str, int]
    select_contaminated: bool
    """True: the dense weights came from outside and may have seen ``select``."""
    version: int = RECORD_VERSION


@dataclass(frozen=True, slots=True, kw_only=True)
class Latency:
    """Wall time of one forward pass."""

    median_ms: float
    spread_ms: float
    """Interquartile range."""
    batch_size: int
    threads: int
    hardware: str
    """CPU or GPU model; latencies of different hardware are never compared."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Parent:
    """The finished trial whose weights and widths another one starts from."""

    number: int
    weights_digest: str
    """SHA-256 of its weights, as in its record."""
    steps: int
    """Weight, ratio and fine-tuning steps of the line of trials up to it, its own included."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialRecord:
    """Everything one trial found; the fields named in ``VOLATILE`` differ between two runs."""

    kind: TrialKind
    state: TrialState
    seed: int
    trade_off: float
    start_ratios: dict[str, float]
    final_ratios: dict[str, float]
    kept_units: dict[str, int]
    """Kept units per group."""
    accuracy: float
    """Percent, on ``select``, after fine-tuning."""
    accuracy_before_finetuning: float
    """Percent, on ``select``, after recalibration."""
    loss: float
    """Mean loss on ``select``."""
    macs: int
    params: int
    weight_steps: int
    ratio_steps: int
    finetune_steps: int
    equivalence_error: float
    """max |masked - pruned| over max |masked|, on real images."""
    config_digest: str
    dense_digest: str
    weights_digest: str
    """SHA-256 over the pruned model's parameters and buffers."""
    parent: Parent | None = None
    """None: it started from the dense model."""
    latency: Latency | None = None
    phase_s: dict[str, float] = dataclasses.field(default_factory=dict)
    """Seconds per phase of the trial."""
    hardware: str = ""
    versions: dict[str, str] = dataclasses.field(default_factory=dict)
    version: int = RECORD_VERSION

    @property
    def start_in_words(self) -> str:
        """What it started from."""
        if self.parent is None:
            return "the dense model"
        return f"trial {self.parent.number}, {self.parent.steps:,} steps from the dense model"

    @property
    def steps_of_line(self) -> int:
        """All steps between the dense model and this one, those of its ancestors included."""
        before = 0 if self.parent is None else self.parent.steps
        return before + self.weight_steps + self.ratio_steps + self.finetune_steps

    def deterministic(self) -> dict[str, Any]:
        """The fields that a repetition must reproduce bit for bit."""
        content = dataclasses.asdict(self)
        return {key: value for key, value in content.items() if key not in VOLATILE}


@dataclass(frozen=True, slots=True, kw_only=True)
class FailureRecord:
    """A trial that failed for good."""

    kind: TrialKind
    seed: int
    trade_off: float
    start_ratios: dict[str, float]
    error: str
    """One line: what went wrong."""
    log: str
    """Traceback and the last log lines."""
    version: int = RECORD_VERSION


class BegunTrial(Protocol):
    """What is known of a trial when it begins."""

    @property
    def kind(self) -> TrialKind:
        """Search or baseline."""

    @property
    def seed(self) -> int:
        """Of everything random in it."""

    @property
    def trade_off(self) -> float:
        """λ."""

    @property
    def ratios(self) -> dict[str, float]:
        """Starting keep ratio per group."""


def failure_of(trial: BegunTrial, error: str, log: str = "") -> FailureRecord:
    """What a trial leaves that failed: why, in one line, and what else is known."""
    return FailureRecord(
        kind=trial.kind,
        seed=trial.seed,
        trade_off=trial.trade_off,
        start_ratios=trial.ratios,
        error=error,
        log=log,
    )


VOLATILE = frozenset({"latency", "phase_s", "hardware", "versions"})


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialCurves:
    """The trial's trajectories, kept as an artifact."""

    ratio_steps: tuple[int, ...]
    """Weight step at which each row of ``ratios`` was noted."""
    ratios: dict[str, tuple[float, ...]]
    """Keep ratio per group over ``ratio_steps``."""
    macs_ratio: tuple[float, ...]
    """Expected MACs over dense MACs, over ``ratio_steps``."""
    search_loss: tuple[float, ...]
    """Task loss on ``search``, over ``ratio_steps``."""
    inner_loss: tuple[tuple[int, float], ...]
    """(weight step, loss on ``train``)."""
    finetune_loss: tuple[tuple[int, float], ...]
    """(fine-tuning step, loss on ``train``)."""
    kept: dict[str, tuple[int, ...]] = dataclasses.field(default_factory=dict)
    """Which units of every group stayed, counted from 0 in the dense model."""
    version: int = RECORD_VERSION


R = TypeVar("R")


def to_json(record: object) -> str:
    """A record as JSON with sorted keys; floats keep every bit."""
    assert dataclasses.is_dataclass(record)
    return json.dumps(dataclasses.asdict(record), sort_keys=True)  # type: ignore[arg-type]


def from_json(kind: type[R], text: str) -> R:
    """Inverse of :func:`to_json`.

    Raises:
        SchemaError: the text was written by a newer version of automl-prune.
    """
    content = json.loads(text)
    if content.get("version", RECORD_VERSION) > RECORD_VERSION:
        raise SchemaError(
            f"a {kind.__name__} of version {content['version']} was found, this automl-prune "
            f"reads up to {RECORD_VERSION}; upgrade automl-prune"
        )
    return _decode(kind, content)  # type: ignore[no-any-return]


def _decode(kind: Any, value: Any) -> Any:
    if value is None:
        return None
    if dataclasses.is_dataclass(kind):
        hints = get_type_hints(kind)
        return kind(**{k: _decode(hints[k], v) for k, v in value.items() if k in hints})  # type: ignore[operator]
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is tuple:
        if len(arguments) == 2 and arguments[1] is Ellipsis:
            return tuple(_decode(arguments[0], item) for item in value)
        return tuple(_decode(a, item) for a, item in zip(arguments, value, strict=True))
    if origin is dict:
        return {key: _decode(arguments[1], item) for key, item in value.items()}
    if origin is not Literal and arguments:  # a union with None
        return _decode(next(a for a in arguments if a is not type(None)), value)
    return value
