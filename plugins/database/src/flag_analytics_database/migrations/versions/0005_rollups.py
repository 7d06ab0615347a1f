"""Rollups: counts by the hour, sketches by the day, and how far both go."""

from __future__ import annotations

from typing import Any

from alembic import context, op
from sqlalchemy import BigInteger, Column, Integer, LargeBinary, MetaData, Table
from sqlalchemy.dialects import mysql, postgresql, sqlite
from sqlalchemy.engine import Dialect

from flag_analytics_database.names import derived_name
from flag_analytics_database.schema import Tables
from flag_analytics_database.setup import create_missing

revision = "0005"
down_revision = "0004"

_COUNTED_BY = ("flag_key", "variant", "reason", "environment")
_COUNTED = ("events", "weight", "errors", "error_weight", "first_event", "last_event")


def upgrade() -> None:
    create_missing(op.get_bind(), *_tables(context.config.attributes["tables"], op.get_bind().dialect))


def _tables(given: Tables, dialect: Dialect) -> tuple[Table, ...]:
    name, metadata = given.name, MetaData(schema=given.schema)
    key, blob = _key_type(dialect), mysql.MEDIUMBLOB() if _is_mysql(dialect) else LargeBinary()
    counts = Table(
        derived_name(name, "counts"),
        metadata,
        Column("hour", BigInteger, primary_key=True, autoincrement=False, nullable=False),
        *(Column(column, key, primary_key=True, nullable=False) for column in _COUNTED_BY),
        *(Column(column, BigInteger, nullable=False) for column in _COUNTED),
        sqlite_with_rowid=False,
    )
    sketches = Table(
        derived_name(name, "sketches"),
        metadata,
        Column("start", BigInteger, primary_key=True, autoincrement=False, nullable=False),
        Column("days", Integer, primary_key=True, autoincrement=False, nullable=False),
        Column("flag_key", key, primary_key=True, nullable=False),
        Column("events", BigInteger, nullable=False),
        Column("cells", blob, nullable=False),
        Column("users", blob),
        Column("durations", blob),
        Column("variant_users", blob),
    )
    rollup_state = Table(
        derived_name(name, "rollup_state"),
        metadata,
        Column("name", key, primary_key=True, nullable=False),
        Column("value", BigInteger, nullable=False),
    )
    return counts, sketches, rollup_state


def _key_type(dialect: Dialect) -> Any:
    if dialect.name == "postgresql":
        return postgresql.TEXT(collation="C")
    if not _is_mysql(dialect):
        return sqlite.TEXT()
    collation = "utf8mb4_nopad_bin" if getattr(dialect, "is_mariadb", False) else "utf8mb4_0900_bin"
    return mysql.VARCHAR(190, charset="utf8mb4", collation=collation)


def _is_mysql(dialect: Dialect) -> bool:
    return dialect.name in {"mysql", "mariadb"}
