"""What a search step costs against a step of training the dense network; and a pruned network.

    python benchmarks/speed.py --net resnet18 --json FILE     # one net
    python benchmarks/speed.py --json-dir FOLDER              # all nets, each in its own process

On the CPU (or ``--device cuda``), in one run, side by side, medians over rounds. The images are
scikit-learn's digits, enlarged: what is in them does not matter here, but accuracy and ratios are
then those of a task. A search step is a weight step with its share of everything that the inner
loop does beside it: ratio steps, draws, narrowing, rankings. It is measured over a whole
loop, so over the whole schedule of the window, at ratios that are held where the network has the
stated share of its MACs (removed inside blocks, or everywhere, residual streams included);
``whole loop`` lets them move, from r = 0.7 with λ = 1. ``bare`` is the pruned network, trained.
"""

from __future__ import annotations

import argparse
import copy
import datetime
import itertools
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING
from unittest import mock

import torch
import torch.nn.functional as F

from automl_prune.arithmetic import fast_arithmetic
from automl_prune.config import StudyConfig, with_overrides
from automl_prune.cuda_graphs import GraphedStep, rate_tensor
from automl_prune.evaluate import hardware_name, measure_latency
from automl_prune.export import onnx_bytes, onnx_session
from automl_prune.inner import InnerLoop, compact, project_to_budget
from automl_prune.inner.optimizer import weight_step
from automl_prune.latency import measure_session
from automl_prune.prune import prune_model
from automl_prune.search import run_search
from automl_prune.storage import open_storage
from automl_prune.study import StudyHandle
from automl_prune.workbench import Workbench, versions

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor, nn

NETS: dict[str, dict] = {
    "resnet20": {"builder": "automl_prune.models:resnet20", "size": 32},
    "resnet20-2x": {
        "builder": "automl_prune.models:resnet20",
        "kwargs": {"width": 2.0},
        "size": 32,
    },
    "resnet18": {"builder": "torchvision.models:resnet18", "size": 32},
    "vgg16_bn": {"builder": "automl_prune.models:vgg16_bn", "size": 32},
    "mobilenet_v2": {"builder": "torchvision.models:mobilenet_v2", "size": 32},
    "resnet18-224": {
        "builder": "torchvision.models:resnet18",
        "size": 224,
        "batch": 16,
        "steps": 8,
    },
}
SHARES = (0.75, 0.5, 0.3)
MULTIPLES = (1, 8)
BATCH, STEPS, ROUNDS = 64, 30, 2
STEPS_ON_GPU = 300  # as studies have them: what a loop records, it records once
CALLED_STEPS = 60  # where Python launches every kernel


def images(size: int, limit: int) -> tuple[tuple[Tensor, Tensor], None]:
    """Digits as colour images of ``size`` x ``size``; a data source of the studies here."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    grey = torch.tensor(digits.images[:limit], dtype=torch.float32)[:, None] / 16.0
    large = F.interpolate(grey, size=size, mode="bilinear").expand(-1, 3, -1, -1)
    pixels = (255.0 * large).to(torch.uint8).contiguous()
    return (pixels, torch.tensor(digits.target[:limit])), None


def study_of(name: str, threads: int, device: str, steps: int | None = None) -> StudyConfig:
    net = NETS[name]
    if steps is None:
        steps = STEPS_ON_GPU if device != "cpu" else net.get("steps", STEPS)
    batch = BATCH if device != "cpu" else net.get("batch", BATCH)
    limit = 1797 if net["size"] <= 64 else 300
    content = {
        "name": name.replace("-", "_"),
        "seed": 0,
        "data": {
            "source": "speed:images",
            "kwargs": {"size": net["size"], "limit": limit},
            "batch_size": batch,
            "augment": "crop",
        },
        "model": {"builder": net["builder"], "kwargs": net.get("kwargs", {})},
        "dense": {"epochs": 1, "lr": 0.05},
        "inner": {"steps": steps},
        "finetune": {"steps": steps, "recalibration_batches": 10},
        "search": {"trials": 4 if device == "cpu" else 3, "baselines": 0},
        "compute": {"threads": threads, "measure_latency": False},
    }
    return StudyConfig.model_validate(content)


class Steps:
    """Functions that run some steps and return milliseconds per weight step."""

    def __init__(self, bench: Workbench, steps: int) -> None:
        self.bench, self.steps = bench, steps
        self.config = with_overrides(bench.config, (f"inner.steps={steps}",))
        self.batch = bench.config.data.batch_size

    def _timed(self, run: Callable[[], None]) -> float:
        self._wait()
        begun = time.perf_counter()
        run()
        self._wait()
        return 1e3 * (time.perf_counter() - begun) / self.steps

    def _wait(self) -> None:
        if self.bench.device.type == "cuda":
            torch.cuda.synchronize()

    def _trainee(self) -> nn.Module:
        return copy.deepcopy(self.bench.dense).requires_grad_(True).train()

    def _batches(self) -> object:
        return self.bench.data.stream(
            "train", batch_size=self.batch, seed=1, augment=True, device=self.bench.device
        )

    def warm_up(self) -> None:
        """Some dense steps."""
        model, batches = self._trainee(), self._batches()
        for _ in range(5):
            images_BCHW, labels_B = next(batches)  # type: ignore[call-overload]
            F.cross_entropy(model(images_BCHW), labels_B).backward()

    def dense(self) -> float:
        """Training the dense network."""
        return self._plain_steps(self._trainee())

    def dense_as_called(self) -> float:
        """The same on a GPU, with every kernel launched by Python."""
        return self._plain_steps(self._trainee(), recorded=False)

    def torch_pruning(self) -> float:
        """Torch-Pruning's sparse learning on the dense network."""
        import torch_pruning as tp

        model, batches = self._trainee(), self._batches()
        example = torch.zeros(1, *self.bench.data.input_shape, device=self.bench.device)
        importance = tp.importance.GroupMagnitudeImportance(p=2)
        pruner = tp.pruner.GroupNormPruner(model, example, importance=importance, reg=1e-4)
        optimizer = torch.optim.SGD(
            model.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4, fused=True
        )

        def run() -> None:
            pruner.update_regularizer()
            for _ in range(self.steps):
                images_BCHW, labels_B = next(batches)  # type: ignore[call-overload]
                optimizer.zero_grad()
                with fast_arithmetic(self.bench.device):
                    logits_BK = model(images_BCHW)
                F.cross_entropy(logits_BK.float(), labels_B).backward()
                pruner.regularize(model)
                optimizer.step()

        return self._timed(run)

    def search(self, counts_G: Tensor | None, execution: str, *overrides: str) -> float:
        """A whole inner loop; held at these widths, or free from r = 0.7 on."""
        bench = self.bench
        low_G, high_G = bench.low_G, bench.high_G
        start_G = torch.full_like(low_G, 0.7)
        if counts_G is not None:
            start_G = low_G = high_G = counts_G / bench.cost.dense_counts_G
        loop = InnerLoop(
            self._trainee(),
            bench.graph,
            bench.cost,
            bench.data,
            with_overrides(self.config, overrides),
            start_G=start_G,
            low_G=low_G,
            high_G=high_G,
            trade_off=1.0,
            cost_scale=bench.facts.cost_scale,
            seed=1,
            device=bench.device,
            fixed=False,
            execution=execution,  # type: ignore[arg-type]
        )
        return self._timed(lambda: loop.run(loop.total_steps))

    def bare(self, counts_G: Tensor) -> float:
        """The bare pruned network, trained: no ratio steps, draws or rankings."""
        model = pruned_to(self.bench, counts_G).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        return self._plain_steps(model.requires_grad_(True).train())

    def _plain_steps(self, model: nn.Module, *, recorded: bool = True) -> float:
        """Batch, forward, backward, one fused SGD step."""
        device, batches = self.bench.device, self._batches()
        parameters: list[Tensor] = list(model.parameters())
        momenta = [torch.zeros_like(p) for p in parameters]
        lr = rate_tensor(device).fill_(0.01)

        def descend(images_BCHW: Tensor, labels_B: Tensor) -> tuple[Tensor]:
            with fast_arithmetic(device):
                logits_BK = model(images_BCHW)
            loss = F.cross_entropy(logits_BK.float(), labels_B)
            loss.backward()
            weight_step(parameters, momenta, lr=lr, momentum=0.9, weight_decay=5e-4)
            return (loss.detach(),)

        step = GraphedStep(descend, device) if recorded else descend

        def run() -> None:
            for _ in range(self.steps):
                step(*next(batches))  # type: ignore[call-overload]

        return self._timed(run)


def even_counts(
    bench: Workbench, share: float, *, everywhere: bool = False, multiple: int = 1
) -> Tensor:
    """Kept units at this share of the dense MACs, removed as evenly as they can be.

    Args:
        bench: of the net.
        share: of the dense MACs.
        everywhere: in every group; else only in those inside blocks (one convolution makes their
            channels), with residual streams whole.
        multiple: of channels.
    """
    layers = bench.graph.layers
    whole_G = torch.tensor(
        [
            not everywhere
            and sum(layers[name].kind in ("conv", "linear") for name in group.layers) > 1
            for group in bench.graph.groups
        ]
    )
    return project_to_budget(
        torch.ones_like(bench.low_G),
        bench.cost,
        share * bench.cost.dense_macs,
        low_G=torch.where(whole_G, bench.high_G, bench.low_G),
        high_G=bench.high_G,
        channel_multiple=multiple,
    )


def pruned_to(bench: Workbench, counts_G: Tensor) -> nn.Module:
    """The dense network with so many of every group's first channels kept."""
    keep_U = torch.zeros(bench.graph.num_units, dtype=torch.bool)
    for group, count in zip(bench.graph.groups, counts_G.tolist(), strict=True):
        keep_U[group.first_unit : group.first_unit + count] = True
    return prune_model(copy.deepcopy(bench.dense), bench.graph, keep_U).eval()


def step_table(bench: Workbench, rounds: int, rows: list[str] | None = None) -> dict:
    """Milliseconds per weight step of every kind (or of these), medians, and peak memory."""
    on_gpu = bench.device.type == "cuda"
    steps = called = Steps(bench, bench.config.inner.steps)
    if on_gpu:
        called = Steps(bench, CALLED_STEPS)
    kinds: dict[str, Callable[[], float]] = {"dense": steps.dense}
    if on_gpu:
        kinds["dense as called"] = called.dense_as_called
    held = {f"{share:g}": even_counts(bench, share) for share in SHARES}
    held["0.5 everywhere"] = even_counts(bench, 0.5, everywhere=True)
    for name, counts_G in held.items():
        kinds[f"bare {name}"] = lambda counts_G=counts_G: steps.bare(counts_G)
        kinds[f"compact {name}"] = lambda counts_G=counts_G: called.search(counts_G, "compact")
    kinds["compact 0.5, not filled up"] = lambda: not_filled_up(
        lambda: called.search(held["0.5"], "compact")
    )
    kinds["compact 0.5, ratio steps on a quarter of a batch"] = lambda: called.search(
        held["0.5"], "compact", "inner.ratio_batch_fraction=0.25"
    )
    kinds["whole loop"] = lambda: steps.search(None, "auto")
    kinds["masked 0.5"] = lambda: steps.search(held["0.5"], "masked")
    kinds["torch-pruning"] = called.torch_pruning
    if rows is not None:
        if unknown := set(rows) - set(kinds):
            raise SystemExit(f"--rows: no {sorted(unknown)}; there are {sorted(kinds)}")
        kinds = {kind: run for kind, run in kinds.items() if kind in {"dense", *rows}}
    found: dict[str, list[float]] = {kind: [] for kind in kinds}
    peaks: dict[str, float] = {}
    steps.warm_up()
    for number in range(1, rounds + 1):
        for kind, run in kinds.items():
            try:
                milliseconds = run()
            except Exception as error:
                print(f"{kind}: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
                continue
            peaks.setdefault(kind, peak_mib(bench.device))
            found[kind].append(milliseconds)
            print(f"  round {number}: {kind} {milliseconds:.1f} ms", file=sys.stderr, flush=True)
    medians = {kind: statistics.median(times) for kind, times in found.items() if times}
    return {
        "ms": medians,
        "of_dense": {kind: ms / medians["dense"] for kind, ms in medians.items()},
        "rounds_ms": found,
        "peak_mib_so_far": peaks,
    }


def not_filled_up(run: Callable[[], float]) -> float:
    """With the compact form as narrow as the draws, whatever kernels make of odd widths."""
    with mock.patch.object(compact, "WIDTH_MULTIPLE", 1):
        return run()


def peak_mib(device: torch.device) -> float:
    """Peak memory so far: of the GPU, or of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


def latency_table(bench: Workbench, threads: int, rounds: int) -> list[dict]:
    """Inference, dense against pruned to half the MACs; medians over rounds of medians.

    By onnxruntime only on the CPU.
    """
    on_cpu = bench.device.type == "cpu"
    models = {"dense": copy.deepcopy(bench.dense)}
    for name, everywhere in (("inside blocks", False), ("everywhere", True)):
        for multiple in MULTIPLES:
            counts_G = even_counts(bench, 0.5, everywhere=everywhere, multiple=multiple)
            models[f"pruned {name}, multiple {multiple}"] = pruned_to(bench, counts_G)
    shape = bench.data.input_shape
    sessions = {
        name: onnx_session(onnx_bytes(model, torch.zeros(2, *shape)), threads=threads)
        for name, model in models.items()
        if on_cpu
    }
    rows = []
    for batch in (1, 64 if shape[-1] <= 64 else 8):
        times: dict[tuple[str, str], list[float]] = {}
        for _ in range(rounds):
            for name, model in models.items():
                by_torch = measure_latency(
                    model, shape, batch_size=batch, threads=threads, device=bench.device
                )
                times.setdefault((name, "torch"), []).append(by_torch.median_ms)
                if on_cpu:
                    by_onnx = measure_session(sessions[name], shape, batch, threads)
                    times.setdefault((name, "onnxruntime"), []).append(by_onnx.median_ms)
        for (name, runtime), values in times.items():
            dense_ms = statistics.median(times["dense", runtime])
            ms = statistics.median(values)
            rows.append(
                {
                    "model": name,
                    "runtime": runtime,
                    "batch": batch,
                    "ms": ms,
                    "times_faster": dense_ms / ms,
                }
            )
    return rows


def trial_table(bench: Workbench, folder: Path) -> dict:
    """Some trials by ``search``: where their time goes, and what lies between them."""
    config = bench.config
    storage = open_storage(f"sqlite:///{folder / 'study.db'}")
    handle = StudyHandle.create_or_check(storage, config, bench.facts, folder / "artifacts")
    phases: list[dict[str, float]] = []
    ends = [time.perf_counter()]

    def note(event: object) -> None:
        record = getattr(event, "record", None)
        if record is not None:
            phases.append(record.phase_s)
            ends.append(time.perf_counter())

    run_search(
        handle,
        bench,
        target=config.search.trials,
        checkpoint_dir=folder / "checkpoints",
        on_event=note,
        should_stop=lambda: False,
    )
    handle.close()
    wholes = [after - before for before, after in itertools.pairwise(ends)]
    computing = ("inner", "recalibrate", "finetune", "evaluate")
    between = [
        whole - sum(phase.get(name, 0.0) for name in computing)
        for whole, phase in zip(wholes, phases, strict=True)
    ]
    return {
        "phase_s": {n: statistics.median(p.get(n, 0.0) for p in phases) for n in phases[0]},
        "between_s": statistics.median(between[1:]),
        "between_max_s": max(between[1:]),
    }


def one_net(
    name: str, *, device: str, rounds: int, steps: int | None, rows: list[str] | None
) -> dict:
    threads = 2
    config = study_of(name, threads, device, steps)
    with tempfile.TemporaryDirectory(prefix="speed-") as scratch:
        folder = Path(scratch)
        arguments = {"cache_dir": folder, "device": device, "trusted": ("speed",)}
        facts = Workbench.prepare(config, **arguments).facts  # type: ignore[arg-type]
        begun = time.perf_counter()
        bench = Workbench.prepare(config, facts=facts, **arguments)  # type: ignore[arg-type]
        set_up_s = time.perf_counter() - begun
        found = {
            "net": name,
            "setting": {
                "batch": config.data.batch_size,
                "image": bench.data.input_shape,
                "threads": threads,
                "steps_of_a_loop": config.inner.steps,
                "weight_steps_per_ratio_step": config.inner.weight_steps_per_ratio_step,
                "window": [config.inner.window_start, config.inner.anneal_fraction],
                "refresh_every": config.inner.refresh_every,
                "hold_draw": config.inner.hold_draw,
                "rounds": rounds,
            },
            "steps": step_table(bench, rounds, rows),
            "set_up_s": set_up_s,
            "hardware": hardware_name(bench.device),
            "versions": versions(),
            "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        }
        if rows is None:
            found["trial"] = trial_table(bench, folder)
            found["peak_mib"] = peak_mib(bench.device)
            found["latency"] = latency_table(bench, threads, rounds)
        return found


def show(found: dict) -> None:
    """The tables of one net."""
    setting, ratios = found["setting"], found["steps"]["of_dense"]
    print(f"\n{found['net']}, batch {setting['batch']}, {setting['image'][-1]} pixels")
    dense = found["steps"]["ms"]["dense"]
    print(
        f"  dense step {dense:.1f} ms; of it: "
        + ", ".join(f"{kind} {ratio:.2f}" for kind, ratio in ratios.items() if kind != "dense")
    )
    if "trial" not in found:
        return
    trial = found["trial"]
    print("  trial: " + ", ".join(f"{n} {s:.2f} s" for n, s in trial["phase_s"].items()))
    print(
        f"  between two trials {trial['between_s']:.2f} s (at most {trial['between_max_s']:.2f}), "
        f"set-up {found['set_up_s']:.2f} s, peak memory {found['peak_mib']:.0f} MiB"
    )
    for row in found["latency"]:
        print(
            f"  {row['runtime']}, batch {row['batch']}, {row['model']}: {row['ms']:.2f} ms, "
            f"{row['times_faster']:.2f} times as fast as dense"
        )


def main() -> int:
    """Measure one net, or every net in a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--net", choices=list(NETS))
    parser.add_argument("--json", type=Path)
    parser.add_argument(
        "--json-dir", type=Path, help="one file per net; nets that have one are done"
    )
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--steps", type=int, help="of a loop, with --net")
    parser.add_argument(
        "--rows", nargs="+", metavar="ROW", help="only these kinds of step, with --net"
    )
    arguments = parser.parse_args()
    for option in ("steps", "rows"):
        if getattr(arguments, option) is not None and arguments.net is None:
            parser.error(f"--{option} needs --net")
    if arguments.net is not None:
        found = one_net(
            arguments.net,
            device=arguments.device,
            rounds=arguments.rounds,
            steps=arguments.steps,
            rows=arguments.rows,
        )
        show(found)
        if arguments.json is not None:
            arguments.json.write_text(json.dumps(found, indent=1) + "\n")
        return 0
    folder = arguments.json_dir or Path("runs/speed")
    folder.mkdir(parents=True, exist_ok=True)
    for name in NETS:
        file = folder / f"{name}.json"
        if not file.exists():
            subprocess.run(
                [
                    *(sys.executable, __file__, "--net", name, "--json", str(file)),
                    *("--device", arguments.device, "--rounds", str(arguments.rounds)),
                ],
                check=True,
                env=os.environ | {"OMP_NUM_THREADS": "2"},
            )
        else:
            show(json.loads(file.read_text()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
