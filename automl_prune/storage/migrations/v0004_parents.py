"""The finished trial whose weights and widths a trial starts from."""

from __future__ import annotations

import json

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    """Add the column; trials without an entry start from the dense model."""
    op.add_column("ap_slots", sa.Column("parent", sa.Text, nullable=True))
    studies = sa.table("ap_studies", sa.column("id", sa.Integer), sa.column("config", sa.Text))
    connection = op.get_bind()
    for row in connection.execute(sa.select(studies)).all():
        connection.execute(
            sa.update(studies).where(studies.c.id == row.id).values(config=_as_before(row.config))
        )


def _as_before(text: str) -> str:
    """A config in today's words under which its study goes on as it began."""
    config = json.loads(text)
    config.setdefault("search", {}).setdefault("inherit", False)
    inner = config.setdefault("inner", {})
    if inner.get("budget_ratio") is None:
        inner["budget_ratio"] = "none"
    return json.dumps(config, sort_keys=True)
