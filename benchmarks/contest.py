"""What every method of ``quality.py`` gets, and how its models are scored."""

from __future__ import annotations

import copy
import dataclasses
import time
from typing import TYPE_CHECKING

import torch

from automl_prune.evaluate import evaluate
from automl_prune.graph.cost import count_macs
from automl_prune.seeds import derive_seed, trial_seed
from automl_prune.train import FineTuner, recalibrate
from automl_prune.trial import run_trial
from automl_prune.workbench import Workbench

if TYPE_CHECKING:
    from pathlib import Path

    from automl_prune.config import StudyConfig
    from automl_prune.inheritance import Inheritance
    from automl_prune.trial import TrialOutcome


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """One trial of one method."""

    accuracy: float
    """Percent, on ``select``."""
    macs_ratio: float
    seconds: float
    steps: int
    """Steps between the dense model and this one; more than a trial's where it inherited."""
    test_accuracy: float | None = None
    """Percent; measured only where the point was chosen on ``select``."""


class Contest:
    """One seed of one setting: the bench, and how a trial of any method is run and scored."""

    def __init__(self, config: StudyConfig, cache_dir: Path, trials: int) -> None:
        self.config = config
        self.trials = trials
        self.models: list[torch.nn.Module] = []
        """Of the points of the method that is running, in their order."""
        self.bench = Workbench.prepare(config, cache_dir=cache_dir)
        self.names = [row.name for row in self.bench.facts.groups if row.low < row.high]
        self.reachable = (config.groups.min_ratio, config.search.ratio[1])
        """Keep ratios that methods without an inner loop choose from."""
        inner = config.inner
        self.loop_steps = inner.steps + inner.steps // inner.weight_steps_per_ratio_step
        """Weight steps and ratio steps of our inner loop."""
        self.trial_steps = self.loop_steps + config.finetune.steps

    def macs_shares(self) -> tuple[float, float]:
        """Shares of the dense MACs with all groups at the highest and lowest reachable ratio."""
        cost = self.bench.cost
        low, high = (
            float(cost.macs(ratio * cost.dense_counts_G)) / cost.dense_macs
            for ratio in self.reachable
        )
        return high, low

    def run(
        self,
        ratios: dict[str, float],
        trade_off: float,
        kind: str,
        number: int,
        inherited: Inheritance | None = None,
    ) -> tuple[Point, TrialOutcome]:
        """A trial of ours, or (``baseline``) the same compute with these ratios held fixed."""
        begun = time.perf_counter()
        outcome = run_trial(
            self.bench,
            ratios,
            trade_off,
            kind=kind,  # type: ignore[arg-type]
            seed=trial_seed(self.config.seed, number),
            inherited=inherited,
        )
        return self.score(outcome.model, begun, outcome.record.steps_of_line), outcome

    def train_pruned(self, model: torch.nn.Module, number: int) -> Point:
        """A network that another tool pruned gets the compute of a whole trial as fine-tuning."""
        return self.finetuned(model, number, time.perf_counter(), self.loop_steps)

    def finetuned(
        self, model: torch.nn.Module, number: int, begun: float, extra_steps: int = 0
    ) -> Point:
        """Recalibrated and fine-tuned as every trial, and scored."""
        bench, config = self.bench, self.config
        seed = trial_seed(config.seed, number)
        model = model.to(memory_format=torch.channels_last).requires_grad_(True)
        recalibrate(
            model,
            bench.data,
            batches=config.finetune.recalibration_batches,
            batch_size=config.data.batch_size,
            seed=seed,
            device=bench.device,
        )
        tuner = FineTuner(
            model,
            bench.dense,
            bench.data,
            config,
            seed=seed,
            device=bench.device,
            steps=extra_steps + config.finetune.steps,
        )
        tuner.run(tuner.total_steps, None)
        return self.score(model.eval(), begun, self.trial_steps)

    def score(self, model: torch.nn.Module, begun: float, steps: int) -> Point:
        """Accuracy on ``select``, and MACs; the model is kept for the test."""
        self.models.append(model)
        return Point(
            accuracy=self.accuracy(model, "select"),
            macs_ratio=count_macs(model, self.bench.data.input_shape)
            / self.bench.facts.dense_macs,
            seconds=time.perf_counter() - begun,
            steps=steps,
        )

    def accuracy(self, model: torch.nn.Module, split: str) -> float:
        """Percent."""
        bench = self.bench
        return evaluate(
            model,
            bench.data,
            split,  # type: ignore[arg-type]
            self.config.data,
            device=bench.device,
        ).accuracy

    def dense_trained_on(self, steps: int) -> float:
        """Test accuracy of the dense model after so many steps of fine-tuning."""
        model = copy.deepcopy(self.bench.dense).requires_grad_(True)
        tuner = FineTuner(
            model,
            self.bench.dense,
            self.bench.data,
            self.config,
            seed=derive_seed(self.config.seed, "dense-longer"),
            device=self.bench.device,
            steps=steps,
        )
        tuner.run(steps, None)
        return self.accuracy(model.eval(), "test")
