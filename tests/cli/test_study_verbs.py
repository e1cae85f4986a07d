import json
import os
import signal
import subprocess
import sys
import time

import pytest

from automl_prune.cli import main

QUICK = ("--set", "dense.epochs=1", "--set", "search.trials=1")


def test_inspect_says_what_a_search_would_meet(here, shown):
    out = shown("inspect", "tiny.toml")
    assert "conv1" in out
    assert "output of the model" in out
    assert "reachable" in out
    assert "5 trials of" in out
    found = json.loads(shown("inspect", "tiny.toml", "--json", "--set", "search.trials=9"))
    assert found["estimate"]["trials"] == 9
    assert [path.name for path in here.iterdir()] == ["tiny.toml"]


def test_train_keeps_the_dense_model_and_search_finds_it(here, shown):
    out = shown("train", "tiny.toml", *QUICK)
    (dense,) = (here / "runs" / "dense").iterdir()
    assert str(dense.relative_to(here)) in out
    written = dense.stat().st_mtime_ns
    shown("search", "tiny.toml", *QUICK)
    assert [path.name for path in (here / "runs" / "dense").iterdir()] == [dense.name]
    assert dense.stat().st_mtime_ns == written


def test_search_goes_on_where_it_stopped(searched, shown):
    assert "already" in shown("search", "tiny.toml")
    out = shown("search", "tiny", "--trials", "6")
    assert "trial   5" in out
    assert "trial   4" not in out
    assert json.loads(shown("status", "tiny", "--json"))["finished"] == 6
    assert list((searched / "runs" / "tiny").glob("checkpoints/*")) == []


def test_another_config_under_the_same_name_is_refused_with_the_difference(searched, refused):
    message = refused("search", "tiny.toml", "--set", "inner.steps=13", "--trials", "9")
    assert "inner.steps: 12 -> 13" in message


def test_the_same_study_twice_gives_the_same_front_bit_for_bit(here, searched_folder, shown):
    shown("search", "tiny.toml")
    timed = ("latency_ms",)

    def front(folder):
        os.chdir(folder)
        rows = json.loads(shown("pareto", "tiny", "--all", "--json"))
        return [{k: v for k, v in row.items() if k not in timed} for row in rows]

    assert front(here) == front(searched_folder)


def hear_ctrl_c():
    """Tests that run in the background of a shell inherit that Ctrl-C is ignored."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.mark.parametrize("after", ["dense model", "trial   0"])
def test_ctrl_c_ends_cleanly_and_the_next_call_ends_at_the_same_results(
    here, searched_folder, shown, after
):
    """Interrupt a real process, twice in different places, then let it finish."""
    process = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import sys; from automl_prune.cli import main; sys.exit(main())",
            "search",
            "tiny.toml",
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=here,
        env=os.environ | {"PYTHONUNBUFFERED": "1"},
        preexec_fn=hear_ctrl_c,
    )
    for line in process.stdout:
        if line.startswith(after):
            break
    time.sleep(0.15)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=240)
    assert process.returncode == 130, err
    assert "Traceback" not in err, err
    assert len(err.splitlines()) <= 2, err
    shown("search", "tiny.toml")
    timed = ("latency_ms",)

    def front(folder):
        os.chdir(folder)
        rows = json.loads(shown("pareto", "tiny", "--all", "--json"))
        return [{k: v for k, v in row.items() if k not in timed} for row in rows]

    assert front(here) == front(searched_folder)


@pytest.mark.parametrize("verb", ["inspect", "train", "search"])
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["data.source=fashion-mnist", "data.root=/nonexistent"], "/nonexistent"),
        (["model.builder=my_code:build"], "--trust my_code"),
        (["model.builder=automl_prune.models:nope"], "nope"),
        (["model.kwargs.num_classes=7"], "10 classes"),
        (["search.ratio=[0.5, 1.5]"], "search.ratio"),
        (["search.ratio=[0, 0.5]"], "search.ratio"),
        (["search.limits.max_macs=5"], "2,"),
        (["inner.stps=3"], "inner.stps"),
        (["model.checkpoint=missing.safetensors"], "missing.safetensors"),
    ],
)
def test_bad_input_is_one_screen_and_nothing_half_written(here, refused, verb, settings, message):
    words = [word for setting in settings for word in ("--set", setting)]
    assert message in refused(verb, "tiny.toml", *words)
    assert [path.name for path in here.iterdir()] == ["tiny.toml"]


@pytest.mark.parametrize("verb", ["inspect", "train", "search"])
def test_an_unknown_study_is_refused_with_what_there_is(here, refused, verb):
    assert "digits" in refused(verb, "digit")
    assert "nothere.toml" in refused(verb, "nothere.toml")
    assert [path.name for path in here.iterdir()] == ["tiny.toml"]


def test_settings_need_a_file(searched, refused):
    assert "--set" in refused("search", "elsewhere", "--set", "inner.steps=3")


def test_a_checkpoint_that_does_not_fit_names_the_keys(here, refused):
    import torch
    from safetensors.torch import save_file

    save_file({"conv1.weight": torch.zeros(3, 1, 3, 3)}, here / "other.safetensors")
    message = refused("search", "tiny.toml", "--set", "model.checkpoint=other.safetensors")
    assert "conv1.weight" in message
    assert not (here / "runs").exists()


def test_a_corrupt_data_set_is_named(here, refused):
    raw = here / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    for name in ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1"):
        (raw / f"{name}-ubyte").write_bytes(b"not images")
    settings = ["--set", "data.source=fashion-mnist", "--set", "data.root=."]
    message = refused("search", "tiny.toml", *settings)
    assert "ubyte" in message or "FashionMNIST" in message
    assert not (here / "runs").exists()


STRANGE_NETS = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, num_classes=10):
        super().__init__()
        self.conv = nn.Conv2d(1, 8, 3)
        self.linear = nn.Linear(8, num_classes)

    def forward(self, images):
        features = self.conv(images).mean((2, 3))
        return self.linear(self.between(features))

class ThroughNumpy(Net):
    def between(self, features):
        return torch.from_numpy(features.detach().numpy().copy())

class NeverAlone(Net):
    def between(self, features):
        return features.relu() if len(features) > 1 else features.view(3)
"""


@pytest.mark.parametrize(
    ("net", "message"),
    [
        ("ThroughNumpy", "no tensor depends on its input"),
        ("NeverAlone", "RuntimeError in the model's forward"),
    ],
)
def test_a_model_that_cannot_be_traced_says_why(here, refused, net, message):
    (here / "strange_nets.py").write_text(STRANGE_NETS)
    model = f"model={{builder='strange_nets:{net}'}}"
    for verb in ("inspect", "search"):
        said = refused(verb, "tiny.toml", "--set", model, "--trust", "strange_nets")
        assert message in said
    assert not (here / "runs").exists()


def test_an_unreachable_storage_is_said_before_anything_is_trained(here, refused):
    url = "postgresql://someone:s3cret@127.0.0.1:9/none"
    message = refused("search", "tiny.toml", "--storage", url)
    assert "s3cret" not in message
    assert [path.name for path in here.iterdir()] == ["tiny.toml"]


def test_an_artifact_folder_that_is_gone_loses_no_finished_trial(searched, shown, refused):
    before = {row["trial"] for row in json.loads(shown("pareto", "tiny", "--all", "--json"))}
    artifacts = searched / "runs" / "tiny" / "artifacts"
    artifacts.rename(searched / "elsewhere")
    artifacts.write_text("in the way")
    assert "artifact folder has to be reachable" in refused("search", "tiny", "--trials", "6")
    after = json.loads(shown("pareto", "tiny", "--all", "--json"))
    assert {row["trial"] for row in after} == before
    assert main(["status", "tiny"]) == 0
