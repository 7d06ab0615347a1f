"""Alembic's entry: the connection and the tables come from the caller of the upgrade, never from an ini file."""

from __future__ import annotations

from alembic import context

tables = context.config.attributes["tables"]

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=tables.metadata,
    version_table=tables.version.name,
    version_table_schema=tables.schema,
)
with context.begin_transaction():
    context.run_migrations()
