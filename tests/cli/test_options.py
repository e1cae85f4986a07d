from typing import get_args

import pytest
import typer

from automl_prune.cli import app as app_module
from automl_prune.cli import options

READERS = {"inspect", "train", "search", "status", "show", "pareto", "pick", "gc", "delete"}
COMMANDS = {command.name: command for command in app_module.app.registered_commands}


@pytest.fixture
def names_of_options():
    group = typer.main.get_command(app_module.app)

    def names(verb):
        return {name for parameter in group.commands[verb].params for name in parameter.opts}

    return names


@pytest.mark.parametrize("verb", sorted(READERS))
def test_every_verb_that_reads_a_study_takes_a_storage(names_of_options, verb):
    assert "--storage" in names_of_options(verb)


@pytest.mark.parametrize(
    "verb", ["inspect", "train", "search", "pick", "verify", "export", "latency", "finetune"]
)
def test_every_verb_that_runs_code_takes_trust(names_of_options, verb):
    assert "--trust" in names_of_options(verb)


def test_no_verb_is_forgotten():
    assert set(COMMANDS) >= READERS | {"verify", "export", "latency", "finetune"}


def test_every_shared_option_has_help():
    for name in ("Study", "Storage", "Overrides", "Trust", "Device", "DataRoot", "ModelDir"):
        _, info = get_args(getattr(options, name))
        assert info.help, name
