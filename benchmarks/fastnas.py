"""ModelOpt's FastNAS as a rival in ``quality.py``."""

from __future__ import annotations

import contextlib
import copy
import importlib
import io
import tempfile
import time
import warnings
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest import mock

import numpy as np
import torch

from automl_prune.evaluate import evaluate
from automl_prune.seeds import derive_seed
from automl_prune.train import FineTuner

if TYPE_CHECKING:
    from collections.abc import Iterator

    from contest import Contest, Point

RATIOS = tuple(step / 20 for step in range(1, 21))
"""Keep ratios of a layer: ModelOpt's own; those below the study's lowest are left out."""
CALIBRATION_BATCHES = 10
"""Batches for batch norm. Every score pays for them: ModelOpt's own 50 would be most of the search
on a small net."""
TIMED_STEPS = 30


def fastnas(contest: Contest) -> Iterator[Point]:
    """FastNAS of NVIDIA ModelOpt, over a sweep of MACs.

    It measures once how much accuracy on ``search`` every width of every layer costs by itself,
    with batch norm calibrated on ``train``; each target's net follows from that. Targets are
    spread as those of ``dms``, but no further than the largest and the smallest net that it finds:
    ModelOpt prunes neither channels that meet a padded shortcut nor those that go into a linear
    layer. A net that answers several targets is trained for each, with another seed.

    The time of all its searches is compute: divided by the time of a dense training step, measured
    just before, it is taken from the steps of all trials evenly. Where that would leave less than
    the study's fine-tuning, there are fewer trials instead, spread over the nets found.

    Raises:
        ImportError: ModelOpt or a part of it is not installed.
        RuntimeError: ModelOpt refuses the network, or its search leaves no time for a trial.
    """
    _import_modelopt()
    step_seconds = _seconds_per_dense_step(contest)
    begun = time.perf_counter()
    try:
        nets = _search(contest)
    except AssertionError as error:  # its way to say what it does not support
        raise RuntimeError(f"ModelOpt: {error}") from error
    search_seconds = time.perf_counter() - begun
    search_steps = round(search_seconds / step_seconds)
    print(
        f"fastnas: searched for {search_seconds:.1f} s, {search_steps} dense steps of "
        f"{1000 * step_seconds:.1f} ms; {len({id(net) for net in nets})} different nets for "
        f"{len(nets)} targets",
        flush=True,
    )
    own_steps = contest.config.finetune.steps
    total = contest.trials * (contest.loop_steps + own_steps)
    trials = min(contest.trials, (total - search_steps) // max(1, own_steps))
    if trials < 1:
        raise RuntimeError(
            f"its search took the time of {search_steps} steps; all trials together have {total}"
        )
    extra_steps = (total - search_steps) // trials - own_steps
    for number, place in enumerate(np.linspace(0, len(nets) - 1, trials).round().astype(int)):
        begun = time.perf_counter() - search_seconds / trials
        yield contest.finetuned(copy.deepcopy(nets[place]), number, begun, extra_steps)


def _import_modelopt() -> None:
    try:
        with _quiet():
            for package in ("modelopt.torch.prune", "torchprofile"):
                importlib.import_module(package)
    except ImportError as error:
        raise ImportError(
            f"FastNAS needs NVIDIA ModelOpt ({error}): pip install nvidia-modelopt==0.47.0 "
            "torchprofile==0.0.4 huggingface_hub"
        ) from error


def _seconds_per_dense_step(contest: Contest) -> float:
    """Mean time of a training step of the dense network, without a teacher."""
    plain = contest.config.finetune.model_copy(update={"distillation": 0.0})
    tuner = FineTuner(
        copy.deepcopy(contest.bench.dense).requires_grad_(True),
        contest.bench.dense,
        contest.bench.data,
        contest.config.model_copy(update={"finetune": plain}),
        seed=derive_seed(contest.config.seed, "fastnas", "time"),
        device=contest.bench.device,
        steps=2 * TIMED_STEPS,
    )
    tuner.run(TIMED_STEPS)  # warm-up
    begun = time.perf_counter()
    tuner.run(2 * TIMED_STEPS)
    return (time.perf_counter() - begun) / TIMED_STEPS


def _search(contest: Contest) -> list[torch.nn.Module]:
    """The pruned network of every target, largest first; one that meets several comes again."""
    import modelopt.torch.nas as mtn
    import modelopt.torch.prune as mtp
    from modelopt.torch.prune.pruning import PruneModeRegistry

    bench, config = contest.bench, contest.config
    mode = [("fastnas", _search_space(contest.reachable[0]))]
    example = torch.zeros(1, *bench.data.input_shape, device=bench.device)
    batches = bench.data.stream(
        "train",
        batch_size=config.data.batch_size,
        seed=derive_seed(config.seed, "fastnas"),
        augment=False,
        device=bench.device,
    )

    def dense() -> torch.nn.Module:  # ModelOpt refuses channels-last
        return copy.deepcopy(bench.dense).to(memory_format=torch.contiguous_format)

    def accuracy(net: torch.nn.Module) -> float:
        return evaluate(net, bench.data, "search", config.data, device=bench.device).accuracy

    calibration = list(islice(batches, CALIBRATION_BATCHES))
    nets: list[torch.nn.Module] = []
    with tempfile.TemporaryDirectory() as folder, _quiet(), _less_overhead():

        def within(target: float, data: object = None) -> tuple[torch.nn.Module, float]:
            search = {
                "score_func": accuracy,
                "data_loader": data,
                "checkpoint": str(Path(folder) / "scores.pth"),
                "verbose": False,
            }
            net, found = mtp.prune(dense(), mode, {"flops": target}, example, search)
            return net, found["best"]["constraints"]["flops"]

        space = mtn.convert(dense(), mode, registry=PruneModeRegistry)
        _, sizes = mtn.profile(space, example, use_centroid=True, verbose=False)
        asked = dense_flops = sizes["max"]["flops"]
        net, flops = within(dense_flops, calibration)  # scores; the others read its file
        _, least = within(sizes["min"]["flops"])
        high, low = (share * dense_flops for share in contest.macs_shares())
        for target in np.linspace(min(high, flops), max(low, least), contest.trials):
            # a net that meets this target too, or missed a larger one, would be found again
            if target < flops <= asked:
                asked = float(target)
                net, flops = within(asked)
            nets.append(net)
    return nets


def _search_space(lowest: float) -> dict[str, object]:
    """Every width that a ratio gives, not only multiples of ModelOpt's 32 channels."""
    ratios = [ratio for ratio in RATIOS if ratio >= lowest]
    features = {"*": {"features_ratio": ratios, "feature_divisor": 1}}
    channels = {"*": {"channels_ratio": ratios, "channel_divisor": 1, "kernel_size": []}}
    return {"nn.Conv2d": channels, "nn.BatchNorm2d": features, "nn.Linear": features}


@contextlib.contextmanager
def _less_overhead() -> Iterator[None]:
    """Spare FastNAS what would be most of its time on a small net.

    It calibrates batch norm on as many batches as its queue holds, or on none, and counts the MACs
    of a net anew for every target.
    """
    from modelopt.torch.nas import algorithms, autonas, utils

    count, known = algorithms.inference_flops, {}

    def count_once(net: torch.nn.Module, *args: Any, **kwargs: Any) -> float:
        key = str(utils.get_subnet_config(net))
        if key not in known:
            known[key] = count(net, *args, **kwargs)
        return known[key]

    with (
        mock.patch.object(algorithms, "inference_flops", count_once),
        mock.patch.object(autonas, "MODELOPT_QUEUE_MAXLEN", CALIBRATION_BATCHES),
    ):
        yield


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without ModelOpt's tables, progress bars and warnings."""
    silence = io.StringIO()
    with (
        warnings.catch_warnings(),
        contextlib.redirect_stdout(silence),
        contextlib.redirect_stderr(silence),
    ):
        warnings.simplefilter("ignore")
        yield
