"""The first schema: events and dead letters."""

from __future__ import annotations

from alembic import context, op

from flag_analytics_database.setup import create_all

revision = "0001"
down_revision = None


def upgrade() -> None:
    create_all(op.get_bind(), context.config.attributes["tables"])
