import json
import socket
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from contextlib import contextmanager

import pytest

from automl_prune.errors import ConfigError, EnvironmentProblemError, StudyNotFoundError
from dashboards.server import LazyApp, bind, is_loopback, serve

TOKEN = "correct-horse-battery"


@contextmanager
def running(study, **options):
    server = bind(study.storage.url, port=0, **options)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        yield server.url.removesuffix("/explorer/")
    finally:
        server.stop()
        thread.join()


def ask(url, *, method="GET", body=None, **headers):
    data = None if body is None else json.dumps(body).encode()
    if data is not None:
        headers["Content-Type"] = "application/json"
    request = urllib.request.Request(url, method=method, headers=headers, data=data)
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read()


def test_both_pages_from_one_process_and_the_optuna_dashboard_may_rename(stored_study):
    stored_study.publish()
    with running(stored_study) as url:
        assert ask(f"{url}/explorer/")[0] == 200
        status, body = ask(f"{url}/api/studies")
        assert status == 200
        assert json.loads(body)["study_summaries"][0]["study_name"] == "invented"
        status, _ = ask(f"{url}/api/studies/1/rename", method="POST", body={"study_name": "b"})
        assert status == 201
        assert ask(f"{url}/explorer/download/invented/trials.csv")[0] == 200


def test_read_only_refuses_the_optuna_dashboards_delete_and_rename(stored_study):
    stored_study.publish()
    with running(stored_study, read_only=True) as url:
        assert ask(f"{url}/api/studies/1", method="DELETE")[0] == 403
        status, _ = ask(f"{url}/api/studies/1/rename", method="POST", body={"study_name": "b"})
        assert status == 403
        assert b'"invented"' in ask(f"{url}/api/studies")[1]


def test_artifacts_go_out_through_the_optuna_dashboard_with_their_digest_compared(stored_study):
    stored_study.publish()
    artifact = stored_study.artifacts_of(0)["model.safetensors"]
    with running(stored_study) as url:
        address = f"{url}/artifacts/1/1/{artifact.id}"
        assert ask(address) == (200, b"weights of 0")
        (stored_study.artifact_dir / artifact.id).write_bytes(b"weights of 9")
        status, body = ask(address)
        assert status >= 400
        assert b"weights" not in body
        assert ask(f"{url}/artifacts/1/1/..%2f..%2fstudy.db")[0] == 404


def test_a_token_guards_everything(stored_study):
    with running(stored_study, token=TOKEN) as url:
        for path in ("/", "/explorer/", "/api/studies", "/explorer/download/invented/trials.csv"):
            assert ask(f"{url}{path}")[0] == 401
        assert ask(f"{url}/explorer/", Authorization=f"Bearer {TOKEN}")[0] == 200


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"host": "0.0.0.0"}, "--no-auth"),
        ({"token": "short"}, "at least 16"),
        ({"token": TOKEN, "no_auth": True}, "leave one of them out"),
    ],
)
def test_an_open_door_is_refused(stored_study, options, message):
    with pytest.raises(ConfigError, match=message):
        bind(stored_study.storage.url, port=0, **options)


@pytest.mark.parametrize("options", [{"token": TOKEN}, {"no_auth": True}])
def test_other_addresses_with_a_token_or_when_one_insists(stored_study, options):
    bind(stored_study.storage.url, host="0.0.0.0", port=0, **options).server.server_close()


def test_a_port_in_use_is_said(stored_study):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(EnvironmentProblemError, match=f"port {port} is in use"):
            bind(stored_study.storage.url, port=port)


def test_an_address_of_nobody_and_an_empty_storage_are_said(stored_study, tmp_path):
    with pytest.raises(EnvironmentProblemError, match="check --host"):
        bind(stored_study.storage.url, host="127.0.0.1", port=70000)
    with pytest.raises(StudyNotFoundError):
        serve(f"sqlite:///{tmp_path / 'nothing.db'}", port=0)


def test_starting_loads_neither_torch_nor_optuna():
    code = (
        "import sys, dashboards.server\n"
        "assert 'torch' not in sys.modules and 'optuna' not in sys.modules"
    )
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True, timeout=120)


def test_a_late_application_is_made_once():
    made = []

    def make():
        made.append(1)
        return lambda environ, start: [b"x"]

    app = LazyApp(make)
    assert not made
    assert [app({}, None), app({}, None)] == [[b"x"], [b"x"]]
    assert made == [1]


def test_which_addresses_are_this_machine():
    assert all(is_loopback(host) for host in ("localhost", "127.0.0.1", "127.9.9.9", "::1"))
    assert not any(is_loopback(host) for host in ("0.0.0.0", "::", "192.168.1.5", "box"))
