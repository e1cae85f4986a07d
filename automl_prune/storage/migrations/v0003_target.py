"""How many finished trials a study shall have, for workers that know only its name."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Add the column; without a number, the study's config says it."""
    op.add_column("ap_studies", sa.Column("target", sa.Integer, nullable=True))
