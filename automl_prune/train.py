"""Weights: training of the dense model, recalibration and fine-tuning of pruned ones.

Learning rate, batch and random draws of a step are functions of the step's number, so that an
interrupted run goes on to the same bits. Shape suffixes: B images of a batch, C channels,
H height, W width, K classes.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, TypedDict

import torch
import torch.nn.functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from automl_prune.arithmetic import fast_arithmetic
from automl_prune.cuda_graphs import GraphedStep, rate_tensor, sent
from automl_prune.errors import ModelError
from automl_prune.seeds import derive_seed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from contextlib import AbstractContextManager

    from torch import Tensor, nn

    from automl_prune.config import StudyConfig
    from automl_prune.data import Data

WARM_UP_FRACTION = 0.2
"""Share of a one-cycle schedule in which the learning rate rises."""
_CURVE_POINTS = 200
_STEPS_BETWEEN_SYNCS = 10


class FineTunerState(TypedDict):
    """State of a :class:`FineTuner`: tensors, and values that JSON can hold."""

    tensors: dict[str, Tensor]
    values: dict[str, object]


def one_cycle(step: int, total_steps: int, peak: float) -> float:
    """Learning rate of a step: up in a straight line from a tenth of the peak, then down to 0.

    Args:
        step: 0 .. total_steps - 1.
        total_steps: of the whole schedule.
        peak: highest learning rate.
    """
    rising = max(1.0, WARM_UP_FRACTION * total_steps)
    if step < rising:
        return peak * (0.1 + 0.9 * (step + 1) / (rising + 1))
    return peak * (total_steps - step) / (total_steps - rising + 1)


def train_dense(
    model: nn.Module,
    data: Data,
    config: StudyConfig,
    *,
    device: torch.device | str,
    on_progress: Callable[[int, int, float], None] | None = None,
) -> None:
    """Train the dense model on ``train``: SGD with momentum, one cycle of the learning rate.

    Args:
        model: trained in place, moved to ``device``, left in evaluation mode.
        data: ``train`` is read, and nothing else.
        config: ``dense`` and ``data`` say how.
        device: where to compute.
        on_progress: called every few steps with (step, total steps, loss).

    Raises:
        ModelError: the loss is not finite.
    """
    dense, place = config.dense, torch.device(device)
    batch_size = config.data.batch_size
    total_steps = dense.epochs * max(1, data.split_sizes["train"] // batch_size)
    seed = derive_seed(config.seed, "dense")
    smoothing = dense.label_smoothing

    def loss_of(logits_BK: Tensor, labels_B: Tensor) -> Tensor:
        if smoothing and data.loss is F.cross_entropy:
            return F.cross_entropy(logits_BK, labels_B, label_smoothing=smoothing)
        return data.loss(logits_BK, labels_B)

    model.to(device=place, memory_format=torch.channels_last)  # type: ignore[call-overload]
    lr = rate_tensor(place)
    optimizer = _sgd(model, lr, momentum=dense.momentum, weight_decay=dense.weight_decay)

    def descend(images_BCHW: Tensor, labels_B: Tensor) -> tuple[Tensor]:
        loss = loss_of(float_logits(model, images_BCHW), labels_B)
        _descend(optimizer, loss)
        return (loss.detach(),)

    graphed = GraphedStep(descend, place)
    batches = data.stream("train", batch_size=batch_size, seed=seed, augment=True, device=place)
    pending: list[Tensor] = []
    model.train()
    with own_randomness(place):
        for step in range(total_steps):
            images_BCHW, labels_B = next(batches)
            torch.manual_seed(derive_seed(seed, "step", step))
            lr.fill_(one_cycle(step, total_steps, dense.lr))
            pending += graphed(images_BCHW, labels_B)
            if len(pending) == _STEPS_BETWEEN_SYNCS or step + 1 == total_steps:
                last = _finite(pending, step + 1, "dense.lr")[-1]
                pending.clear()
                if on_progress is not None:
                    on_progress(step + 1, total_steps, last)
    model.eval()


class FineTuner:
    """Fine-tunes a pruned model on ``train``, with distillation from the dense model.

    loss = (1 - d) * task loss + d * T^2 * KL(teacher at T || student at T), with d and T from
    ``finetune.distillation`` and ``finetune.temperature`` (Hinton et al. 2015).

    Args:
        model: trained in place, moved to ``device``; in training mode while it runs.
        teacher: the dense model, on ``device``; only read, in evaluation mode.
        data: ``train`` is read, and nothing else.
        config: ``finetune`` and ``data`` say how.
        seed: of batches and dropout.
        device: where to compute.
        steps: instead of ``config.finetune.steps``.
        teacher_NK: the teacher's outputs on ``train`` (:mod:`automl_prune.teacher`); with them it
            is not asked.
    """

    def __init__(
        self,
        model: nn.Module,
        teacher: nn.Module,
        data: Data,
        config: StudyConfig,
        *,
        seed: int,
        device: torch.device | str,
        steps: int | None = None,
        teacher_NK: Tensor | None = None,
    ) -> None:
        self.step = 0
        """Steps done."""
        self.total_steps = config.finetune.steps if steps is None else steps
        self.losses: list[tuple[int, float]] = []
        """(step, loss), at most some hundred of them, spread over all steps."""
        self._model, self._teacher, self._data = model, teacher.eval(), data
        self._teacher_NK = teacher_NK
        self._config, self._batch_size = config.finetune, config.data.batch_size
        self._device = torch.device(device)
        self._seed = derive_seed(seed, "finetune")
        model.to(device=self._device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._lr = rate_tensor(self._device)
        self._optimizer = _sgd(
            model,
            self._lr,
            momentum=self._config.momentum,
            weight_decay=self._config.weight_decay,
        )
        self._descend = GraphedStep(self._descend_on, self._device)
        self._batches = self._stream()

    def run(self, until: int, on_step: Callable[[int, float], None] | None = None) -> None:
        """Go on to step ``until`` (at most the last); the model is in evaluation mode after it.

        Args:
            until: steps done afterwards.
            on_step: called with (steps done, loss) for every step, some steps late.

        Raises:
            ModelError: the loss is not finite.
        """
        until = min(until, self.total_steps)
        pending: list[Tensor] = []
        self._model.train()
        with own_randomness(self._device):
            while self.step < until:
                pending.append(self._one_step())
                self.step += 1
                if len(pending) == _STEPS_BETWEEN_SYNCS or self.step == until:
                    self._note(pending, on_step)
                    pending.clear()
        self._model.eval()

    def state_dict(self) -> FineTunerState:
        """Everything that :meth:`load_state_dict` needs, on the CPU; independent copies."""
        tensors = {f"model/{k}": v for k, v in self._model.state_dict().items()}
        tensors |= {f"momentum/{k}": v for k, v in self._momentum().items()}
        return {
            "tensors": {k: _plain_copy(v) for k, v in tensors.items()},
            "values": {"step": self.step, "losses": [list(point) for point in self.losses]},
        }

    def load_state_dict(self, state: Mapping[str, object]) -> None:
        """Inverse of :meth:`state_dict`, on a tuner made with the same arguments."""
        tensors, values = state["tensors"], state["values"]
        assert isinstance(tensors, dict)
        assert isinstance(values, dict)
        own = {f"model/{k}": v for k, v in self._model.state_dict().items()}
        own |= {f"momentum/{k}": v for k, v in self._momentum().items()}
        assert own.keys() == tensors.keys(), "a state of another model"
        with torch.no_grad():
            for name, target in own.items():
                target.copy_(tensors[name])
        self.step = int(values["step"])
        self.losses = [(int(at), float(loss)) for at, loss in values["losses"]]
        self._batches = self._stream()

    def _stream(self) -> Iterator[tuple[Tensor, ...]]:
        size, seed, start = self._batch_size, self._seed, self.step
        batches = self._data.stream(
            "train", batch_size=size, seed=seed, augment=True, device=self._device, start=start
        )
        if self._teacher_NK is None:
            yield from batches
        else:
            order = self._data.order("train", batch_size=size, seed=seed, start=start)
            for batch, positions_B in zip(batches, order, strict=True):
                yield *batch, self._teacher_NK[sent(positions_B, self._device)]

    def _one_step(self) -> Tensor:
        batch = next(self._batches)
        torch.manual_seed(derive_seed(self._seed, "step", self.step))
        self._lr.fill_(one_cycle(self.step, self.total_steps, self._config.lr))
        return self._descend(*batch)[0]

    def _descend_on(
        self, images_BCHW: Tensor, labels_B: Tensor, teacher_BK: Tensor | None = None
    ) -> tuple[Tensor]:
        share = self._config.distillation
        logits_BK = float_logits(self._model, images_BCHW)
        loss = (1.0 - share) * self._data.loss(logits_BK, labels_B)
        if share > 0.0:
            if teacher_BK is None:
                with torch.no_grad():
                    teacher_BK = float_logits(self._teacher, images_BCHW)
            loss = loss + share * distillation_loss(
                logits_BK, teacher_BK, temperature=self._config.temperature
            )
        _descend(self._optimizer, loss)
        return (loss.detach(),)

    def _note(self, pending: list[Tensor], on_step: Callable[[int, float], None] | None) -> None:
        every = math.ceil(self.total_steps / _CURVE_POINTS)
        losses = _finite(pending, self.step, "finetune.lr")
        for done, loss in enumerate(losses, self.step - len(losses) + 1):
            if done % every == 0 or done in (1, self.total_steps):
                self.losses.append((done, loss))
            if on_step is not None:
                on_step(done, loss)

    def _momentum(self) -> dict[str, Tensor]:
        buffers = self._optimizer.state
        return {
            name: buffers[parameter]["momentum_buffer"]
            for name, parameter in self._model.named_parameters()
            if parameter in buffers
        }


def distillation_loss(logits_BK: Tensor, teacher_BK: Tensor, *, temperature: float) -> Tensor:
    """T^2 * KL(teacher || student) of softened outputs, batch mean (Hinton et al. 2015)."""
    student_BK = F.log_softmax(logits_BK / temperature, dim=1)
    target_BK = F.log_softmax(teacher_BK / temperature, dim=1)
    divergence = F.kl_div(student_BK, target_BK, reduction="batchmean", log_target=True)
    return divergence * temperature**2


def recalibrate(
    model: nn.Module,
    data: Data,
    *,
    batches: int,
    batch_size: int,
    seed: int,
    device: torch.device | str,
) -> None:
    """Measure the running statistics of batch norm anew: the plain mean over ``train`` batches.

    Weights, modes and the momentum of each layer stay as they were; dropout is off meanwhile.
    Zero batches change nothing.

    Args:
        model: on ``device``; its batch norm statistics are replaced.
        data: ``train`` is read, without augmentation, as the model will be used.
        batches: how many.
        batch_size: images of a batch.
        seed: of the order.
        device: where to compute.
    """
    layers = [m for m in model.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]
    if batches == 0 or not layers:
        return
    modes = [(module, module.training) for module in model.modules()]
    momenta = [layer.momentum for layer in layers]
    model.eval()
    for layer in layers:
        layer.reset_running_stats()
        layer.momentum = None  # torch's sign for a cumulative average
        layer.training = True
    try:
        stream = data.stream(
            "train",
            batch_size=batch_size,
            seed=derive_seed(seed, "recalibrate"),
            augment=False,
            device=device,
        )
        with torch.no_grad():
            for _ in range(batches):
                model(next(stream)[0])
    finally:
        for layer, momentum in zip(layers, momenta, strict=True):
            layer.momentum = momentum
        for module, was_training in modes:
            module.training = was_training


def _sgd(model: nn.Module, lr: Tensor, *, momentum: float, weight_decay: float) -> torch.optim.SGD:
    """SGD whose momentum buffers exist from the start, at zero: the first step is the same."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(
        parameters,
        lr=lr,
        momentum=momentum,
        weight_decay=weight_decay,
        nesterov=momentum > 0,
        fused=True,
    )
    if momentum > 0:
        for parameter in parameters:
            optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
    return optimizer


def _descend(optimizer: torch.optim.SGD, loss: Tensor) -> None:
    optimizer.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    optimizer.step()


def float_logits(model: nn.Module, images_BCHW: Tensor) -> Tensor:
    """Float32 logits of a training step, whatever they were computed in."""
    with fast_arithmetic(images_BCHW.device):
        logits_BK: Tensor = model(images_BCHW)
    return logits_BK.float()


def own_randomness(device: torch.device) -> AbstractContextManager[object]:
    """The process's generators are left as they were."""
    return torch.random.fork_rng(devices=[device] if device.type == "cuda" else [])


def _finite(pending: list[Tensor], step: int, key: str) -> list[float]:
    losses: list[float] = torch.stack(pending).tolist()
    if not all(math.isfinite(loss) for loss in losses):
        raise ModelError(
            f"the training loss is no longer finite at step {step}; lower {key}, or check the "
            "model and the loss"
        )
    return losses


def _plain_copy(tensor: Tensor) -> Tensor:
    return tensor.detach().to("cpu", copy=True).contiguous()
