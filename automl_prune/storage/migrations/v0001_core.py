"""Studies, trial slots with leases, workers, results."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Make the tables."""
    op.create_table(
        "ap_studies",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("name", sa.String(100), nullable=False, unique=True),
        sa.Column("optuna_study_id", sa.Integer, nullable=False),
        sa.Column("config", sa.Text, nullable=False),
        sa.Column("config_digest", sa.String(64), nullable=False),
        sa.Column("facts", sa.Text, nullable=False),
        sa.Column("artifact_dir", sa.Text, nullable=False),
        sa.Column("created_at", sa.Double, nullable=False),
        sa.Column("num_slots", sa.Integer, nullable=False),
        sa.Column("num_finished", sa.Integer, nullable=False),
    )
    op.create_table(
        "ap_slots",
        _study_key(),
        sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("ratios", sa.Text, nullable=False),
        sa.Column("trade_off", sa.Double, nullable=False),
        sa.Column("seed", sa.BigInteger, nullable=False),
        sa.Column("sampler_notes", sa.Text, nullable=False),
        sa.Column("token", sa.String(32)),
        sa.Column("worker_id", sa.String(32)),
        sa.Column("claimed_at", sa.Double),
        sa.Column("lease_until", sa.Double),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.Column("fruitless", sa.Integer, nullable=False),
        sa.Column("saved_fraction", sa.Double, nullable=False),
        sa.Column("saved_at_claim", sa.Double, nullable=False),
        sa.Column("progress", sa.Text),
        sa.Column("optuna_stage", sa.Integer, nullable=False),
        sa.UniqueConstraint("token"),
    )
    op.create_index("ap_slots_by_stage", "ap_slots", ["study_id", "optuna_stage", "number"])
    op.create_index("ap_slots_by_state", "ap_slots", ["study_id", "state", "number"])
    op.create_table(
        "ap_workers",
        sa.Column("id", sa.String(32), primary_key=True),
        sa.Column(
            "study_id",
            sa.Integer,
            sa.ForeignKey("ap_studies.id", ondelete="CASCADE"),
            nullable=False,
        ),
        sa.Column("host", sa.String(255), nullable=False),
        sa.Column("process", sa.Text, nullable=False),
        sa.Column("pid", sa.Integer, nullable=False),
        sa.Column("device", sa.String(64), nullable=False),
        sa.Column("started_at", sa.Double, nullable=False),
        sa.Column("beat_at", sa.Double, nullable=False),
        sa.Column("left_at", sa.Double),
    )
    op.create_index("ap_workers_by_study", "ap_workers", ["study_id"])
    op.create_table(
        "ap_results",
        _study_key(),
        sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("token", sa.String(32), nullable=False),
        sa.Column("finish_order", sa.Integer, nullable=False),
        sa.Column("finished_at", sa.Double, nullable=False),
        sa.Column("seconds", sa.Double),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("trade_off", sa.Double, nullable=False),
        sa.Column("accuracy", sa.Double),
        sa.Column("loss", sa.Double),
        sa.Column("macs", sa.BigInteger),
        sa.Column("params", sa.BigInteger),
        sa.Column("latency_ms", sa.Double),
        sa.Column("latency_hardware", sa.Text),
        sa.Column("feasible", sa.Boolean, nullable=False),
        sa.Column("constraints", sa.Text, nullable=False),
        sa.Column("error", sa.Text),
        sa.Column("record", sa.Text, nullable=False),
        sa.Column("artifacts", sa.Text, nullable=False),
        sa.UniqueConstraint("study_id", "finish_order"),
    )


def _study_key() -> sa.Column[int]:
    return sa.Column(
        "study_id",
        sa.Integer,
        sa.ForeignKey("ap_studies.id", ondelete="CASCADE"),
        primary_key=True,
    )
