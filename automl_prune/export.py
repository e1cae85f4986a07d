"""Other forms of a model folder's network, each proven against the safetensors model."""

from __future__ import annotations

import hashlib
import io
import logging
import warnings
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch

from automl_prune.atomic import write_file
from automl_prune.card import model_card
from automl_prune.errors import EnvironmentProblemError, ModelError
from automl_prune.manifest import CARD_FILE, ONNX_FILE, PT2_FILE, Export, Manifest, read_manifest
from automl_prune.modelfile import load_pruned, read_data, update_manifest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import onnxruntime
    from torch import Tensor, nn

Format = Literal["onnx", "pt2"]
TOLERANCE = 1e-4
"""Largest allowed difference, relative to the largest absolute output."""
PROOF_IMAGES = 64
_LARGEST_BATCH = 2**16
_FILES: dict[Format, str] = {"onnx": ONNX_FILE, "pt2": PT2_FILE}


def export_folder(
    folder: Path,
    formats: tuple[Format, ...] = ("onnx", "pt2"),
    *,
    trusted: tuple[str, ...] = (),
    data_root: str | None = None,
) -> Manifest:
    """Write exported forms into a model folder, and what was proven into its manifest.

    Args:
        folder: a model folder; its weights are not changed.
        formats: which forms.
        trusted: packages that the person at the keyboard allowed.
        data_root: where the data lie here, if not where the manifest says.

    Returns:
        The manifest as written.

    Raises:
        ModelFolderError: no model folder, or damaged.
        ModelError: the network cannot be exported, or the export gives other outputs.
        EnvironmentProblemError: a package is missing, or the file cannot be written.
    """
    folder = Path(folder)
    manifest = read_manifest(folder)
    model = load_pruned(folder, trust=trusted)
    data = read_data(manifest, trust=trusted, data_root=data_root)
    images_BCHW, _ = next(iter(data.in_order("select", batch_size=PROOF_IMAGES, device="cpu")))
    for form in formats:
        content, export = export_model(model, images_BCHW, form)
        write_file(folder / export.file, content)
        manifest = manifest.model_copy(update={"exports": {**manifest.exports, form: export}})
        update_manifest(folder, manifest)
    write_file(folder / CARD_FILE, model_card(manifest).encode())
    return manifest


def export_model(model: nn.Module, images_BCHW: Tensor, form: Format) -> tuple[bytes, Export]:
    """One exported form of a network, proven on real images.

    Args:
        model: on the CPU; not changed.
        images_BCHW: at least two images; they are passed one by one and all at once.
        form: which.

    Raises:
        ModelError: the network cannot be exported, or the export gives other outputs.
        EnvironmentProblemError: a package is missing.
    """
    model = model.eval()
    images_BCHW = images_BCHW.contiguous()
    make = {"onnx": onnx_bytes, "pt2": pt2_bytes}[form]
    content = make(model, images_BCHW[:2])
    run, tool = {"onnx": _run_onnx, "pt2": _run_pt2}[form](content)
    with torch.no_grad():
        expected = model(images_BCHW)
        found = run(images_BCHW)
        alone = run(images_BCHW[:1])
    scale = float(expected.abs().max())
    difference = max(
        float((found - expected).abs().max()), float((alone - expected[:1]).abs().max())
    )
    if not difference <= TOLERANCE * scale:
        raise ModelError(
            f"the {form} export differs from the model by {difference:.2e} at an output scale of "
            f"{scale:.2e} (allowed: {TOLERANCE:.0e} of it); it was not written"
        )
    return content, Export(
        file=_FILES[form],
        sha256=hashlib.sha256(content).hexdigest(),
        max_abs_difference=difference,
        output_scale=scale,
        num_images=len(images_BCHW),
        tool=tool,
    )


def onnx_bytes(model: nn.Module, images_BCHW: Tensor) -> bytes:
    """The network as ONNX: input ``images`` (batch free), output ``logits``, weights inside.

    Raises:
        ModelError: an operation cannot be exported.
        EnvironmentProblemError: onnx or onnxscript is not installed.
    """
    _require("onnx", "onnxscript")
    with _quiet(), _explained("onnx"):
        program = torch.onnx.export(
            model,
            (images_BCHW,),
            dynamo=True,
            dynamic_shapes=({0: _batch()},),
            input_names=["images"],
            output_names=["logits"],
            verbose=False,
        )
        assert program is not None
        content: bytes = program.model_proto.SerializeToString()
    return content


def pt2_bytes(model: nn.Module, images_BCHW: Tensor) -> bytes:
    """The network as a ``torch.export`` program with a free batch dimension.

    Raises:
        ModelError: an operation cannot be exported.
    """
    buffer = io.BytesIO()
    with _quiet(), _explained("pt2"):
        program = torch.export.export(model, (images_BCHW,), dynamic_shapes=({0: _batch()},))
        torch.export.save(program, buffer)
    return buffer.getvalue()


def onnx_session(content: bytes, *, threads: int | None = None) -> onnxruntime.InferenceSession:
    """An onnxruntime session on the CPU.

    Raises:
        EnvironmentProblemError: onnxruntime is not installed.
    """
    _require("onnxruntime")
    import onnxruntime

    options = onnxruntime.SessionOptions()
    if threads is not None:
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])


def _run_onnx(content: bytes) -> tuple[Callable[[Tensor], Tensor], str]:
    session = onnx_session(content)
    import onnxruntime

    def run(images_BCHW: Tensor) -> Tensor:
        (logits,) = session.run(None, {"images": images_BCHW.numpy()})
        return torch.from_numpy(logits)

    return run, f"onnxruntime {onnxruntime.__version__}"


def _run_pt2(content: bytes) -> tuple[Callable[[Tensor], Tensor], str]:
    with _quiet():
        program = torch.export.load(io.BytesIO(content)).module()
    return program, f"torch {torch.__version__}"


def _batch() -> torch.export.Dim:
    return torch.export.Dim("batch", min=1, max=_LARGEST_BATCH)


def _require(*packages: str) -> None:
    import importlib.util

    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    if missing:
        raise EnvironmentProblemError(
            f"ONNX needs {' and '.join(missing)}, which is not installed; "
            "run `pip install 'automl-prune[onnx]'`"
        )


@contextmanager
def _explained(form: Format) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # exporters raise anything; the first line names the operation
        first = str(error).strip().partition("\n")[0]
        raise ModelError(
            f"this network cannot be exported as {form}: {type(error).__name__}: {first[:300]}"
        ) from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Exporters narrate and warn about themselves; what matters is proven afterwards."""
    names = ("torch.onnx", "onnxscript", "onnx_ir", "torch.export")
    loggers = [logging.getLogger(name) for name in names]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
