"""The index of figures: what metrics are made of, with sample rates, errors and versions."""

from __future__ import annotations

from alembic import context, op
from sqlalchemy import Column, Index, MetaData, Table, inspect, text

from flag_analytics_database.names import derived_name
from flag_analytics_database.schema import Tables
from flag_analytics_database.setup import create_missing

revision = "0002"
down_revision = "0001"

_KEYS = ["flag_key", "timestamp"]
_MEASURED = ["targeting_key", "variant", "reason", "evaluation_duration_ms", "kind", "sample_rate"]
_FURTHER = ["error_type", "flag_version"]


def upgrade() -> None:
    given: Tables = context.config.attributes["tables"]
    connection = op.get_bind()
    events = Table(given.name, MetaData(schema=given.schema), *(Column(name) for name in _KEYS + _MEASURED + _FURTHER))
    columns = [events.c[name] for name in _KEYS]
    payload = [events.c[name] for name in _MEASURED]
    name = derived_name(given.name, "figures")
    if connection.dialect.name == "postgresql":
        Index(name, *columns, postgresql_include=_MEASURED + _FURTHER)
    elif connection.dialect.name == "sqlite":
        Index(name, *columns, *payload, *(events.c[column] for column in _FURTHER))
    else:
        # A key of InnoDB holds 3,072 bytes, which are full of four texts.
        events.info["computed"] = {
            "typed_error": "TINYINT AS (CASE WHEN error_type <> '' THEN 1 END) VIRTUAL",
            "versioned": "TINYINT AS (CASE WHEN flag_version <> '' THEN 1 END) VIRTUAL",
        }
        Index(name, *columns, *payload, text("typed_error"), text("versioned"))
    create_missing(connection, events)
    before = derived_name(given.name, "by_flag")
    if before in {index["name"] for index in inspect(connection).get_indexes(given.name, schema=given.schema)}:
        op.drop_index(before, given.name, schema=given.schema)
