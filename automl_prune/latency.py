"""Dense against pruned, here: torch and onnxruntime, under a lock that the whole host shares."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn

from automl_prune.card import model_card
from automl_prune.evaluate import hardware_name, measure_latency
from automl_prune.export import onnx_bytes, onnx_session
from automl_prune.host_lock import host_lock
from automl_prune.manifest import CARD_FILE, LatencyRow, Manifest, read_manifest
from automl_prune.modelfile import load_dense, load_pruned, update_manifest
from automl_prune.records import Latency

if TYPE_CHECKING:
    import onnxruntime

BATCH_SIZES = (1, 64)
_WARM_UP_S = 0.2
_BUDGET_S = 1.0
_MIN_REPEATS, _MAX_REPEATS = 11, 500


def measure_folder(
    folder: Path,
    *,
    threads: int,
    trusted: tuple[str, ...] = (),
    runtimes: tuple[str, ...] = ("torch", "onnxruntime"),
    batch_sizes: tuple[int, ...] = BATCH_SIZES,
) -> Manifest:
    """Measure the dense and the pruned network on this machine's CPU; noted in the manifest.

    Rows of other hardware stay in the manifest; those of this hardware are replaced.

    Args:
        folder: a model folder.
        threads: CPU threads.
        trusted: packages that the person at the keyboard allowed.
        runtimes: ``torch``, ``onnxruntime``.
        batch_sizes: images of one forward pass.

    Returns:
        The manifest as written.

    Raises:
        ModelFolderError: no model folder, or damaged.
        EnvironmentProblemError: onnxruntime is missing, or the manifest cannot be written.
    """
    manifest = read_manifest(folder)
    models = {
        "dense": _settled(load_dense(manifest, trust=trusted), manifest),
        "pruned": load_pruned(folder, trust=trusted),
    }
    rows = [
        LatencyRow(model=name, runtime=runtime, latency=latency)
        for name, model in models.items()
        for runtime in runtimes
        for latency in _measure(
            model, manifest.preprocessing.input_shape, runtime, batch_sizes, threads
        )
    ]
    here = hardware_name("cpu")
    kept = [row for row in manifest.latencies if row.latency.hardware != here]
    manifest = manifest.model_copy(update={"latencies": (*kept, *rows)})
    update_manifest(folder, manifest)
    if (Path(folder) / CARD_FILE).is_file():
        from automl_prune.atomic import write_file

        write_file(Path(folder) / CARD_FILE, model_card(manifest).encode())
    return manifest


def _settled(dense: nn.Module, manifest: Manifest) -> nn.Module:
    """Give an untrained network the statistics of its own activations.

    Without them activations may shrink to subnormal numbers, which CPUs are slow at.
    """
    generator = torch.Generator().manual_seed(0)
    images_BCHW = torch.randn(8, *manifest.preprocessing.input_shape, generator=generator)
    norms = [m for m in dense.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 1.0
    with torch.no_grad():
        dense.train()(images_BCHW)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    return dense.eval()


def _measure(
    model: nn.Module,
    input_shape: tuple[int, int, int],
    runtime: str,
    batch_sizes: tuple[int, ...],
    threads: int,
) -> list[Latency]:
    if runtime == "torch":
        return [
            measure_latency(
                model, input_shape, batch_size=batch_size, threads=threads, device="cpu"
            )
            for batch_size in batch_sizes
        ]
    content = onnx_bytes(model, torch.zeros(2, *input_shape))
    session = onnx_session(content, threads=threads)
    return [
        measure_session(session, input_shape, batch_size, threads) for batch_size in batch_sizes
    ]


def measure_session(
    session: onnxruntime.InferenceSession,
    input_shape: tuple[int, int, int],
    batch_size: int,
    threads: int,
) -> Latency:
    """Wall time of one forward pass in onnxruntime, after a warm-up, under the host's lock.

    Args:
        session: of a network whose input is called ``images``.
        input_shape: channels, height, width.
        batch_size: images of a forward pass.
        threads: that the session was made with.
    """
    images = np.random.default_rng(0).standard_normal((batch_size, *input_shape), np.float32)

    def forward_s() -> float:
        since = time.perf_counter()
        session.run(None, {"images": images})
        return time.perf_counter() - since

    with host_lock():
        forward_s()
        warm_until = time.perf_counter() + _WARM_UP_S
        while time.perf_counter() < warm_until:
            forward_s()
        until = time.perf_counter() + _BUDGET_S
        seconds: list[float] = []
        while len(seconds) < _MIN_REPEATS or (
            time.perf_counter() < until and len(seconds) < _MAX_REPEATS
        ):
            seconds.append(forward_s())
    lower, median, upper = np.percentile(np.array(seconds) * 1e3, [25, 50, 75])
    return Latency(
        median_ms=float(median),
        spread_ms=float(upper - lower),
        batch_size=batch_size,
        threads=threads,
        hardware=hardware_name("cpu"),
    )
