"""Each import has a name, and its events hold the number of it."""

from __future__ import annotations

from typing import Any

from alembic import context, op
from sqlalchemy import BigInteger, Column, Integer, MetaData, Table, inspect
from sqlalchemy.dialects import mysql, postgresql, sqlite
from sqlalchemy.engine import Dialect

from flag_analytics_database.names import derived_name
from flag_analytics_database.schema import Tables
from flag_analytics_database.setup import create_missing

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    tables: Tables = context.config.attributes["tables"]
    bind = op.get_bind()
    create_missing(bind, _imports(tables, bind.dialect))
    columns = {column["name"] for column in inspect(bind).get_columns(tables.name, schema=tables.schema)}
    if "import_id" not in columns:  # MySQL commits each statement: this one may have been run before
        op.add_column(tables.name, Column("import_id", Integer), schema=tables.schema)


def _imports(tables: Tables, dialect: Dialect) -> Table:
    return Table(
        derived_name(tables.name, "imports"),
        MetaData(schema=tables.schema),
        Column("id", Integer, primary_key=True, autoincrement=True, nullable=False),
        Column("name", _key_type(dialect), nullable=False, unique=True),
        Column("started_at", BigInteger, nullable=False),
        Column("events", BigInteger, nullable=False),
        Column("first_event", BigInteger),
        Column("last_event", BigInteger),
    )


def _key_type(dialect: Dialect) -> Any:
    if dialect.name == "postgresql":
        return postgresql.TEXT(collation="C")
    if dialect.name == "sqlite":
        return sqlite.TEXT()
    collation = "utf8mb4_nopad_bin" if getattr(dialect, "is_mariadb", False) else "utf8mb4_0900_bin"
    return mysql.VARCHAR(190, charset="utf8mb4", collation=collation)
