"""Our own tables, beside Optuna's in the same database. All names start with ``ap_``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Double,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
)

if TYPE_CHECKING:
    from typing import Any, TypeAlias

    from sqlalchemy.engine import Row

    DataRow: TypeAlias = Row[*tuple[Any, ...]]
    """A row of a query; what is in it, the query says."""

VERSION_TABLE = "ap_schema_version"
"""Alembic's table; Optuna has one of its own, called ``alembic_version``."""

metadata = MetaData()

studies = Table(
    "ap_studies",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("name", String(100), nullable=False, unique=True),
    Column("optuna_study_id", Integer, nullable=False),
    Column("config", Text, nullable=False),
    Column("config_digest", String(64), nullable=False),
    Column("facts", Text, nullable=False),
    Column("artifact_dir", Text, nullable=False),
    Column("created_at", Double, nullable=False),
    # Locked for every claim and every result, so both counters have no gaps and no doubles.
    Column("num_slots", Integer, nullable=False, default=0),
    Column("num_finished", Integer, nullable=False, default=0),
    Column("target", Integer),  # finished trials that it shall have; None: as the config says
)

slots = Table(
    "ap_slots",
    metadata,
    Column("study_id", Integer, ForeignKey("ap_studies.id", ondelete="CASCADE"), primary_key=True),
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("kind", String(16), nullable=False),
    Column("state", String(16), nullable=False),  # running, waiting, complete, pruned, failed
    Column("ratios", Text, nullable=False),  # JSON, group name -> starting keep ratio
    Column("trade_off", Double, nullable=False),
    Column("seed", BigInteger, nullable=False),
    Column("parent", Text),  # JSON, the finished trial it starts from; NULL: the dense model
    Column("sampler_notes", Text, nullable=False),  # JSON, what the sampler wants to know again
    Column("token", String(32)),  # of the lease; only its holder may write
    Column("worker_id", String(32)),
    Column("claimed_at", Double),
    Column("lease_until", Double),
    Column("attempts", Integer, nullable=False, default=0),
    Column("fruitless", Integer, nullable=False, default=0),  # given up in a row without progress
    Column("saved_fraction", Double, nullable=False, default=0.0),  # in the newest checkpoint
    Column("saved_at_claim", Double, nullable=False, default=0.0),
    Column("progress", Text),  # JSON, where the trial is now
    Column("optuna_stage", Integer, nullable=False, default=0),  # 0 not there, 1 running, 2 done
    UniqueConstraint("token"),
    Index("ap_slots_by_stage", "study_id", "optuna_stage", "number"),
    Index("ap_slots_by_state", "study_id", "state", "number"),
)

workers = Table(
    "ap_workers",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("study_id", Integer, ForeignKey("ap_studies.id", ondelete="CASCADE"), nullable=False),
    Column("host", String(255), nullable=False),
    Column("process", Text, nullable=False),  # identity of the process on that host
    Column("pid", Integer, nullable=False),
    Column("device", String(64), nullable=False),
    Column("started_at", Double, nullable=False),
    Column("beat_at", Double, nullable=False),
    Column("left_at", Double),
    Index("ap_workers_by_study", "study_id"),
)

results = Table(
    "ap_results",
    metadata,
    Column("study_id", Integer, ForeignKey("ap_studies.id", ondelete="CASCADE"), primary_key=True),
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("token", String(32), nullable=False),  # of the lease under which it was written
    Column("finish_order", Integer, nullable=False),  # 1, 2, 3, ... in the study
    Column("finished_at", Double, nullable=False),
    Column("seconds", Double),
    Column("kind", String(16), nullable=False),
    Column("state", String(16), nullable=False),  # complete, pruned, failed
    Column("trade_off", Double, nullable=False),
    Column("accuracy", Double),
    Column("loss", Double),
    Column("macs", BigInteger),
    Column("params", BigInteger),
    Column("latency_ms", Double),
    Column("latency_hardware", Text),
    Column("feasible", Boolean, nullable=False),
    Column("constraints", Text, nullable=False),  # JSON, name -> value, feasible where <= 0
    Column("error", Text),
    Column("record", Text, nullable=False),  # JSON, TrialRecord or FailureRecord
    Column("artifacts", Text, nullable=False),  # JSON, name -> {id, sha256, bytes}
    UniqueConstraint("study_id", "finish_order"),
)

rungs = Table(
    "ap_rungs",
    metadata,
    Column("study_id", Integer, ForeignKey("ap_studies.id", ondelete="CASCADE"), primary_key=True),
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("rung", Integer, primary_key=True, autoincrement=False),
    Column("step", Integer, nullable=False),
    Column("accuracy", Double, nullable=False),
    Column("macs", BigInteger, nullable=False),
)
