import warnings

import optuna
import pytest
from made_up_trials import made_up_config, made_up_facts

from automl_prune.sampling import (
    CONSTRAINT_PREFIX,
    Mirror,
    Seen,
    distributions,
    make_sampler,
    quiet_optuna,
)
from automl_prune.space import Space

SPACE = Space.of(made_up_config(), made_up_facts(4))
SAMPLERS = ["tpe", "nsga2", "nsga3", "gp", "random"]


def seen(number, params, notes=None, state="complete", constraints=None):
    ratios = [v for k, v in params.items() if k.startswith("ratio/")]
    values = (90 - 20 * sum((1 - r) ** 2 for r in ratios), 1e6 * sum(r * r for r in ratios))
    return Seen(
        number=number,
        state=state,
        params=params,
        values=values if state == "complete" else None,
        constraints=constraints or {},
        notes=notes or {},
    )


def sequence(sampler, count, *, restart_after=(), seed=3):
    """Parameters of a study run by one worker, whose process ends after some trials."""
    mirror, history, found = Mirror(SPACE, sampler=sampler, seed=seed), [], []
    for number in range(count):
        params, notes = mirror.propose(number)
        running = seen(number, params, notes, state="running")
        mirror.update([running])
        history.append(seen(number, params, notes))
        found.append(params)
        mirror.update([history[-1]])
        if number in restart_after:
            mirror = Mirror(SPACE, sampler=sampler, seed=seed)
            mirror.update(history)
    return found


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_proposals_lie_in_the_space(sampler):
    count = 14 if sampler == "gp" else 20
    for params in sequence(sampler, count):
        assert SPACE.to_params(*SPACE.from_params(params)) == params


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_study_that_was_interrupted_goes_on_as_if_it_had_not_been(sampler):
    count = 13 if sampler == "gp" else 40
    whole = sequence(sampler, count)
    assert sequence(sampler, count, restart_after=(2, 11, 25)) == whole
    assert sequence(sampler, count, seed=4) != whole


def test_tpe_learns():
    found = sequence("tpe", 60)

    def spread(trials):
        return sum(
            max(t[f"ratio/l{i}"] for i in range(4)) - min(t[f"ratio/l{i}"] for i in range(4))
            for t in trials
        ) / len(trials)

    # The made-up objectives are best where all ratios are equal.
    assert spread(found[-25:]) < 0.8 * spread(found[:10])


def test_workers_with_the_same_history_propose_different_trials():
    mirrors = [Mirror(SPACE, sampler="tpe", seed=3) for _ in range(2)]
    assert mirrors[0].propose(7)[0] == mirrors[1].propose(7)[0]
    assert mirrors[0].propose(8, salt="a")[0] != mirrors[1].propose(8, salt="b")[0]


def test_a_proposal_that_nobody_took_steers_nothing():
    undisturbed = sequence("tpe", 15)
    mirror, found = Mirror(SPACE, sampler="tpe", seed=3), []
    for number in range(15):
        mirror.propose(number, salt="in vain")
        params, notes = mirror.propose(number)
        mirror.update([seen(number, params, notes)])
        found.append(params)
    assert found == undisturbed


def test_finished_trials_are_taken_in_once():
    mirror = Mirror(SPACE, sampler="random", seed=0)
    params, _ = mirror.propose(0)
    trial = seen(0, params, constraints={"max_macs": 0.5})
    for _ in range(3):
        mirror.update([seen(0, params, state="running"), trial])
    copies = [t for t in mirror._study.get_trials() if t.state.name == "COMPLETE"]
    assert len(copies) == 1
    assert copies[0].constraints == {"max_macs": 0.5}


def test_constraints_are_written_as_optuna_writes_them():
    study = optuna.create_study(storage=optuna.storages.InMemoryStorage())
    trial = study.ask()
    trial.set_constraint("max_macs", 0.5)
    assert study.get_trials()[0].system_attrs == {f"{CONSTRAINT_PREFIX}max_macs": 0.5}


def test_failed_and_stopped_trials_are_told_apart():
    mirror = Mirror(SPACE, sampler="tpe", seed=0)
    for number, state in enumerate(("complete", "pruned", "failed", "running")):
        params, _ = mirror.propose(number)
        mirror.update([seen(number, params, state=state)])
    states = sorted(
        t.state.name
        for t in mirror._study.get_trials()
        if t.number in {mirror._ids[n] for n in range(4)}
    )
    assert states == ["COMPLETE", "FAIL", "PRUNED", "RUNNING"]


def test_the_space_in_optunas_words():
    found = distributions(SPACE)
    assert found["tradeoff"].log
    assert not found["ratio/l0"].log
    assert set(found) == set(SPACE.ranges)


@pytest.mark.parametrize("name", SAMPLERS)
def test_samplers_are_made_without_a_warning(name):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        make_sampler(name, 2**62 + 1)


def test_quiet_optuna_puts_its_level_back():
    before = optuna.logging.get_verbosity()
    with quiet_optuna():
        assert optuna.logging.get_verbosity() == optuna.logging.WARNING
    assert optuna.logging.get_verbosity() == before
