"""The view ``analytics_events_v``: events as people and tools for charts read them, with times as times.

On PostgreSQL it selects from a function: a view over the table itself would forbid to drop the table or to change the
type of a column. The planner inlines the function, so that indexes are used.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import nullcontext

from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError

from .errors import code_of
from .schema import KINDS, Tables

__all__ = ["create_view"]

_TEXTS = (
    "flag_key", "reason", "variant", "targeting_key", "error_type", "error_message", "flag_version", "flag_set_id",
    "provider_name",
)  # fmt: skip
_PLAIN = ("evaluation_duration_ms", "sample_rate")

logger = logging.getLogger("flag_analytics.database")


def create_view(connection: Connection, tables: Tables) -> None:
    """Create the view, in place of an older one; without the right to do so, log that it is missing."""
    quote = connection.dialect.identifier_preparer.quote_identifier
    prefix = f"{quote(tables.schema)}." if tables.schema else ""
    table, view = f"{prefix}{quote(tables.name)}", f"{prefix}{quote(tables.view)}"
    if connection.dialect.name == "postgresql":
        statements = _for_postgresql(table, view, f"{prefix}{quote(tables.view_function)}")
    elif connection.dialect.name == "sqlite":
        statements = [f"DROP VIEW IF EXISTS {view}", f"CREATE VIEW {view} AS {_for_sqlite(table)}"]
    else:
        statements = [f"CREATE OR REPLACE VIEW {view} AS {_for_mysql(table)}"]
    # MySQL commits with each such statement, and ends savepoints by it.
    nested = connection.begin_nested if connection.dialect.name in {"postgresql", "sqlite"} else nullcontext
    try:
        with nested():
            for statement in statements:
                connection.execute(text(statement))
    except DBAPIError as error:
        advice = "grant CREATE VIEW and run flag-analytics db upgrade, or do without it"
        logger.warning("the view %s was not created (%s): %s", tables.view, code_of(error), advice)


def _kind() -> str:
    cases = " ".join(f"WHEN {code} THEN '{name}'" for code, name in enumerate(KINDS))
    return f"CASE kind {cases} END"


def _for_postgresql(table: str, view: str, function: str) -> list[str]:
    columns = {
        "event_id": ("uuid", "event_id"),
        **{name: ("timestamptz", _postgresql_time(name)) for name in ("timestamp", "received_at")},
        "kind": ("text", _kind()),
        **dict.fromkeys(_TEXTS, ("text", "")),
        **dict.fromkeys(_PLAIN, ("double precision", "")),
        **dict.fromkeys(("value", "context_attributes"), ("json", "")),
    }
    declared = ", ".join(f'"{name}" {kind}' for name, (kind, _) in columns.items())
    # The casts keep the function valid when a column changes its type.
    selected = ", ".join(f'({how or name})::{kind} AS "{name}"' for name, (kind, how) in columns.items())
    body = f'SELECT {selected}, "timestamp"::bigint AS timestamp_us FROM {table}'  # noqa: S608 - checked identifiers
    head = f"CREATE OR REPLACE FUNCTION {function}() RETURNS TABLE ({declared}, timestamp_us bigint)"
    return [
        f"{head} LANGUAGE sql STABLE PARALLEL SAFE AS $$ {body} $$",
        f"CREATE OR REPLACE VIEW {view} AS SELECT * FROM {function}()",  # noqa: S608 - checked identifiers
    ]


def _postgresql_time(column: str) -> str:
    """Return an expression that is exact for every time, which one over floats is not."""
    return (
        f"timestamptz 'epoch' + \"{column}\"::bigint / 1000000 * interval '1 second' "
        f"+ \"{column}\"::bigint % 1000000 * interval '1 microsecond'"
    )


def _for_sqlite(table: str) -> str:
    # SQLite's times have milliseconds, and its division rounds towards zero.
    def time(column: str) -> str:
        micros = f"(({column} % 1000000 + 1000000) % 1000000)"
        return (
            f"strftime('%Y-%m-%d %H:%M:%S', ({column} - {micros}) / 1000000, 'unixepoch') "
            f"|| printf('.%06d', {micros}) AS \"{column}\""
        )

    return _select(table, time, " || ".join(_dashed("hex(event_id)")))


def _for_mysql(table: str) -> str:
    def time(column: str) -> str:
        return f"TIMESTAMPADD(MICROSECOND, {column}, TIMESTAMP'1970-01-01 00:00:00.000000') AS {column}"

    event_id = f"concat({', '.join(_dashed('hex(event_id)'))})"
    # A view with such a condition cannot be written to, and still uses the table's indexes.
    return _select(table, time, event_id) + f" WHERE EXISTS (SELECT 1 FROM {table} AS any_event)"  # noqa: S608


def _dashed(digits: str) -> list[str]:
    """Return the expressions that make a UUID's text when they are joined."""
    places = ((1, 8), (9, 4), (13, 4), (17, 4), (21, 12))
    parts = [f"lower(substr({digits}, {start}, {count}))" for start, count in places]
    return [piece for part in parts for piece in ("'-'", part)][1:]


def _select(table: str, time: Callable[[str], str], event_id: str) -> str:
    columns = [
        f"{event_id} AS event_id", time("timestamp"), time("received_at"), f"{_kind()} AS kind", *_TEXTS, *_PLAIN,
        "value", "context_attributes", "timestamp AS timestamp_us",
    ]  # fmt: skip
    return f"SELECT {', '.join(columns)} FROM {table}"  # noqa: S608 - checked identifiers
