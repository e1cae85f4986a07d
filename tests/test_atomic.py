import os
import resource
from contextlib import contextmanager

import pytest

from automl_prune.atomic import write_file, write_folder
from automl_prune.errors import EnvironmentProblemError


@contextmanager
def largest_file(size_bytes):
    """A real refusal by the kernel, as a full disk would give."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_file_is_written_and_replaced(tmp_path):
    path = tmp_path / "new" / "file.bin"
    write_file(path, b"one")
    write_file(path, b"two")
    assert path.read_bytes() == b"two"
    assert os.listdir(path.parent) == ["file.bin"]


def test_previous_file_survives_a_full_disk(tmp_path):
    path = tmp_path / "file.bin"
    write_file(path, b"precious")
    with (
        largest_file(1000),
        pytest.raises(EnvironmentProblemError, match="limit on a file's size"),
    ):
        write_file(path, b"x" * 100_000)
    assert path.read_bytes() == b"precious"
    assert os.listdir(tmp_path) == ["file.bin"]


def test_folder_is_written_and_replaced_whole(tmp_path):
    folder = tmp_path / "model"
    write_folder(folder, {"a": b"1", "b": b"2"})
    write_folder(folder, {"a": b"3"})
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == {"a": b"3"}
    assert os.listdir(tmp_path) == ["model"]


def test_previous_folder_survives_a_full_disk(tmp_path):
    folder = tmp_path / "model"
    write_folder(folder, {"a": b"precious"})
    with largest_file(1000), pytest.raises(EnvironmentProblemError):
        write_folder(folder, {"a": b"new", "b": b"x" * 100_000})
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == {"a": b"precious"}
    assert os.listdir(tmp_path) == ["model"]


def test_no_half_folder_is_left_on_a_full_disk(tmp_path):
    with largest_file(1000), pytest.raises(EnvironmentProblemError, match="nothing was changed"):
        write_folder(tmp_path / "model", {"a": b"new", "b": b"x" * 100_000})
    assert os.listdir(tmp_path) == []


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(EnvironmentProblemError, match="File exists"):
        write_file(tmp_path / "file" / "below", b"x")
