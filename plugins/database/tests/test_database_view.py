"""The view shows every event as people and tools for charts read it, and changes nothing."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from flag_analytics_database import DatabaseStore
from sqlalchemy.exc import DBAPIError

TIMES = [
    datetime(1, 1, 1, tzinfo=UTC),
    datetime(1969, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC),
    datetime(2026, 3, 1, 12, 0, 0, 123_456, tzinfo=UTC),
    datetime(9999, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC),
]
FIELDS = (
    "flag_key", "reason", "variant", "targeting_key", "error_type", "error_message", "flag_version", "flag_set_id",
    "provider_name", "evaluation_duration_ms", "sample_rate",
)  # fmt: skip


def as_time(shown: Any) -> datetime:
    moment = datetime.fromisoformat(shown) if isinstance(shown, str) else shown
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


@pytest.mark.parametrize("settings", [{}, {"partition_by": "month"}, {"table": "flag_" * 12}])
async def test_the_view_shows_times_as_times_and_kinds_as_words(
    database: Any, make_event: Any, batch_of: Any, settings: dict[str, Any]
) -> None:
    store = database.store(**settings)
    kinds = ("evaluation", "exposure", "outcome", "evaluation")
    events = [make_event(number, timestamp=TIMES[number], kind=kinds[number]) for number in range(4)]
    await store.write(batch_of(*events))
    names = ", ".join(("event_id", "timestamp", "received_at", "kind", *FIELDS, "timestamp_us"))
    rows = await database.run(f"SELECT {names} FROM {store.tables.view} ORDER BY timestamp_us")
    for event, (event_id, moment, received_at, kind, *fields, micros) in zip(events, rows, strict=True):
        assert uuid.UUID(str(event_id)) == uuid.UUID(event.event_id)
        assert as_time(moment) == event.timestamp
        assert abs(as_time(received_at) - TIMES[2]).total_seconds() < 1.0
        assert kind == event.kind
        assert fields == [getattr(event, name) for name in FIELDS]
        assert micros == (event.timestamp - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)
    await store.close()


@pytest.mark.parametrize(
    "statement",
    [
        "DELETE FROM analytics_events_v",
        "UPDATE analytics_events_v SET variant = 'x'",
        "INSERT INTO analytics_events_v (flag_key) VALUES ('x')",
    ],
)
async def test_the_view_is_read_only(
    store: DatabaseStore, database: Any, make_event: Any, batch_of: Any, statement: str
) -> None:
    await store.write(batch_of(make_event()))
    with pytest.raises(DBAPIError):
        await database.run(statement)
    assert await store.get_events() == [make_event()] or await database.count() == 1


async def test_the_view_uses_the_indexes_of_the_table(
    store: DatabaseStore, database: Any, make_event: Any, batch_of: Any
) -> None:
    await store.write(batch_of(*(make_event(number) for number in range(50))))
    if database.family == "postgresql":  # which reads so small a table at once otherwise
        await database.run(f"ALTER DATABASE {database.url.database} SET enable_seqscan = off")
    explain = "EXPLAIN QUERY PLAN" if database.family == "sqlite" else "EXPLAIN"
    query = "SELECT count(*) FROM analytics_events_v WHERE flag_key = 'elsewhere'"
    assert "analytics_events_figures" in str(await database.run(f"{explain} {query}"))


async def test_the_view_forbids_no_change_of_the_table(
    store: DatabaseStore, database: Any, make_event: Any, batch_of: Any
) -> None:
    await store.write(batch_of(make_event()))
    if database.family == "postgresql":
        await database.run("ALTER TABLE analytics_events ALTER COLUMN variant TYPE varchar(200)")
        assert await database.count("analytics_events_v") == 1
    await database.run("DROP TABLE analytics_events")
    fresh = database.store()
    await fresh.write(batch_of(make_event()))
    assert await database.count("analytics_events_v") == 1


async def test_an_upgrade_brings_a_view_back_that_was_dropped(
    store: DatabaseStore, database: Any, make_event: Any, batch_of: Any
) -> None:
    await store.write(batch_of(make_event()))
    await database.run("DROP VIEW analytics_events_v")
    await database.store().upgrade()
    assert await database.count("analytics_events_v") == 1


@pytest.mark.server
async def test_without_the_right_to_create_views_events_are_stored_all_the_same(
    mysql: Any, make_event: Any, batch_of: Any, caplog: pytest.LogCaptureFixture
) -> None:
    name = f"u{uuid.uuid4().hex[:12]}"
    await mysql.run(f"CREATE USER {name}@'%' IDENTIFIED BY 'pw'")
    try:
        rights = "SELECT, INSERT, UPDATE, DELETE, CREATE, INDEX, ALTER"
        await mysql.run(f"GRANT {rights} ON {mysql.url.database}.* TO {name}@'%'")
        url = mysql.url.set(username=name, password="pw").render_as_string(hide_password=False)
        store = mysql.store(connection_string=url)
        await store.write(batch_of(make_event()))
        assert len(await store.get_events()) == 1
        await store.close()
    finally:
        await mysql.run(f"DROP USER {name}@'%'")
    (line,) = [line for line in caplog.messages if "was not created" in line]
    assert line.startswith("the view analytics_events_v was not created (mysql-1142): grant CREATE VIEW")
