"""The methods that ``quality.py`` compares: rivals, ours, and ours with one thing changed."""

from __future__ import annotations

import copy
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import optuna
import torch
from fastnas import fastnas

from automl_prune.config import with_overrides
from automl_prune.inner import project_to_budget
from automl_prune.inner.rank import ranks_of, unit_importance
from automl_prune.inner.window import group_sizes, unit_groups
from automl_prune.mask import masked_forward
from automl_prune.prune import prune_model
from automl_prune.search import hand_in, inheritance_of
from automl_prune.seeds import derive_seed, trial_seed
from automl_prune.space import Space
from automl_prune.storage import open_storage
from automl_prune.study import StudyHandle

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from contest import Contest, Point


def uniform(contest: Contest) -> Iterator[Point]:
    """One fixed keep ratio for all groups, spread over the range; L2 ranking."""
    low, high = contest.reachable
    for number, ratio in enumerate(np.linspace(high, low, contest.trials)):
        ratios = dict.fromkeys(contest.names, float(ratio))
        yield contest.run(ratios, 1.0, "baseline", number)[0]


def random_search(contest: Contest) -> Iterator[Point]:
    """Random ratios per group, held fixed."""
    generator = np.random.default_rng(derive_seed(contest.config.seed, "random-search"))
    low, high = contest.reachable
    for number in range(contest.trials):
        ratios = {name: float(generator.uniform(low, high)) for name in contest.names}
        yield contest.run(ratios, 1.0, "baseline", number)[0]


def _optuna_search(contest: Contest, sampler: optuna.samplers.BaseSampler) -> Iterator[Point]:
    study = optuna.create_study(directions=["maximize", "minimize"], sampler=sampler)
    low, high = contest.reachable
    for number in range(contest.trials):
        trial = study.ask()
        ratios = {name: trial.suggest_float(name, low, high) for name in contest.names}
        point, _ = contest.run(ratios, 1.0, "baseline", number)
        study.tell(trial, [point.accuracy, point.macs_ratio])
        yield point


def tpe(contest: Contest) -> Iterator[Point]:
    """Plain Optuna: TPE over fixed ratios."""
    seed = derive_seed(contest.config.seed, "tpe") % 2**32
    yield from _optuna_search(contest, optuna.samplers.TPESampler(seed=seed))


def nsga2(contest: Contest) -> Iterator[Point]:
    """Plain Optuna: NSGA-II over fixed ratios."""
    seed = derive_seed(contest.config.seed, "nsga2") % 2**32
    sampler = optuna.samplers.NSGAIISampler(seed=seed, population_size=max(4, contest.trials // 4))
    yield from _optuna_search(contest, sampler)


def gradient_only(contest: Contest) -> Iterator[Point]:
    """The inner loop from one starting point, with a sweep of λ; no outer search."""
    low, high = Space.of(contest.config, contest.bench.facts).useful_trade_offs
    for number, trade_off in enumerate(np.geomspace(low, high, contest.trials - 1)):
        ratios = dict.fromkeys(contest.names, 0.7)
        yield contest.run(ratios, float(trade_off), "search", number)[0]


def torch_pruning(contest: Contest, *, global_ranking: bool) -> Iterator[Point]:
    """Torch-Pruning: group L2, global or uniform, over a sweep of pruning ratios."""
    import torch_pruning as tp

    low, high = contest.reachable
    example = torch.zeros(1, *contest.bench.data.input_shape)
    for number, keep in enumerate(np.linspace(high, low, contest.trials)):
        model = copy.deepcopy(contest.bench.dense).requires_grad_(True)
        linears = [m for m in model.modules() if isinstance(m, torch.nn.Linear)]
        pruner = tp.pruner.BasePruner(
            model,
            example,
            importance=tp.importance.GroupMagnitudeImportance(p=2),
            global_pruning=global_ranking,
            pruning_ratio=1.0 - float(keep),
            ignored_layers=linears[-1:],
        )
        pruner.step()
        yield contest.train_pruned(model, number)


def torch_pruning_global(contest: Contest) -> Iterator[Point]:
    """Torch-Pruning with global ranking."""
    yield from torch_pruning(contest, global_ranking=True)


def torch_pruning_uniform(contest: Contest) -> Iterator[Point]:
    """Torch-Pruning with the same ratio everywhere."""
    yield from torch_pruning(contest, global_ranking=False)


def dms(contest: Contest) -> Iterator[Point]:
    """Differentiable Model Scaling (Liu et al. 2024, arXiv 2405.07194), over a sweep of MACs.

    Our reconstruction from the paper: units are ranked by a moving average of their Taylor
    importance; the ranks, spread evenly over (0, 1], pass a sigmoid of slope C around the pruning
    ratio a of their group; a and the weights are trained jointly on ``train``, with
    log(F / target) added to the loss while the network is too large.
    """
    for number, share in enumerate(np.linspace(*contest.macs_shares(), contest.trials)):
        begun = time.perf_counter()
        model, keep_U = _dms_loop(contest, float(share), number)
        pruned = prune_model(model, contest.bench.graph, keep_U)
        yield contest.finetuned(pruned, number, begun)


DMS_RATIO_LR, DMS_DECAY, DMS_RESOURCE_WEIGHT = 0.02, 0.99, 1.0


def _dms_loop(contest: Contest, share: float, number: int) -> tuple[torch.nn.Module, torch.Tensor]:
    bench, inner = contest.bench, contest.config.inner
    graph, cost = bench.graph, bench.cost
    seed = trial_seed(contest.config.seed, number)
    model = copy.deepcopy(bench.dense).requires_grad_(True).train()
    group_U, sizes_G = unit_groups(graph), group_sizes(graph)
    a_G = torch.full_like(sizes_G, 0.05).requires_grad_(True)
    importance_U = unit_importance(model, graph)
    by_ratio = torch.optim.Adam([a_G], lr=DMS_RATIO_LR)
    by_weight = torch.optim.SGD(
        model.parameters(),
        lr=inner.weight_lr,
        momentum=inner.weight_momentum,
        weight_decay=inner.weight_decay,
        nesterov=True,
    )
    batches = bench.data.stream(
        "train",
        batch_size=contest.config.data.batch_size,
        seed=seed,
        augment=True,
        device=bench.device,
    )
    for step in range(contest.loop_steps):
        images_BCHW, labels_B = next(batches)
        place_U = 1.0 - ranks_of(importance_U, graph) / sizes_G[group_U]
        mask_U = torch.sigmoid(sizes_G[group_U] * (place_U - a_G[group_U]))
        mask_U.retain_grad()
        logits_BK = masked_forward(model, graph, mask_U, images_BCHW)
        counts_G = torch.zeros_like(sizes_G).index_add(0, group_U, mask_U)
        excess = torch.log(cost.macs(counts_G) / (share * cost.dense_macs)).clamp(min=0.0)
        by_ratio.zero_grad()
        by_weight.zero_grad()
        task = bench.data.loss(logits_BK, labels_B)
        task.backward(retain_graph=True)  # type: ignore[no-untyped-call]
        assert mask_U.grad is not None
        taylor_U = (mask_U.detach() * mask_U.grad).square()
        kept = 0.0 if step == 0 else DMS_DECAY
        importance_U = kept * importance_U + (1.0 - kept) * taylor_U
        (DMS_RESOURCE_WEIGHT * excess).backward()  # type: ignore[no-untyped-call]
        by_ratio.step()
        by_weight.step()
        with torch.no_grad():
            a_G.copy_(torch.minimum(a_G.clamp(min=0.0), 1.0 - bench.low_G))
    counts_G = project_to_budget(
        1.0 - a_G.detach(),
        cost,
        share * cost.dense_macs,
        low_G=bench.low_G,
        high_G=bench.high_G,
    )
    return model, ranks_of(importance_U, graph) < counts_G[group_U]


def ours(contest: Contest, *overrides: str, hold: bool = False) -> Iterator[Point]:
    """The study as shipped, but for trials of its uniform control, which is a rival here.

    Args:
        contest: the setting.
        overrides: of the study, for an ablation.
        hold: ratios are held where the proposal puts them: no inner loop.
    """
    config = with_overrides(contest.config, (f"search.trials={contest.trials - 1}", *overrides))
    with tempfile.TemporaryDirectory() as folder:
        storage = open_storage(f"sqlite:///{folder}/study.db")
        handle = StudyHandle.create_or_check(
            storage, config, contest.bench.facts, Path(folder) / "artifacts"
        )
        try:
            while (assignment := handle.ask(contest.trials - 1)) is not None:
                point, outcome = contest.run(
                    assignment.ratios,
                    assignment.trade_off,
                    "baseline" if hold else assignment.kind,
                    assignment.number,
                    inheritance_of(handle, contest.bench, assignment.parent),
                )
                hand_in(handle, contest.bench, assignment, outcome)
                yield point
        finally:  # its thread writes to the folder
            handle.close()
            storage.close()


def ours_with(override: str, contest: Contest) -> Iterator[Point]:
    """The same with one thing changed."""
    yield from ours(contest, override)


RIVALS: dict[str, Callable[[Contest], Iterator[Point]]] = {
    "uniform": uniform,
    "torch-pruning global": torch_pruning_global,
    "torch-pruning uniform": torch_pruning_uniform,
    "random ratios": random_search,
    "tpe ratios": tpe,
    "nsga2 ratios": nsga2,
    "dms": dms,
    "fastnas": fastnas,
    "gradient only": gradient_only,
}
OURS: dict[str, Callable[[Contest], Iterator[Point]]] = {
    "ours": ours,
    "ours, nothing inherited": partial(ours_with, "search.inherit=false"),
    "ours, ratios held": partial(ours, hold=True),
    "ours, tpe": partial(ours_with, "search.sampler=tpe"),
    "ours, gp": partial(ours_with, "search.sampler=gp"),
    "ours, nsga2": partial(ours_with, "search.sampler=nsga2"),
    "ours, random": partial(ours_with, "search.sampler=random"),
}
