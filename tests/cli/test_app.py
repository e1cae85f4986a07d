import subprocess
import sys

import pytest

import automl_prune
from automl_prune.cli import app as app_module
from automl_prune.cli import main
from automl_prune.errors import ConfigError, VerificationError

VERBS = [command.name for command in app_module.app.registered_commands]


def run_fresh(*arguments, code_after=""):
    """A process of its own, as a person starts it."""
    code = f"import sys\nfrom automl_prune.cli import main\ncode = main({list(arguments)!r})\n"
    return subprocess.run(
        [sys.executable, "-c", code + code_after + "\nsys.exit(code)"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.fixture
def failing_verb(monkeypatch):
    """Add a verb that fails in a given way; gone after the test."""
    registered = list(app_module.app.registered_commands)

    def add(error):
        @app_module.app.command("fail")
        def fail() -> None:
            raise error

    yield add
    app_module.app.registered_commands[:] = registered


def test_help_lists_every_verb(capsys):
    assert main(["--help"]) == 0
    out = capsys.readouterr().out
    assert all(verb in out for verb in VERBS)
    assert {"inspect", "train", "search", "status", "show", "pareto", "pick", "verify"} <= set(
        VERBS
    )


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_shows_an_example(verb, capsys):
    assert main([verb, "--help"]) == 0
    out = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert f"Example: automl-prune {verb} " in out


def test_help_loads_nothing_but_its_screens():
    """What makes it quick on any machine: seconds would be those of the machine."""
    check = (
        "assert not {'torch', 'optuna', 'numpy', 'pydantic', 'sqlalchemy'} & set(sys.modules)\n"
        "assert len(sys.modules) < 500, len(sys.modules)"
    )
    found = run_fresh("--help", code_after=check)
    assert found.returncode == 0, found.stderr


def test_version(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"automl-prune {automl_prune.__version__}\n"


def test_an_unknown_verb_is_a_users_mistake(capsys):
    assert main(["serach"]) == 2
    assert "serach" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "code"), [(ConfigError("no such thing"), 2), (VerificationError("differs"), 1)]
)
def test_an_expected_error_is_a_message_and_its_code(failing_verb, capsys, error, code):
    failing_verb(error)
    assert main(["fail"]) == code
    assert capsys.readouterr().err == f"Error: {error}\n"


def test_an_unexpected_error_is_short_and_exits_1(failing_verb, capsys):
    failing_verb(ZeroDivisionError("oops"))
    assert main(["fail"]) == 1
    err = capsys.readouterr().err
    assert "ZeroDivisionError: oops" in err
    assert "Traceback" not in err


@pytest.mark.parametrize("words", [["--debug", "fail"], ["fail", "--debug"]])
@pytest.mark.parametrize("error", [ZeroDivisionError("oops"), ConfigError("no such thing")])
def test_debug_lets_the_traceback_through(failing_verb, words, error):
    failing_verb(error)
    with pytest.raises(type(error)):
        main(words)


def test_ctrl_c_is_a_clean_end(failing_verb, capsys):
    failing_verb(KeyboardInterrupt())
    assert main(["fail"]) == 130
    assert capsys.readouterr().err == "interrupted\n"
