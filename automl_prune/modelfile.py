"""A model folder: save it whole or not at all, load it without pickle, prove what it claims."""

from __future__ import annotations

import dataclasses
import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from automl_prune.arithmetic import exact_arithmetic
from automl_prune.atomic import write_file, write_folder
from automl_prune.config import ModelConfig
from automl_prune.data import load_data
from automl_prune.errors import AutoMLPruneError, ModelError, ModelFolderError
from automl_prune.evaluate import evaluate, hardware_name
from automl_prune.graph.cost import count_macs, count_params
from automl_prune.manifest import (
    CARD_FILE,
    MANIFEST_FILE,
    OUR_FILES,
    WEIGHTS_FILE,
    Manifest,
    Measured,
    read_manifest,
)
from automl_prune.models import WeightsLeftOut, build_architecture
from automl_prune.prune import LayerWidths, layer_widths, narrow_to
from automl_prune.weights import weights_digest, weights_from_bytes, weights_to_bytes

if TYPE_CHECKING:
    from torch import nn

    from automl_prune.data import Data, Split

__all__ = [
    "Manifest",
    "VerificationLine",
    "VerificationReport",
    "load_dense",
    "load_pruned",
    "read_data",
    "refuse_foreign",
    "save_model_folder",
    "update_manifest",
    "verify_folder",
    "widths_of",
]

LOSS_TOLERANCE = 1e-3
"""Largest relative difference between two measurements of one loss."""
OTHER_MACHINE_TOLERANCE = 1e-3
"""Share of the images that other hardware or another torch may judge otherwise."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VerificationLine:
    """One claim of a manifest, and what was found."""

    name: str
    expected: str
    found: str
    ok: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class VerificationReport:
    """Every claim that was checked."""

    lines: tuple[VerificationLine, ...]

    @property
    def ok(self) -> bool:
        """Whether the folder is what its manifest says."""
        return all(line.ok for line in self.lines)


def widths_of(model: nn.Module) -> dict[str, dict[str, int]]:
    """Sizes of every layer that can be narrowed, as a manifest keeps them."""
    return {name: dataclasses.asdict(widths) for name, widths in layer_widths(model).items()}


def save_model_folder(
    folder: Path | str,
    model: nn.Module,
    manifest: Manifest,
    *,
    card: str | None = None,
    trust: tuple[str, ...] = (),
) -> Manifest:
    """Write a model folder; an older model folder at the same place is replaced at the end.

    Before anything is written, the bytes are loaded back and give the same outputs as ``model``.

    Args:
        folder: where; parents are made.
        model: the pruned model; not changed.
        manifest: its ``weights_digest`` is that of ``model``; its ``weights_sha256`` is filled in
            here.
        card: text of the model card, if any.
        trust: packages that the person at the keyboard allowed.

    Returns:
        The manifest as written.

    Raises:
        EnvironmentProblemError: it cannot be written; what was there before still is.
        ModelFolderError: something else stands at ``folder``.
        ModelError: the model cannot be rebuilt from its builder, widths and weights.
    """
    folder = Path(folder)
    refuse_foreign(folder)
    content = weights_to_bytes(model)
    manifest = manifest.model_copy(update={"weights_sha256": hashlib.sha256(content).hexdigest()})
    _prove_reload(model, _rebuild(manifest, content, trust, origin=str(folder)), manifest)
    files = {WEIGHTS_FILE: content, MANIFEST_FILE: manifest.to_json().encode()}
    if card is not None:
        files[CARD_FILE] = card.encode()
    write_folder(folder, files)
    return manifest


def update_manifest(folder: Path | str, manifest: Manifest) -> None:
    """Replace ``manifest.json`` alone.

    Raises:
        EnvironmentProblemError: it cannot be written; the old one is still there.
    """
    write_file(Path(folder) / MANIFEST_FILE, manifest.to_json().encode())


def load_pruned(folder: Path | str, *, trust: tuple[str, ...] | str = ()) -> nn.Module:
    """The pruned model of a model folder, in evaluation mode, on the CPU.

    Args:
        folder: what ``automl-prune pick --out`` wrote.
        trust: packages whose builders may run, besides automl_prune, torchvision and timm.

    Raises:
        ModelFolderError: no model folder, damaged, changed, or from a newer automl-prune.
        TrustError: the builder's package is not trusted.
        ModelError: the builder does not give a network that the weights fit.
    """
    folder = Path(folder)
    manifest = read_manifest(folder)
    content = _read_weights(folder)
    found = hashlib.sha256(content).hexdigest()
    if found != manifest.weights_sha256:
        raise ModelFolderError(
            f"{folder / WEIGHTS_FILE} is not the file that was saved: SHA-256 {found[:16]}..., "
            f"the manifest says {manifest.weights_sha256[:16]}...; pick the model again"
        )
    trusted = (trust,) if isinstance(trust, str) else tuple(trust)
    return _rebuild(manifest, content, trusted, origin=str(folder))


def load_dense(manifest: Manifest, *, trust: tuple[str, ...] = ()) -> nn.Module:
    """The dense network that a model folder was narrowed from, with untrained weights.

    Raises:
        TrustError, ModelError, ConfigError: as for :func:`load_pruned`.
    """
    return build_architecture(
        ModelConfig(builder=manifest.builder.path, kwargs=manifest.builder.kwargs),
        num_classes=manifest.builder.num_classes,
        input_shape=manifest.preprocessing.input_shape,
        trusted=trust,
    )


def read_data(
    manifest: Manifest, *, trust: tuple[str, ...] = (), data_root: str | None = None
) -> Data:
    """The data that a model folder's numbers were measured on.

    Args:
        manifest: says which, and how they are split.
        trust: packages that the person at the keyboard allowed.
        data_root: where the data lie here, if not where the manifest says.

    Raises:
        DataError: they are not there, or damaged.
    """
    config = manifest.splits.config
    if data_root is not None:
        config = config.model_copy(update={"root": data_root})
    return load_data(config, seed=manifest.splits.seed, trusted=trust)


def verify_folder(
    folder: Path | str,
    *,
    trusted: tuple[str, ...] = (),
    data_root: str | None = None,
    device: str = "cpu",
) -> VerificationReport:
    """Reload a model folder and compare everything its manifest claims with what is found.

    Digests of every file, MACs (counted on a real forward pass), parameters, the splits'
    digest, and accuracy and loss on ``select`` and, where it was read, ``test``. On the hardware
    and torch version of the manifest accuracy must be the same; elsewhere one image in a
    thousand (at least one) may be judged otherwise.

    Raises:
        ModelFolderError: no model folder, or its manifest is damaged or newer.
        DataError: the data are not there.
        TrustError: the builder's package is not trusted.
    """
    folder = Path(folder)
    manifest = read_manifest(folder)
    content = _read_weights(folder)
    lines = [
        _line(WEIGHTS_FILE, manifest.weights_sha256, hashlib.sha256(content).hexdigest()),
        *(
            _export_line(folder, export.file, export.sha256)
            for export in manifest.exports.values()
        ),
    ]
    if not lines[0].ok:
        return VerificationReport(lines=tuple(lines))
    try:
        model = _rebuild(manifest, content, trusted, origin=str(folder))
    except ModelFolderError as error:
        lines.append(VerificationLine(name="reload", expected="loads", found=str(error), ok=False))
        return VerificationReport(lines=tuple(lines))
    shape = manifest.preprocessing.input_shape
    lines += [
        _line("weights", manifest.weights_digest, weights_digest(model)),
        _line("MACs", f"{manifest.macs:,}", f"{count_macs(model, shape):,}"),
        _line("parameters", f"{manifest.params:,}", f"{count_params(model):,}"),
    ]
    data = read_data(manifest, trust=trusted, data_root=data_root)
    lines += [
        _line("splits", manifest.splits.digest, data.digest),
        _line("class names", ", ".join(manifest.class_names), ", ".join(data.class_names)),
    ]
    claims: dict[Split, Measured | None] = {"select": manifest.select, "test": manifest.test}
    place = torch.device(device)
    model = model.to(device=place, memory_format=torch.channels_last)  # type: ignore[call-overload]
    exact = (
        manifest.hardware == hardware_name(place)
        and manifest.versions.get("torch") == torch.__version__
    )
    for split, claim in claims.items():
        if claim is not None:
            found = evaluate(
                model, data, split, manifest.splits.config, device=place, trusted=trusted
            )
            lines += _quality_lines(split, claim, found.accuracy, found.loss, exact=exact)
    return VerificationReport(lines=tuple(lines))


def _quality_lines(
    split: str, claim: Measured, accuracy: float, loss: float, *, exact: bool
) -> list[VerificationLine]:
    images = 0 if exact else max(1, round(OTHER_MACHINE_TOLERANCE * claim.num_images))
    allowed = 100.0 * images / claim.num_images + 1e-6
    note = (
        "" if exact else f" (other hardware or torch: {images} of {claim.num_images} may differ)"
    )
    return [
        VerificationLine(
            name=f"accuracy on {split}",
            expected=f"{claim.accuracy:.4f}{note}",
            found=f"{accuracy:.4f}",
            ok=abs(accuracy - claim.accuracy) <= allowed,
        ),
        VerificationLine(
            name=f"loss on {split}",
            expected=f"{claim.loss:.6f}",
            found=f"{loss:.6f}",
            ok=abs(loss - claim.loss) <= LOSS_TOLERANCE * max(abs(claim.loss), 1e-3),
        ),
    ]


def _line(name: str, expected: str, found: str) -> VerificationLine:
    return VerificationLine(name=name, expected=expected, found=found, ok=expected == found)


def _export_line(folder: Path, file: str, expected: str) -> VerificationLine:
    path = folder / Path(file).name
    if not path.is_file():
        return VerificationLine(name=file, expected=expected, found="no such file", ok=False)
    return _line(file, expected, hashlib.sha256(path.read_bytes()).hexdigest())


def _read_weights(folder: Path) -> bytes:
    path = folder / WEIGHTS_FILE
    try:
        return path.read_bytes()
    except OSError as error:
        raise ModelFolderError(
            f"{path} cannot be read: {error.strerror}; pick the model again"
        ) from error


def _rebuild(
    manifest: Manifest, content: bytes, trusted: tuple[str, ...], *, origin: str
) -> nn.Module:
    with WeightsLeftOut():
        model = load_dense(manifest, trust=trusted)
    try:
        widths = {name: LayerWidths(**sizes) for name, sizes in manifest.widths.items()}
        narrow_to(model, widths)
        state = weights_from_bytes(content, origin=f"{origin}/{WEIGHTS_FILE}")
        model.load_state_dict(state, strict=True)
    except AutoMLPruneError as error:
        raise ModelFolderError(f"{origin} does not load: {error}") from error
    except (TypeError, AttributeError, KeyError, RuntimeError) as error:
        raise ModelFolderError(
            f"{origin} does not load: the weights or widths do not fit what "
            f"{manifest.builder.path} builds: {error}"
        ) from error
    return model.eval()


def _prove_reload(model: nn.Module, reloaded: nn.Module, manifest: Manifest) -> None:
    """The folder's own description must give the model that was measured, not a lookalike."""
    shape = manifest.preprocessing.input_shape
    images_BCHW = torch.randn(2, *shape, generator=torch.Generator().manual_seed(0))
    device = next(model.parameters()).device
    was_training = model.training
    model.eval()
    # as measured models are, so that both run on the same kernels
    reloaded.to(memory_format=torch.channels_last)
    with torch.no_grad(), exact_arithmetic():
        expected = model(images_BCHW.to(device)).cpu()
        found = reloaded(images_BCHW)
    model.train(was_training)
    scale = float(expected.abs().max())
    if not float((found - expected).abs().max()) <= 1e-4 * max(scale, 1e-12):
        raise ModelError(
            f"{manifest.builder.path}({manifest.builder.kwargs}) with the saved widths and "
            "weights gives other outputs than the model that was measured; a builder must "
            "depend on its arguments alone"
        )


def refuse_foreign(folder: Path) -> None:
    """Refuse a destination that holds anything but an older model folder.

    Raises:
        ModelFolderError: it does.
    """
    if not folder.exists():
        return
    if not folder.is_dir():
        raise ModelFolderError(f"{folder} is a file; give a folder that does not exist yet")
    foreign = sorted(path.name for path in folder.iterdir() if path.name not in OUR_FILES)
    if foreign:
        raise ModelFolderError(
            f"{folder} holds {foreign[0]!r}, which is not of a model folder; give another folder"
        )
