import json
import os
import subprocess
import sys

from automl_prune.storage.process import host_name, identity, known_dead


def test_this_process_lives():
    assert not known_dead(identity())


def test_a_process_that_ended_is_dead():
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    text = identity(child.pid)
    assert not known_dead(text)
    child.kill()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert known_dead(text), "a zombie writes nothing any more"
    child.communicate()
    assert known_dead(text)


def test_another_process_with_the_same_number_is_another_process():
    content = json.loads(identity())
    assert known_dead(json.dumps(content | {"start": content["start"] - 1}))


def test_nothing_is_known_of_processes_elsewhere():
    content = json.loads(identity()) | {"pid": 2**22 - 1}
    assert known_dead(json.dumps(content))
    assert not known_dead(json.dumps(content | {"place": "another-host/boot/1"}))


def test_host_name_is_a_name():
    assert host_name()
    assert host_name() in json.loads(identity())["place"]
