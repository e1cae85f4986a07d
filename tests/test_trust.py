import functools
import sys

import pytest

from automl_prune.errors import ConfigError, TrustError
from automl_prune.trust import resolve

USER_MODULE = """
import os
NUMBER = 3
def make(x=1): return x
class Net:
    @staticmethod
    def build(): return "net"
"""


@pytest.fixture
def user_folder(tmp_path, monkeypatch):
    (tmp_path / "my_trust_module.py").write_text(USER_MODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [p for p in sys.path if p])
    yield tmp_path
    sys.modules.pop("my_trust_module", None)


@pytest.mark.parametrize(
    "path",
    [
        "automl_prune.models:resnet20",
        "torchvision.models:resnet18",
        "torchvision.datasets:CIFAR10",
    ],
)
def test_built_in_paths_need_no_trust(path):
    assert callable(resolve(path))


def test_other_packages_are_refused_before_they_are_imported(user_folder):
    with pytest.raises(TrustError, match=r"--trust my_trust_module"):
        resolve("my_trust_module:make")
    assert "my_trust_module" not in sys.modules


def test_a_trusted_module_is_found_in_the_current_folder(user_folder):
    assert str(user_folder) not in sys.path
    assert resolve("my_trust_module:make", ("my_trust_module",))(x=5) == 5
    assert resolve("my_trust_module:Net.build", ("my_trust_module",))() == "net"
    assert sys.path[-1] == str(user_folder), "at the end, where it hides no installed package"


def test_a_trusted_module_may_hand_out_what_it_imported(user_folder):
    assert resolve("my_trust_module:os.getcwd", ("my_trust_module",))() == str(user_folder)


@pytest.mark.parametrize(
    "path",
    [
        "torchvision.models:resnet.torch.load",
        "torchvision.datasets:folder.os.system",
        "torchvision.models.resnet:partial",
        "os:system",
        "torchvision_evil:run",
        "automl_prune.modelfile:load_pruned",
    ],
)
def test_nothing_leads_out_of_the_built_in_packages(path):
    with pytest.raises(TrustError):
        resolve(path)


def test_partial_in_the_list_above_is_the_real_one():
    import torchvision.models.resnet

    assert torchvision.models.resnet.partial is functools.partial


def test_trust_is_by_whole_package_names(user_folder):
    with pytest.raises(TrustError):
        resolve("my_trust_module:make", ("my_trust",))
    with pytest.raises(TrustError):
        resolve("my_trust_module:make", ("my_trust_module.inside",))


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("my_trust_module:absent", r"has no 'absent'"),
        ("my_trust_module:NUMBER", r"found int, need a function or class"),
        ("my_trust_absent:make", r"no module 'my_trust_absent'"),
        ("my_trust_module", r"write package.module:name"),
    ],
)
def test_what_is_not_there_is_a_mistake_in_the_config(user_folder, path, message):
    with pytest.raises(ConfigError, match=message):
        resolve(path, ("my_trust_module", "my_trust_absent"))
