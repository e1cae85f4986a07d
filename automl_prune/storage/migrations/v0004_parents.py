"""The finished trial whose weights and widths a trial starts from."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    """Add the column; trials without an entry start from the dense model."""
    op.add_column("ap_slots", sa.Column("parent", sa.Text, nullable=True))
