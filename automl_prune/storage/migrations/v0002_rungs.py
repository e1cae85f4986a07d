"""Rungs: accuracy of a trial part of the way through its fine-tuning, for early stopping."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Make the table."""
    op.create_table(
        "ap_rungs",
        sa.Column(
            "study_id",
            sa.Integer,
            sa.ForeignKey("ap_studies.id", ondelete="CASCADE"),
            primary_key=True,
        ),
        sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("rung", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("step", sa.Integer, nullable=False),
        sa.Column("accuracy", sa.Double, nullable=False),
        sa.Column("macs", sa.BigInteger, nullable=False),
    )
