"""docker-compose.yml: valid by the specification's schema, and its commands run as they stand.

There is no engine here: every service's exact command and environment are run as ordinary
processes; only addresses and folders inside the containers are put in place.
"""

import json
import os
import re
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import jsonschema
import pytest
import yaml
from cli.conftest import STUDY_FILE

ROOT = Path(__file__).parent.parent
VERB = [sys.executable, "-c", "import sys; from automl_prune.cli import main; sys.exit(main())"]
VARIABLES = {
    "POSTGRES_PASSWORD": "s3cret",
    "AUTOML_PRUNE_TOKEN": "0123456789abcdef",
    "STUDY_FILE": "tiny.toml",
    "STUDY": "tiny",
}
URL = "postgresql://automl:s3cret@postgres:5432/automl"


def read_compose(variables):
    """The file with its variables put in, as an engine would."""

    def put_in(match):
        name, kind, rest = match.groups()
        if name in variables:
            return variables[name]
        if kind == ":-":
            return rest
        raise KeyError(f"{name}: {rest}")

    text = (ROOT / "docker-compose.yml").read_text()
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    return yaml.safe_load(re.sub(r"\$\{(\w+)(:[-?])([^}]*)\}", put_in, "\n".join(lines)))


@pytest.fixture(scope="module")
def compose():
    return read_compose(VARIABLES)


def test_it_is_valid_by_the_specification(compose):
    schema = json.loads((ROOT / "tests/compose_spec/compose-spec.json").read_text())
    schema["$schema"] = "https://json-schema.org/draft/2019-09/schema"
    jsonschema.validate(compose, schema)
    broken = {**compose, "services": {"x": {"imagee": "y"}}}
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(broken, schema)


@pytest.mark.parametrize("missing", ["POSTGRES_PASSWORD", "AUTOML_PRUNE_TOKEN"])
def test_there_is_no_default_password(missing):
    with pytest.raises(KeyError, match=missing):
        read_compose({name: text for name, text in VARIABLES.items() if name != missing})


def test_services_wait_for_what_they_need_and_only_this_host_reaches_the_page(compose):
    services = compose["services"]
    assert set(services) == {"postgres", "init", "worker", "worker-gpu", "dashboard"}
    assert services["init"]["depends_on"] == {"postgres": {"condition": "service_healthy"}}
    for name in ("worker", "worker-gpu", "dashboard"):
        condition = {"init": {"condition": "service_completed_successfully"}}
        assert services[name]["depends_on"] == condition
    assert services["dashboard"]["ports"] == ["127.0.0.1:8080:8080"]
    assert "ports" not in services["postgres"]
    assert services["worker-gpu"]["profiles"] == ["gpu"]


def test_the_image_runs_as_nobody_special_and_holds_the_package():
    lines = (ROOT / "Dockerfile").read_text().splitlines()
    users = [line.split()[1] for line in lines if line.startswith("USER")]
    assert users == ["automl"]
    assert 'ENTRYPOINT ["automl-prune"]' in lines
    copied = {word for line in lines if line.startswith("COPY") for word in line.split()[1:-1]}
    assert all((ROOT / name).exists() for name in copied)
    ignored = (ROOT / ".dockerignore").read_text()
    assert all(f"!{name}" in ignored for name in copied)


@pytest.mark.postgres
def test_the_commands_run_as_they_stand(compose, postgres_url, tmp_path):
    (tmp_path / "tiny.toml").write_text(STUDY_FILE)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])

    def place(text):
        return text.replace(URL, postgres_url).replace("/artifacts", str(tmp_path / "artifacts"))

    def started(name):
        service = compose["services"][name]
        environment = {key: place(text) for key, text in service["environment"].items()}
        command = [word if word != "8080" else port for word in service["command"]]
        return subprocess.Popen(
            [*VERB, *command],
            env=os.environ | environment,
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    for name, words in (("init", "study tiny is ready"), ("worker", "has its 5 finished trials")):
        process = started(name)
        out, _ = process.communicate(timeout=240)
        assert process.returncode == 0, out
        assert words in out
        assert "s3cret" not in out
    gpu = started("worker-gpu")
    out, _ = gpu.communicate(timeout=120)
    assert gpu.returncode in (0, 2), out  # done already, or no GPU here
    dashboard = started("dashboard")
    try:
        assert "Pareto explorer" in dashboard.stdout.readline()
        page = f"http://127.0.0.1:{port}/explorer/"
        with pytest.raises(urllib.error.HTTPError, match="401"):
            urllib.request.urlopen(page)
        request = urllib.request.Request(
            page, headers={"Authorization": "Bearer 0123456789abcdef"}
        )
        with urllib.request.urlopen(request) as answer:
            assert answer.status == 200
    finally:
        dashboard.terminate()
        dashboard.communicate(timeout=30)
