"""The study file: what a person may write in ``studies/*.toml``, checked all at once."""

from __future__ import annotations

import difflib
import hashlib
import json
import tomllib
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from automl_prune.errors import ConfigError

Fraction = Annotated[float, Field(gt=0, lt=1)]
KeepRatio = Annotated[float, Field(gt=0, le=1)]
Count = Annotated[int, Field(ge=1)]
CountOrZero = Annotated[int, Field(ge=0)]
Rate = Annotated[float, Field(gt=0, le=100)]
Kwargs = dict[str, bool | int | float | str | list[int] | list[float] | list[str]]


class Section(BaseModel):
    """Base of every table of a study file: immutable, unknown keys refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())


class DataConfig(Section):
    """Which images, and how they are split and augmented."""

    source: str
    """Built-in name (``digits``, ``fashion-mnist``, ``cifar10``, ``cifar100``, ``imagenet``,
    ``image-folder``), ``torchvision.datasets:NAME``, or the user's ``package.module:function``."""
    root: str | None = None
    """Folder (or for ``image-folder`` also a pair of zip files) that holds the data."""
    kwargs: Kwargs = {}
    """Passed to the user's function or to the torchvision class."""
    image_size: Annotated[int, Field(ge=1)] | None = None
    """Images are resized to this height and width; None keeps the set's own size."""
    mean: tuple[float, ...] | None = None
    """Subtracted from pixels in 0..1, per channel; None: ImageNet's for colour images, else
    measured on ``train``. Images that are floats already are left alone then."""
    std: tuple[Annotated[float, Field(gt=0)], ...] | None = None
    """Divides pixels after that, per channel; goes together with ``mean``."""
    search_fraction: Fraction = 0.1
    """Share of the training images that drive the keep ratios."""
    select_fraction: Fraction = 0.1
    """Share of the training images that give the trial's objective."""
    limit: Count | None = None
    """Use only so many images of the training set (stratified, seeded) before splitting."""
    batch_size: Count = 128
    eval_batch_size: Count = 500
    augment: Literal["none", "crop", "crop-flip"] = "none"
    """``crop``: pad by an eighth and crop; ``crop-flip``: the same and mirror."""
    loss: str | None = None
    """The user's loss by import path, ``(logits_BK, labels_B) -> scalar``; None: cross entropy."""
    metric: str | None = None
    """The user's metric by import path, ``(logits_NK, labels_N) -> float``, larger is better,
    in percent; None: top-1 accuracy."""

    @model_validator(mode="after")
    def _mean_goes_with_std(self) -> DataConfig:
        if (self.mean is None) != (self.std is None) or len(self.mean or ()) != len(
            self.std or ()
        ):
            raise ValueError("mean and std go together and have one number per image channel")
        return self

    @model_validator(mode="after")
    def _leave_something_to_train_on(self) -> DataConfig:
        if self.search_fraction + self.select_fraction >= 0.9:
            raise ValueError(
                "search_fraction + select_fraction must stay below 0.9, found "
                f"{self.search_fraction + self.select_fraction:g}"
            )
        return self


class ModelConfig(Section):
    """Which network, by import path."""

    builder: Annotated[str, Field(pattern=r"^[\w.]+:[\w.]+$")]
    """``automl_prune.models:resnet20``, ``torchvision.models:resnet18``, ``timm:create_model``,
    or the user's own ``package.module:function`` (needs ``--trust package``)."""
    kwargs: Kwargs = {}
    """Keyword arguments of the builder; ``num_classes`` is filled in from the data if it fits."""
    checkpoint: str | None = None
    """``.safetensors`` file, or a ``.pt``/``.pth`` state dict (read with weights_only=True), or
    ``builder``: the builder itself returns trained weights."""


class DenseConfig(Section):
    """Training of the dense model, when no checkpoint is given (or to adapt one)."""

    epochs: CountOrZero = 20
    """With a checkpoint: epochs that adapt it, 0 unless given."""
    lr: Rate = 0.1
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    weight_decay: Annotated[float, Field(ge=0)] = 5e-4
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0


class GroupsConfig(Section):
    """What may be done to each group of coupled channels."""

    min_ratio: KeepRatio = 0.1
    """No group's keep ratio falls below this."""
    keep: list[str] = []
    """Layer name patterns (fnmatch); a group with such a layer is kept whole."""
    bounds: dict[str, tuple[KeepRatio, KeepRatio]] = {}
    """Layer name pattern to (lowest, highest) keep ratio."""
    channel_multiple: Count = 1
    """Kept channels are rounded to a multiple of this."""

    @model_validator(mode="after")
    def _bounds_in_order(self) -> GroupsConfig:
        for pattern, (low, high) in self.bounds.items():
            if low > high:
                raise ValueError(f"bounds.{pattern}: lowest {low:g} is above highest {high:g}")
        return self


class LimitsConfig(Section):
    """Feasibility limits; trials beyond them are kept but called infeasible."""

    min_accuracy: Annotated[float, Field(ge=0, le=100)] | None = None
    max_macs: Count | None = None
    max_macs_ratio: KeepRatio | None = None
    max_latency_ms: Annotated[float, Field(gt=0)] | None = None


class SearchConfig(Section):
    """The outer loop: what the Optuna study proposes and how long."""

    trials: Count = 40
    """Finished trials that the study shall have, baselines included."""
    baselines: CountOrZero = 5
    """First trials with uniform ratios, spread over the range and held fixed."""
    sampler: Literal["sweep", "tpe", "nsga2", "nsga3", "gp", "random"] = "sweep"
    """``sweep``: λ passes through its range from large models to small ones, in rounds, and
    ratios start where λ leads. The others are Optuna's samplers over λ and all ratios."""
    inherit: bool = True
    """A search trial starts from the weights of the smallest model on the front that is at least
    as large as where its λ leads; false: always from the dense model."""
    ratio: tuple[KeepRatio, KeepRatio] = (0.1, 0.95)
    """Range of the starting keep ratios."""
    tradeoff: tuple[Annotated[float, Field(gt=0)], Annotated[float, Field(gt=0)]] = (0.1, 100.0)
    """Range of the trade-off coefficient λ, searched on a log scale; λ stands for 1 / (1 + λ) of
    the dense MACs. The sweep ends where λ stands for the smallest model that there is."""
    objective: Literal["macs", "latency"] = "macs"
    """Second objective, minimised."""
    early_stopping: Literal["off", "cautious", "keen"] = "off"
    """Whether a trial ends during its fine-tuning once finished trials with at most as many MACs
    were clearly ahead at the same point. Off, because on digits it stopped trials of the final
    front too (docs/benchmarks.md). Baselines are never stopped, nor trials of a search for
    latency, which is only measured at the end."""
    limits: LimitsConfig = LimitsConfig()

    @model_validator(mode="after")
    def _ranges_in_order(self) -> SearchConfig:
        for name in ("ratio", "tradeoff"):
            low, high = getattr(self, name)
            if low >= high:
                raise ValueError(f"{name}: lowest {low:g} must be below highest {high:g}")
        return self


class InnerConfig(Section):
    """The inner loop: weights and ratios optimised alternately under dynamic masks."""

    steps: Count = 300
    """Weight steps."""
    weight_steps_per_ratio_step: Count = 4
    weight_lr: Rate = 0.01
    weight_momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    weight_decay: Annotated[float, Field(ge=0)] = 5e-4
    ratio_lr: Rate = 0.1
    ratio_momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    ratio_batch_fraction: KeepRatio = 1.0
    """Images of a ratio step, as a share of ``data.batch_size``; not fewer than 16 of them. Less
    than 1 is faster and costs some of the front: docs/benchmarks.md."""
    window_start: Fraction = 0.25
    """First window width τ, as a share of the group's channels; annealed to one channel."""
    anneal_fraction: KeepRatio = 0.8
    """Share of the inner loop over which the window narrows."""
    refresh_every: Count = 25
    """Weight steps between two rankings of the channels."""
    freeze_fraction: Fraction = 0.3
    """The ranking is frozen for this last share of the inner loop."""
    hold_draw: Count = 4
    """Weight steps for which one draw of the hard masks is held."""
    budget_ratio: KeepRatio | Literal["trade-off", "none"] = "trade-off"
    """Share of the dense MACs below which nothing presses, and at which the model is cut.
    ``trade-off``: 1 / (1 + λ), the size that λ stands for; ``none``: always pressure, and the
    size at which the loop ends."""


class FinetuneConfig(Section):
    """After the channels are removed: recalibration and fine-tuning."""

    steps: CountOrZero = 300
    lr: Rate = 0.02
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    weight_decay: Annotated[float, Field(ge=0)] = 5e-4
    recalibration_batches: CountOrZero = 50
    distillation: Annotated[float, Field(ge=0, le=1)] = 0.5
    """Weight of the distillation term; cross entropy has the rest."""
    temperature: Annotated[float, Field(gt=0)] = 2.0


class ComputeConfig(Section):
    """How a trial is computed; part of the study because it changes bits."""

    threads: Count = 2
    """CPU threads of one trial."""
    deterministic: bool = True
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Of passes through networks in training; weights stay float32. ``auto``: bfloat16 on GPUs
    with fast units for it, float32 elsewhere; it is faster on CPUs with AVX512-BF16 or AMX too."""
    measure_latency: bool = True
    latency_batch_size: Count = 64
    checkpoint_every_s: Annotated[float, Field(gt=0)] = 60.0
    """Seconds between two checkpoints inside a trial."""
    trial_deadline_s: Annotated[float, Field(gt=0)] | None = None


class StudyConfig(Section):
    """A whole study definition."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")]
    description: str = ""
    seed: CountOrZero = 0
    data: DataConfig
    model: ModelConfig
    dense: DenseConfig = DenseConfig()
    groups: GroupsConfig = GroupsConfig()
    search: SearchConfig = SearchConfig()
    inner: InnerConfig = InnerConfig()
    finetune: FinetuneConfig = FinetuneConfig()
    compute: ComputeConfig = ComputeConfig()

    @model_validator(mode="before")
    @classmethod
    def _a_checkpoint_is_used_as_it_is(cls, content: Any) -> Any:
        """Unless the file asks for it, weights that the user brings are not trained further."""
        if isinstance(content, dict) and isinstance(content.get("model"), dict):
            dense = content.get("dense", {})
            if content["model"].get("checkpoint") and isinstance(dense, dict):
                return {**content, "dense": {"epochs": 0, **dense}}
        return content

    def to_json(self) -> str:
        """The config as canonical JSON (sorted keys), as stored in the study."""
        return json.dumps(self.model_dump(mode="json"), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> StudyConfig:
        """Inverse of :meth:`to_json`.

        Raises:
            ConfigError: the text is no valid config of this version.
        """
        return _validate(json.loads(text), origin="stored study")

    def digest(self) -> str:
        """First 16 hex digits of the SHA-256 of what decides a trial's result.

        ``description`` and ``search.trials`` are left out: asking for more trials is no other
        study.
        """
        content = self.model_dump(mode="json")
        content.pop("description")
        content["search"].pop("trials")
        canonical = json.dumps(content, sort_keys=True)
        return hashlib.sha256(canonical.encode()).hexdigest()[:16]

    def differences(self, other: StudyConfig) -> list[str]:
        """Lines ``key: mine -> theirs`` for every key that :meth:`digest` counts and differs."""
        mine, theirs = (_flatten(c.model_dump(mode="json")) for c in (self, other))
        ignored = {"description", "search.trials"}
        return [
            f"{key}: {json.dumps(mine.get(key))} -> {json.dumps(theirs.get(key))}"
            for key in sorted((mine.keys() | theirs.keys()) - ignored)
            if mine.get(key) != theirs.get(key)
        ]


def expected_macs_ratio(trade_off: float) -> float:
    """Share of the dense MACs that λ stands for: λ = 1 for half of them."""
    return 1.0 / (1.0 + trade_off)


def trade_off_for(macs_ratio: float) -> float:
    """Inverse of :func:`expected_macs_ratio`."""
    return 1.0 / macs_ratio - 1.0


def load_study(name_or_path: str, overrides: tuple[str, ...] = ()) -> StudyConfig:
    """Read a study definition.

    Args:
        name_or_path: a path that ends in ``.toml``, or the name of a shipped study (``digits``).
        overrides: ``key.path=value`` strings; the value is read as TOML, else as a plain string.

    Raises:
        ConfigError: not found, not TOML, or wrong; all mistakes are listed at once.
    """
    path = Path(name_or_path)
    if path.suffix == ".toml":
        if not path.is_file():
            raise ConfigError(f"study file {name_or_path} does not exist; give a path to a .toml")
        text, origin = path.read_text(encoding="utf-8"), name_or_path
    elif name_or_path in shipped_studies():
        text = files("studies").joinpath(f"{name_or_path}.toml").read_text(encoding="utf-8")
        origin = f"shipped study {name_or_path}"
    else:
        near = difflib.get_close_matches(name_or_path, shipped_studies(), n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ConfigError(
            f"no study file or shipped study {name_or_path!r}{hint}; shipped studies: "
            f"{', '.join(shipped_studies())}; your own: a path that ends in .toml"
        )
    try:
        content = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{origin} is not valid TOML: {error}") from error
    for override in overrides:
        _apply_override(content, override)
    return _validate(content, origin=origin)


def with_overrides(config: StudyConfig, overrides: tuple[str, ...]) -> StudyConfig:
    """A study with some keys changed; see :func:`load_study`.

    Raises:
        ConfigError: the result is wrong; all mistakes are listed at once.
    """
    content = config.model_dump(mode="json")
    for override in overrides:
        _apply_override(content, override)
    return _validate(content, origin=f"study {config.name}")


def shipped_studies() -> list[str]:
    """Names of the study files that come with the package, sorted."""
    folder = files("studies")
    return sorted(f.name[: -len(".toml")] for f in folder.iterdir() if f.name.endswith(".toml"))


def _apply_override(content: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise ConfigError(f"--set {override!r}: write key.path=value, as in inner.steps=50")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text
    *parents, last = key.split(".")
    table = content
    for parent in parents:
        table = table.setdefault(parent, {})
        if not isinstance(table, dict):
            raise ConfigError(f"--set {override!r}: {parent} is a value, not a table")
    table[last] = value


def _validate(content: dict[str, Any], *, origin: str) -> StudyConfig:
    try:
        return StudyConfig.model_validate(content)
    except ValidationError as error:
        lines = [_describe(dict(mistake)) for mistake in error.errors()]
        plural = "mistake" if len(lines) == 1 else "mistakes"
        raise ConfigError("\n".join([f"{origin}: {len(lines)} {plural}", *lines])) from error


def _describe(mistake: dict[str, Any]) -> str:
    path = ".".join(str(part) for part in mistake["loc"]) or "(whole file)"
    if mistake["type"] == "extra_forbidden":
        return f"  {path}: unknown key; allowed: {', '.join(_siblings(mistake['loc']))}"
    if mistake["type"] == "missing":
        return f"  {path}: is missing"
    value = json.dumps(mistake["input"], default=str)
    shown = value if len(value) <= 80 else value[:77] + "..."
    message = mistake["msg"].removeprefix("Value error, ")
    return f"  {path}: found {shown}; {message[0].lower() + message[1:]}"


def _siblings(location: tuple[str | int, ...]) -> list[str]:
    section: type[BaseModel] = StudyConfig
    for part in location[:-1]:
        annotation = section.model_fields[str(part)].annotation
        if not (isinstance(annotation, type) and issubclass(annotation, BaseModel)):
            return []
        section = annotation
    return sorted(section.model_fields)


def _flatten(content: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in content.items():
        if isinstance(value, dict):
            flat.update(_flatten(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = value
    return flat
