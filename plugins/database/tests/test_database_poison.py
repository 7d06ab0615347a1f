"""What no event should hold is stored in canonical form, the same bytes on every database, and harms no other event."""

from __future__ import annotations

from typing import Any

from flag_analytics.freezer import Freezer
from flag_analytics.testing.samples import hostile_events, plain_events
from flag_analytics_database import DatabaseAnalyticsCollector

_COLUMNS = ("flag_key", "reason", "variant", "targeting_key", "evaluation_duration_ms")
_JSON = {"postgresql": "CAST({0} AS text)", "mysql": "{0}", "sqlite": "{0}"}


async def test_each_kind_of_bad_value_is_stored_alike_among_a_hundred_good_events(database: Any) -> None:
    freeze = Freezer().freeze
    kinds = list(hostile_events())
    assert len(kinds) >= 20
    json = _JSON[database.family]
    query = (
        f"SELECT {', '.join(_COLUMNS)}, {json.format('value')}, {json.format('context_attributes')} "
        "FROM analytics_events WHERE flag_key = 'hostile'"
    )
    async with await DatabaseAnalyticsCollector.create(
        database.connection_string, batch_size=101, flush_interval_seconds=60.0
    ) as collector:
        for number, (what, event) in enumerate(kinds, 1):
            good = plain_events(100)
            for neighbour in [*good[:50], event, *good[50:]]:
                await collector.record(neighbour)
            assert await collector.flush(30.0), what
            assert await database.count() == 100 * number + 1, what
            frozen = freeze(event)
            expected = tuple(getattr(frozen, column) for column in _COLUMNS)
            expected += (frozen.value_json.decode(), frozen.context_json.decode())
            assert await database.run(query) == [expected], what
            await database.run("DELETE FROM analytics_events WHERE flag_key = 'hostile'")
        ledger = collector.stats().sinks["database"]
    assert (ledger.delivered, ledger.dead, ledger.retries) == (101 * len(kinds), 0, 0)
