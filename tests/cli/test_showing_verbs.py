import os
import re
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from contextlib import contextmanager

import pytest

from automl_prune.cli import main
from automl_prune.cli.places import storage_to_show
from automl_prune.errors import ConfigError, StudyNotFoundError

TOKEN = "correct-horse-battery"
VERB = "import sys; from automl_prune.cli import main; sys.exit(main())"


@contextmanager
def dashboard(*words, **environment):
    """The verb as a process of its own; gives it, and the address of the explorer."""
    process = subprocess.Popen(
        [sys.executable, "-c", VERB, "dashboard", "--port", "0", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **environment},
        # in the background of a shell Ctrl-C is ignored, and that is inherited
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    try:
        lines = []
        for line in process.stdout:
            lines.append(line)
            if line.startswith("Ctrl-C"):
                break
        said = "".join(lines)
        assert "http://" in said, process.communicate(timeout=10)
        yield process, re.search(r"explorer +(\S+)", said)[1], said
    finally:
        process.kill()
        process.communicate()


def status_of(url, **headers):
    try:
        with urllib.request.urlopen(
            urllib.request.Request(url, headers=headers), timeout=60
        ) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        with error:
            return error.code


def test_dashboard_serves_both_pages_and_ends_with_ctrl_c(searched):
    with dashboard("tiny") as (process, url, said):
        assert url.endswith("/explorer/?study=tiny")
        optuna_url = re.search(r"dashboard +(\S+)", said)[1]
        assert status_of(url) == 200
        assert status_of(optuna_url) == 200
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=30)
        assert (process.returncode, err) == (0, "")


def test_the_token_comes_from_the_environment_and_is_not_shown(searched):
    with dashboard("--host", "0.0.0.0", AUTOML_PRUNE_TOKEN=TOKEN) as (_, url, said):
        local = url.replace("0.0.0.0", "127.0.0.1")
        assert status_of(local) == 401
        assert status_of(local, Authorization=f"Bearer {TOKEN}") == 200
        assert TOKEN not in said


def test_what_is_wrong_with_the_dashboard_is_said_on_one_screen(searched, refused):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        assert f"port {port} is in use" in refused("dashboard", "--port", port)
    assert "--no-auth" in refused("dashboard", "--host", "0.0.0.0", "--port", "0")
    assert "at least 16" in refused("dashboard", "--token", "short", "--port", "0")
    assert "leave one" in refused("dashboard", "--token", TOKEN, "--no-auth", "--port", "0")
    assert "cannot listen" in refused("dashboard", "--host", "192.0.2.7", "--token", TOKEN)
    assert "did you mean 'tiny'" in refused("dashboard", "tinny")
    said = refused("dashboard", "--storage", "postgresql://me:secret-word@127.0.0.1:1/none")
    assert "127.0.0.1" in said
    assert "secret-word" not in said
    assert "nowhere.db" in refused("dashboard", "--storage", "sqlite:///nowhere.db")


def test_starting_the_dashboard_loads_neither_torch_nor_optuna(searched):
    code = (
        "import sys\nfrom automl_prune.cli import main\n"
        "assert main(['dashboard', '--host', '0.0.0.0', '--port', '0']) == 2\n"
        "import dashboards.server\n"
        "assert not {'torch', 'optuna', 'torchvision'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True, timeout=120)


def test_which_storage_is_shown(searched):
    assert storage_to_show(None, None) == ("sqlite:///runs/tiny/study.db", "tiny")
    assert storage_to_show("tiny", None) == ("sqlite:///runs/tiny/study.db", "tiny")
    assert storage_to_show(None, "sqlite:///x.db") == ("sqlite:///x.db", None)
    assert storage_to_show("tiny", "sqlite:///x.db") == ("sqlite:///x.db", "tiny")
    (searched / "runs" / "other").mkdir()
    (searched / "runs" / "other" / "study.db").touch()
    with pytest.raises(ConfigError, match="has 2: other, tiny; name one"):
        storage_to_show(None, None)


def test_no_study_at_all_is_said(here):
    with pytest.raises(ConfigError, match="has none; begin one"):
        storage_to_show(None, None)
    with pytest.raises(StudyNotFoundError, match="no study 'tiny'"):
        storage_to_show("tiny", None)


def test_report_writes_a_page_with_the_picked_model(searched, shown, refused):
    shown("pick", "tiny", "--trial", "2", "--out", "picked")
    assert "written: page.html" in shown(
        "report", "tiny", "--out", "page.html", "--picked", "picked"
    )
    page = (searched / "page.html").read_text()
    assert "Picked models" in page
    assert "trial 2" in page
    assert re.search(r"\d+\.\d\d to \d+\.\d\d", page), "no interval of the accuracy on test"
    assert "no study 'nothing'" in refused("report", "nothing", "--out", "page.html")
    assert "manifest" in refused("report", "tiny", "--out", "x.html", "--picked", "runs")
    assert not (searched / "x.html").exists()
    assert "could not be written" in refused("report", "tiny", "--out", "picked")


def test_report_loads_no_torch(searched):
    code = (
        "import sys\nfrom automl_prune.cli import main\n"
        "assert main(['report', 'tiny', '--out', 'page.html']) == 0\n"
        "assert not {'torch', 'optuna', 'dash'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True, timeout=120)
    assert main(["report", "tiny", "--out", "page.html"]) == 0
