"""The tables: events, dead letters, imports, rollups, and the version of the schema."""

from __future__ import annotations

import uuid
from functools import lru_cache
from typing import Any

import attrs
from sqlalchemy import (
    BigInteger,
    Column,
    Connection,
    Double,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    SmallInteger,
    String,
    Table,
    Text,
    text,
)
from sqlalchemy.dialects import mysql, postgresql, sqlite
from sqlalchemy.engine import Dialect
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.schema import CreateIndex
from sqlalchemy.types import TypeDecorator, TypeEngine

from .names import DEFAULT_TABLE, check_identifier, derived_name

__all__ = [
    "KINDS",
    "KIND_CODES",
    "PRUNED_BEFORE",
    "TYPED_ERROR",
    "VERSIONED",
    "EventId",
    "Tables",
    "indexes_of",
    "tables_named",
]

KINDS = ("evaluation", "exposure", "outcome")
"""The kinds of events by their number in the table, which is nine bytes shorter there and in its index."""
KIND_CODES = {kind: code for code, kind in enumerate(KINDS)}

TYPED_ERROR = "typed_error"
"""On MySQL and MariaDB, 1 for an event with an ``error_type``, else null."""
VERSIONED = "versioned"
"""On MySQL and MariaDB, 1 for an event with a ``flag_version``, else null."""

PRUNED_BEFORE = "pruned_before"
"""In the state of rollups: events before this time have been removed, or are about to be; their counts are kept."""


def _is_mysql(*_: Any, dialect: Dialect, **__: Any) -> bool:
    return dialect.name in {"mysql", "mariadb"}


class EventId(TypeDecorator[str]):
    """A UUID as text in Python and as 16 bytes in the database: a native ``uuid`` on PostgreSQL, binary elsewhere."""

    impl = LargeBinary
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        if dialect.name == "postgresql":
            return dialect.type_descriptor(postgresql.UUID(as_uuid=True))
        if dialect.name in {"mysql", "mariadb"}:
            return dialect.type_descriptor(mysql.BINARY(16))
        return dialect.type_descriptor(sqlite.BLOB())

    def process_bind_param(self, value: str | None, dialect: Dialect) -> Any:
        if value is None:
            return None
        return uuid.UUID(value) if dialect.name == "postgresql" else bytes.fromhex(value.replace("-", ""))

    def process_result_value(self, value: Any, dialect: Dialect) -> str | None:  # noqa: ARG002 - SQLAlchemy's signature
        if value is None or isinstance(value, str):
            return value
        return str(value if isinstance(value, uuid.UUID) else uuid.UUID(bytes=bytes(value)))


class _BinaryText(mysql.VARCHAR):
    """Text on MySQL or MariaDB that compares byte by byte, trailing spaces included.

    The collation that both have, ``utf8mb4_bin``, takes ``'a'`` for ``'a '``; the others have different names.
    Character set and collation are forced for each column, since a server's default may fold case and accents, or
    refuse characters outside the basic plane.
    """

    __visit_name__ = "binary_text"
    cache_ok = True


@compiles(_BinaryText)
def _compile_binary_text(kind: _BinaryText, compiler: Any, **_: Any) -> str:
    length = f"VARCHAR({kind.length})" if kind.length else "MEDIUMTEXT"
    collation = "utf8mb4_nopad_bin" if compiler.dialect.is_mariadb else "utf8mb4_0900_bin"
    return f"{length} CHARACTER SET utf8mb4 COLLATE {collation}"


def _text(characters: int | None, on_postgresql: TypeEngine[Any] | None = None) -> TypeEngine[Any]:
    """Return text that compares byte by byte on every database."""
    plain: TypeEngine[Any] = Text()
    return (
        plain.with_variant(on_postgresql or postgresql.TEXT(collation="C"), "postgresql")
        .with_variant(_BinaryText(characters), "mysql", "mariadb")
        .with_variant(sqlite.TEXT(), "sqlite")
    )


class _PlainJson(postgresql.JSON):
    """``json`` whose values are JSON text on the Python side too."""

    def adapt(self, cls: Any, **_: Any) -> Any:  # noqa: ARG002 - SQLAlchemy's signature
        # SQLAlchemy 2.0 would put the driver's own JSON type in place of this one, which encodes the text once more.
        return _PlainJson()

    def bind_processor(self, dialect: Dialect) -> None:  # noqa: ARG002 - SQLAlchemy's signature
        return None

    def result_processor(self, dialect: Dialect, coltype: object) -> None:  # noqa: ARG002 - SQLAlchemy's signature
        return None


def _json() -> TypeEngine[Any]:
    """Return JSON that is kept as it was written: PostgreSQL's ``json`` (not ``jsonb``), text elsewhere."""
    return _text(None, on_postgresql=_PlainJson())


def _blob() -> TypeEngine[Any]:
    plain: TypeEngine[Any] = LargeBinary()
    return plain.with_variant(mysql.MEDIUMBLOB(), "mysql", "mariadb")


_COUNTED_BY = ("flag_key", "variant", "reason", "environment")
_COUNTED = ("events", "weight", "errors", "error_weight", "first_event", "last_event")


@attrs.frozen(eq=False)
class Tables:
    """The tables of one installation. Times are whole microseconds since the Unix epoch, UTC, on every database."""

    events: Table
    dead_letters: Table
    imports: Table
    counts: Table
    sketches: Table
    rollup_state: Table
    version: Table
    metadata: MetaData
    name: str
    schema: str | None

    @property
    def view(self) -> str:
        """The name of the view for people and charts."""
        return derived_name(self.name, "v")

    @property
    def view_function(self) -> str:
        """The name of the function that the view selects from on PostgreSQL."""
        return derived_name(self.name, "v_rows")

    @property
    def adopted_table(self) -> str:
        """The name of a table made by litestar-flags while its rows are taken over."""
        return derived_name(self.name, "litestar_flags")

    @property
    def lock_name(self) -> str:
        """The name of the lock for setting the tables up."""
        return f"flag_analytics:{self.schema or ''}.{self.name}"


@lru_cache(maxsize=64)
def tables_named(name: str = DEFAULT_TABLE, schema: str | None = None, partitioned: bool = False) -> Tables:
    """Return the tables of this name; on PostgreSQL ``partitioned`` by time, which then is a part of the key.

    Raises:
        ValueError: ``name`` or ``schema`` is not a plain identifier.
    """
    check_identifier(name, "table")
    if schema is not None:
        check_identifier(schema, "schema")
    metadata = MetaData(schema=schema)
    options: dict[str, Any] = {"postgresql_partition_by": "RANGE (timestamp)"} if partitioned else {}
    events = Table(
        name,
        metadata,
        Column("event_id", EventId, primary_key=True, nullable=False),
        Column("timestamp", BigInteger, primary_key=partitioned, autoincrement=False, nullable=False),
        Column("received_at", BigInteger, nullable=False),
        Column("kind", SmallInteger, nullable=False),
        Column("flag_key", _text(190), nullable=False),
        Column("reason", _text(190), nullable=False),
        Column("variant", _text(190)),
        Column("targeting_key", _text(190)),
        Column("evaluation_duration_ms", Double, nullable=False),
        Column("value", _json(), nullable=False),
        Column("context_attributes", _json(), nullable=False),
        # Columns that are at their default in most events are not even sent: see ``rows``.
        Column("sample_rate", Double, nullable=False, server_default=text("1")),
        Column("error_type", _text(190)),
        Column("error_message", _text(2_000)),
        Column("flag_version", _text(190)),
        Column("flag_set_id", _text(190)),
        Column("provider_name", _text(190)),
        Column("import_id", Integer),
        **options,
    )
    columns = events.c
    # All columns of a flag's metrics in one index, so that a question touches the flag's own events only. PostgreSQL
    # keeps the payload out of the tree's inner pages. A key of InnoDB holds 3,072 bytes, which are full of four texts:
    # there virtual columns tell whether an event has the other two.
    keys = [columns.flag_key, columns.timestamp]
    payload = [
        columns.targeting_key,
        columns.variant,
        columns.reason,
        columns.evaluation_duration_ms,
        columns.kind,
        columns.sample_rate,
    ]
    further = [columns.error_type, columns.flag_version]
    index = derived_name(name, "figures")
    Index(index, *keys, *payload, *further).ddl_if(dialect="sqlite")
    Index(index, *keys, *payload, text(TYPED_ERROR), text(VERSIONED)).ddl_if(callable_=_is_mysql)
    Index(index, *keys, postgresql_include=[column.name for column in payload + further]).ddl_if(dialect="postgresql")
    events.info["computed"] = {
        TYPED_ERROR: "TINYINT AS (CASE WHEN error_type <> '' THEN 1 END) VIRTUAL",
        VERSIONED: "TINYINT AS (CASE WHEN flag_version <> '' THEN 1 END) VIRTUAL",
    }
    # One person's events are found in a pass over this index, without the rows of others: an index that begins with the
    # targeting key would cost a page of its own for each event that is stored.
    Index(derived_name(name, "by_time_and_user"), columns.timestamp, columns.targeting_key)
    dead_letters = Table(
        derived_name(name, "dead_letters"),
        metadata,
        Column("event_id", EventId, primary_key=True, nullable=False),
        Column("at", BigInteger, nullable=False),
        Column("sink", _text(190), nullable=False),
        Column("error", _text(190), nullable=False),
        Column("code", _text(190), nullable=False),
        Column("batch_id", _text(190), nullable=False),
        Column("event", _text(None), nullable=False),
    )
    imports = Table(
        derived_name(name, "imports"),
        metadata,
        Column("id", Integer, primary_key=True, autoincrement=True, nullable=False),
        Column("name", _text(190), nullable=False, unique=True),
        Column("started_at", BigInteger, nullable=False),
        Column("events", BigInteger, nullable=False),
        Column("first_event", BigInteger),
        Column("last_event", BigInteger),
    )
    counts = Table(
        derived_name(name, "counts"),
        metadata,
        Column("hour", BigInteger, primary_key=True, autoincrement=False, nullable=False),
        *(Column(text_, _text(190), primary_key=True, nullable=False) for text_ in _COUNTED_BY),
        *(Column(figure, BigInteger, nullable=False) for figure in _COUNTED),
        sqlite_with_rowid=False,
    )
    sketches = Table(
        derived_name(name, "sketches"),
        metadata,
        Column("start", BigInteger, primary_key=True, autoincrement=False, nullable=False),
        Column("days", Integer, primary_key=True, autoincrement=False, nullable=False),
        Column("flag_key", _text(190), primary_key=True, nullable=False),
        Column("events", BigInteger, nullable=False),
        Column("cells", _blob(), nullable=False),
        Column("users", _blob()),
        Column("durations", _blob()),
        Column("variant_users", _blob()),
    )
    rollup_state = Table(
        derived_name(name, "rollup_state"),
        metadata,
        Column("name", _text(190), primary_key=True, nullable=False),
        Column("value", BigInteger, nullable=False),
    )
    version = Table(
        derived_name(name, "version"),
        metadata,
        # As Alembic makes it.
        Column("version_num", String(32), primary_key=True, nullable=False),
    )
    return Tables(events, dead_letters, imports, counts, sketches, rollup_state, version, metadata, name, schema)


def indexes_of(connection: Connection, table: Table) -> list[Index]:
    """Return the indexes that a table has on this database, by name."""
    return [
        index
        for index in sorted(table.indexes, key=lambda index: str(index.name))
        if index._ddl_if is None or index._ddl_if._should_execute(CreateIndex(index), index, connection)  # noqa: SLF001
    ]
