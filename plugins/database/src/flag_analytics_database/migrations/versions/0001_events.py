"""The first schema: events and dead letters.

Written out, and not taken from ``schema``: what this migration makes stays the same when the schema changes.
"""

from __future__ import annotations

from typing import Any

from alembic import context, op
from sqlalchemy import BigInteger, Column, Double, Index, MetaData, SmallInteger, Table, text
from sqlalchemy.dialects import mysql, postgresql, sqlite
from sqlalchemy.engine import Dialect

from flag_analytics_database.names import derived_name
from flag_analytics_database.schema import Tables
from flag_analytics_database.setup import create_missing

revision = "0001"
down_revision = None

_MEASURED = ["targeting_key", "variant", "reason", "evaluation_duration_ms", "kind"]


def upgrade() -> None:
    create_missing(op.get_bind(), *_tables(context.config.attributes["tables"], op.get_bind().dialect))


def _tables(given: Tables, dialect: Dialect) -> tuple[Table, Table]:
    name, metadata = given.name, MetaData(schema=given.schema)
    partitioned = "timestamp" in given.events.primary_key
    options: dict[str, Any] = {"postgresql_partition_by": "RANGE (timestamp)"} if partitioned else {}
    event_id, json = _id_type(dialect), _json_type(dialect)
    key, message, long_text = _text_type(dialect, 190), _text_type(dialect, 2_000), _text_type(dialect, None)
    events = Table(
        name,
        metadata,
        Column("event_id", event_id, primary_key=True, nullable=False),
        Column("timestamp", BigInteger, primary_key=partitioned, autoincrement=False, nullable=False),
        Column("received_at", BigInteger, nullable=False),
        Column("kind", SmallInteger, nullable=False),
        Column("flag_key", key, nullable=False),
        Column("reason", key, nullable=False),
        Column("variant", key),
        Column("targeting_key", key),
        Column("evaluation_duration_ms", Double, nullable=False),
        Column("value", json, nullable=False),
        Column("context_attributes", json, nullable=False),
        Column("sample_rate", Double, nullable=False, server_default=text("1")),
        Column("error_type", key),
        Column("error_message", message),
        Column("flag_version", key),
        Column("flag_set_id", key),
        Column("provider_name", key),
        **options,
    )
    by_flag = [events.c.flag_key, events.c.timestamp]
    if dialect.name == "postgresql":
        Index(derived_name(name, "by_flag"), *by_flag, postgresql_include=_MEASURED)
    else:
        Index(derived_name(name, "by_flag"), *by_flag, *(events.c[column] for column in _MEASURED))
    Index(derived_name(name, "by_time"), events.c.timestamp)
    dead_letters = Table(
        derived_name(name, "dead_letters"),
        metadata,
        Column("event_id", event_id, primary_key=True, nullable=False),
        Column("at", BigInteger, nullable=False),
        Column("sink", key, nullable=False),
        Column("error", key, nullable=False),
        Column("code", key, nullable=False),
        Column("batch_id", key, nullable=False),
        Column("event", long_text, nullable=False),
    )
    return events, dead_letters


def _id_type(dialect: Dialect) -> Any:
    if dialect.name == "postgresql":
        return postgresql.UUID()
    return mysql.BINARY(16) if _is_mysql(dialect) else sqlite.BLOB()


def _json_type(dialect: Dialect) -> Any:
    return postgresql.JSON() if dialect.name == "postgresql" else _text_type(dialect, None)


def _text_type(dialect: Dialect, characters: int | None) -> Any:
    if dialect.name == "postgresql":
        return postgresql.TEXT(collation="C")
    if not _is_mysql(dialect):
        return sqlite.TEXT()
    collation = "utf8mb4_nopad_bin" if getattr(dialect, "is_mariadb", False) else "utf8mb4_0900_bin"
    if characters is None:
        return mysql.MEDIUMTEXT(charset="utf8mb4", collation=collation)
    return mysql.VARCHAR(characters, charset="utf8mb4", collation=collation)


def _is_mysql(dialect: Dialect) -> bool:
    return dialect.name in {"mysql", "mariadb"}
