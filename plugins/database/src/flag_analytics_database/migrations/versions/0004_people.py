"""The index by time holds the targeting key too, so that one person's events are found without reading all rows."""

from __future__ import annotations

from alembic import context, op
from sqlalchemy import Column, Index, MetaData, Table, inspect

from flag_analytics_database.names import derived_name
from flag_analytics_database.schema import Tables
from flag_analytics_database.setup import create_missing

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    given: Tables = context.config.attributes["tables"]
    connection = op.get_bind()
    events = Table(given.name, MetaData(schema=given.schema), Column("timestamp"), Column("targeting_key"))
    Index(derived_name(given.name, "by_time_and_user"), events.c.timestamp, events.c.targeting_key)
    create_missing(connection, events)
    before = derived_name(given.name, "by_time")
    if before in {index["name"] for index in inspect(connection).get_indexes(given.name, schema=given.schema)}:
        op.drop_index(before, given.name, schema=given.schema)
