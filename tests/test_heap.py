import platform
import subprocess
import sys

import pytest

FAULTS = """
import resource, sys, torch
from automl_prune.heap import keep_freed_memory
if sys.argv[1] == "kept":
    assert keep_freed_memory()
torch.set_num_threads(1)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    pair = torch.ones(2**23), torch.ones(2**22)
    del pair
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="a setting of glibc")
def test_memory_taken_again_causes_few_page_faults():
    kept, given_back = (
        int(subprocess.check_output([sys.executable, "-c", FAULTS, how]))
        for how in ("kept", "as it is")
    )
    assert kept < given_back / 3


def test_elsewhere_it_says_that_there_is_no_such_setting(monkeypatch):
    from automl_prune.heap import keep_freed_memory

    monkeypatch.setattr(platform, "libc_ver", lambda: ("", ""))
    assert keep_freed_memory() is False
