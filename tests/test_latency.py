import shutil

import pytest
import torch

from automl_prune.card import latency_pairs
from automl_prune.evaluate import hardware_name
from automl_prune.latency import measure_folder
from automl_prune.manifest import LatencyRow, read_manifest
from automl_prune.modelfile import update_manifest
from automl_prune.records import Latency


@pytest.fixture
def folder(tiny_folder, tmp_path):
    return shutil.copytree(tiny_folder, tmp_path / "model")


def test_dense_and_pruned_are_measured_in_the_same_way(folder):
    threads = torch.get_num_threads()
    manifest = measure_folder(folder, threads=1, batch_sizes=(1, 8))
    assert read_manifest(folder) == manifest
    pairs = latency_pairs(manifest.latencies)
    assert {(p.runtime, p.latency.batch_size) for _, p in pairs} == {
        ("torch", 1),
        ("torch", 8),
        ("onnxruntime", 1),
        ("onnxruntime", 8),
    }
    assert len(pairs) * 2 == len(manifest.latencies)
    for row in manifest.latencies:
        assert row.latency.hardware == hardware_name("cpu")
        assert row.latency.threads == 1
        assert row.latency.median_ms > 0
    assert torch.get_num_threads() == threads


def test_rows_of_other_hardware_stay_and_are_not_compared(folder):
    elsewhere = Latency(
        median_ms=1.0, spread_ms=0.1, batch_size=1, threads=1, hardware="another machine"
    )
    row = LatencyRow(model="dense", runtime="torch", latency=elsewhere)
    manifest = read_manifest(folder).model_copy(update={"latencies": (row,)})
    update_manifest(folder, manifest)
    once = measure_folder(folder, threads=1, runtimes=("torch",), batch_sizes=(1,))
    twice = measure_folder(folder, threads=1, runtimes=("torch",), batch_sizes=(1,))
    assert len(once.latencies) == len(twice.latencies) == 3
    assert row in twice.latencies
    ((dense, pruned),) = latency_pairs(twice.latencies)
    assert dense.latency.hardware == pruned.latency.hardware == hardware_name("cpu")
