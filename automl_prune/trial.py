"""One trial, whole: starting ratios and λ in; record, curves and a pruned model out.

inner loop -> removal of channels -> proof -> recalibration -> fine-tuning -> evaluation.
Knows nothing of Optuna. Everything it draws comes from the trial's seed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from automl_prune.arithmetic import exact_arithmetic
from automl_prune.early_stopping import Rung, rung_steps
from automl_prune.errors import ModelError
from automl_prune.evaluate import evaluate, hardware_name, measure_latency
from automl_prune.filled import FilledModel
from automl_prune.graph.cost import count_macs, count_params
from automl_prune.graph.narrow import deep_copy
from automl_prune.inner import InnerLoop
from automl_prune.mask import masked_forward
from automl_prune.prune import layer_widths
from automl_prune.records import TrialCurves, TrialRecord
from automl_prune.train import FineTuner, recalibrate
from automl_prune.trial_state import (
    InnerNotes,
    PhaseClock,
    TrialCheckpoint,
    TrialProgress,
    Watch,
)
from automl_prune.weights import weights_digest
from automl_prune.workbench import versions

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from torch import Tensor, nn

    from automl_prune.evaluate import Evaluation
    from automl_prune.inheritance import Inheritance
    from automl_prune.inner import InnerProgress
    from automl_prune.prune import LayerWidths
    from automl_prune.records import Latency, Parent, TrialKind, TrialState
    from automl_prune.trial_state import Checkpoints
    from automl_prune.workbench import Workbench

EQUIVALENCE_TOLERANCE = 1e-4
"""Largest allowed max |masked - pruned|, relative to max |masked|, in float32."""
PROOF_IMAGES = 16
STEPS_BETWEEN_CHECKS = 5
"""Steps after which a trial looks whether to write a checkpoint or to stop."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TrialOutcome:
    """What a trial leaves."""

    record: TrialRecord
    curves: TrialCurves
    model: nn.Module
    """The pruned, fine-tuned model in evaluation mode."""
    widths: dict[str, LayerWidths]
    keep_U: Tensor
    """bool per unit: what stayed."""


def run_trial(
    bench: Workbench,
    ratios: dict[str, float],
    trade_off: float,
    *,
    kind: TrialKind,
    seed: int,
    inherited: Inheritance | None = None,
    on_progress: Callable[[TrialProgress], None] | None = None,
    checkpoints: Checkpoints | None = None,
    should_stop: Callable[[], bool] | None = None,
    is_hopeless: Callable[[Rung], bool] | None = None,
) -> TrialOutcome:
    """Run one trial.

    Args:
        bench: what the trials of this worker share; not changed.
        ratios: starting keep ratio per group name; groups that are kept whole may be left out.
        trade_off: λ; without effect on a baseline.
        kind: ``search``, or ``baseline`` whose ratios are held fixed.
        seed: of everything random in the trial.
        inherited: what to start from instead of the dense model.
        on_progress: called every few steps.
        checkpoints: where to write checkpoints, and to go on from.
        should_stop: asked every few steps.
        is_hopeless: asked at every rung of the fine-tuning, where the accuracy is measured for
            it; on True the trial ends there, and its record says *pruned*.

    Raises:
        TrialInterruptedError: ``should_stop`` said so; a checkpoint was written first.
        ModelError: the pruned model is not the masked model, or a loss is not finite.
    """
    watch = Watch(on_progress=on_progress, checkpoints=checkpoints, should_stop=should_stop)
    saved = checkpoints.load() if checkpoints is not None else None
    clock = PhaseClock(saved.values.get("phase_s", {}) if saved else {})
    loop = _inner_loop(bench, ratios, trade_off, kind=kind, seed=seed, inherited=inherited)
    if saved is not None and saved.phase == "inner":
        loop.load_state_dict({"tensors": saved.tensors, "values": saved.values["loop"]})
    if saved is None or saved.phase == "inner":
        with clock.phase("inner"):
            _run_inner(loop, bench, watch, clock)
            result = loop.result()
        with clock.phase("prune"):
            filled = FilledModel(loop.model, bench.graph, result.keep_U)
            error = _prove(filled.pruned(), loop.model, bench, result.keep_U)
        with clock.phase("recalibrate"):
            recalibrate(
                filled.model,
                bench.data,
                batches=bench.config.finetune.recalibration_batches,
                batch_size=bench.config.data.batch_size,
                seed=seed,
                device=bench.device,
            )
            before = _evaluate(filled.model, bench).accuracy
        notes = InnerNotes.from_loop(loop, result, error, before)
    else:
        notes = InnerNotes.from_checkpoint(saved)
        filled = FilledModel(loop.model, bench.graph, notes.keep_U)
    tuner = FineTuner(
        filled.model,
        bench.dense,
        bench.data,
        bench.config,
        seed=seed,
        device=bench.device,
        teacher_NK=bench.teacher_logits,
    )
    if saved is not None and saved.phase == "finetune":
        tuner.load_state_dict(
            {
                "tensors": {
                    name.removeprefix("tuner/"): tensor
                    for name, tensor in saved.tensors.items()
                    if name.startswith("tuner/")
                },
                "values": saved.values["tuner"],
            }
        )
    with clock.phase("finetune"):
        state = _run_finetuning(tuner, filled, notes, bench, watch, clock, is_hopeless)
    return _outcome(
        bench,
        filled.pruned().requires_grad_(False),
        notes,
        tuner,
        clock,
        kind=kind,
        state=state,
        seed=seed,
        trade_off=trade_off,
        ratios=ratios,
        parent=None if inherited is None else inherited.parent,
    )


def _inner_loop(
    bench: Workbench,
    ratios: dict[str, float],
    trade_off: float,
    *,
    kind: TrialKind,
    seed: int,
    inherited: Inheritance | None,
) -> InnerLoop:
    start_G = torch.tensor(
        [ratios.get(group.name, 1.0) for group in bench.graph.groups], dtype=torch.float64
    )
    start_G = torch.minimum(torch.maximum(start_G, bench.low_G), bench.high_G)
    if inherited is None:
        model = deep_copy(bench.dense)
    else:
        model = inherited.widened(bench.dense, bench.graph)
    model.requires_grad_(True)
    return InnerLoop(
        model,
        bench.graph,
        bench.cost,
        bench.data,
        bench.config,
        start_G=start_G,
        low_G=bench.low_G,
        high_G=bench.high_G,
        trade_off=trade_off,
        cost_scale=bench.facts.cost_scale,
        seed=seed,
        device=bench.device,
        fixed=kind == "baseline",
        first_U=None if inherited is None else inherited.keep_U,
    )


def _chunks(step: int, total: int) -> Iterator[int]:
    while step < total:
        step = min(step + STEPS_BETWEEN_CHECKS, total)
        yield step


def _run_inner(loop: InnerLoop, bench: Workbench, watch: Watch, clock: PhaseClock) -> None:
    finetune_steps = bench.config.finetune.steps
    whole = loop.total_steps + finetune_steps

    def report(progress: InnerProgress) -> None:
        if watch.on_progress is not None:
            watch.on_progress(
                TrialProgress(
                    phase="inner",
                    step=progress.step,
                    total_steps=loop.total_steps,
                    fraction=progress.step / whole,
                    loss=progress.loss,
                    macs_ratio=progress.macs_ratio,
                    mean_ratio=progress.mean_ratio,
                )
            )

    def checkpoint() -> TrialCheckpoint:
        state = loop.state_dict()
        return TrialCheckpoint(
            phase="inner",
            tensors=state["tensors"],
            values={"loop": state["values"], "phase_s": clock.seconds()},
        )

    for until in _chunks(loop.step, loop.total_steps):
        loop.run(until, report)
        if until < loop.total_steps:
            watch.between_steps(checkpoint)


def _run_finetuning(
    tuner: FineTuner,
    filled: FilledModel,
    notes: InnerNotes,
    bench: Workbench,
    watch: Watch,
    clock: PhaseClock,
    is_hopeless: Callable[[Rung], bool] | None,
) -> TrialState:
    whole = notes.weight_steps + tuner.total_steps
    macs_ratio = float(notes.macs_ratio[-1])

    def report(step: int, loss: float) -> None:
        if watch.on_progress is not None:
            watch.on_progress(
                TrialProgress(
                    phase="finetune",
                    step=step,
                    total_steps=tuner.total_steps,
                    fraction=(notes.weight_steps + step) / whole,
                    loss=loss,
                    macs_ratio=macs_ratio,
                    mean_ratio=notes.mean_ratio,
                    accuracy=notes.accuracy_before,
                )
            )

    def checkpoint() -> TrialCheckpoint:
        state = tuner.state_dict()
        tensors = {f"tuner/{name}": tensor for name, tensor in state["tensors"].items()}
        return TrialCheckpoint(
            phase="finetune",
            tensors=tensors | notes.tensors(),
            values={
                "tuner": state["values"],
                "phase_s": clock.seconds(),
                **notes.values(),
            },
        )

    rungs = {} if is_hopeless is None else rung_steps(tuner.total_steps, STEPS_BETWEEN_CHECKS)
    macs = count_macs(filled.pruned(), bench.data.input_shape) if rungs else 0

    def ends_here() -> bool:
        if is_hopeless is None or tuner.step not in rungs:
            return False
        at_start = tuner.step == 0
        rung = Rung(
            number=rungs[tuner.step],
            step=tuner.step,
            accuracy=notes.accuracy_before
            if at_start
            else _evaluate(filled.model, bench).accuracy,
            macs=macs,
        )
        return is_hopeless(rung)

    for until in _chunks(tuner.step, tuner.total_steps):
        if ends_here():
            return "pruned"
        tuner.run(until, report)
        if until < tuner.total_steps:
            watch.between_steps(checkpoint)
    return "complete"


def _prove(pruned: nn.Module, model: nn.Module, bench: Workbench, keep_U: Tensor) -> float:
    """Show that the pruned model lost nothing but the channels that are not kept.

    Returns:
        max |masked - pruned| over max |masked| on real images.
    """
    model.eval()
    images_BCHW, _ = next(
        iter(bench.data.in_order("search", batch_size=PROOF_IMAGES, device=bench.device))
    )
    with torch.no_grad(), exact_arithmetic():
        masked = masked_forward(model, bench.graph, keep_U.to(bench.device), images_BCHW)
        error = float((pruned(images_BCHW) - masked).abs().max() / masked.abs().max())
    if not error <= EQUIVALENCE_TOLERANCE:
        raise ModelError(
            f"the pruned model differs from the masked model by {error:.2e} of the output's "
            f"scale (allowed: {EQUIVALENCE_TOLERANCE:.0e}); this model's channels are coupled in "
            "a way that was not understood. Please report it with the model"
        )
    return error


def _evaluate(model: nn.Module, bench: Workbench) -> Evaluation:
    return evaluate(
        model,
        bench.data,
        "select",
        bench.config.data,
        device=bench.device,
        trusted=bench.trusted,
    )


def _latency(pruned: nn.Module, bench: Workbench) -> Latency:
    """In turns with the dense model, unless that was measured on other hardware."""
    compute, noted = bench.config.compute, bench.facts.dense_latency
    if noted is not None and noted.hardware != hardware_name(bench.device):
        noted = None
    return measure_latency(
        pruned,
        bench.data.input_shape,
        batch_size=compute.latency_batch_size,
        threads=compute.threads,
        device=bench.device,
        reference=None if noted is None else (bench.dense, noted),
    )


def _outcome(
    bench: Workbench,
    pruned: nn.Module,
    notes: InnerNotes,
    tuner: FineTuner,
    clock: PhaseClock,
    *,
    kind: TrialKind,
    state: TrialState,
    seed: int,
    trade_off: float,
    ratios: dict[str, float],
    parent: Parent | None,
) -> TrialOutcome:
    config, groups = bench.config, bench.graph.groups
    with clock.phase("evaluate"):
        evaluation = _evaluate(pruned, bench)
        measured = config.compute.measure_latency and state == "complete"
        latency = _latency(pruned, bench) if measured else None
    record = TrialRecord(
        kind=kind,
        state=state,
        seed=seed,
        trade_off=trade_off,
        start_ratios=dict(ratios),
        final_ratios={g.name: r for g, r in zip(groups, notes.final_ratios, strict=True)},
        kept_units={g.name: int(notes.keep_U[g.units].sum()) for g in groups},
        accuracy=evaluation.accuracy,
        accuracy_before_finetuning=notes.accuracy_before,
        loss=evaluation.loss,
        macs=count_macs(pruned, bench.data.input_shape),
        params=count_params(pruned),
        weight_steps=notes.weight_steps,
        ratio_steps=notes.ratio_step_count,
        finetune_steps=tuner.step,
        equivalence_error=notes.equivalence_error,
        config_digest=config.digest(),
        dense_digest=bench.facts.dense_digest,
        weights_digest=weights_digest(pruned),
        parent=parent,
        latency=latency,
        phase_s=clock.seconds(),
        hardware=hardware_name(bench.device),
        versions=versions(),
    )
    curves = TrialCurves(
        ratio_steps=notes.ratio_steps,
        ratios={g.name: row for g, row in zip(groups, notes.ratios, strict=True)},
        macs_ratio=notes.macs_ratio,
        search_loss=notes.search_loss,
        inner_loss=notes.inner_loss,
        finetune_loss=tuple(tuner.losses),
        kept={g.name: tuple(notes.keep_U[g.units].nonzero().flatten().tolist()) for g in groups},
    )
    return TrialOutcome(
        record=record,
        curves=curves,
        model=pruned,
        widths=layer_widths(pruned),
        keep_U=notes.keep_U,
    )
