"""A server that gives up on a large batch each time gets it in parts."""

from __future__ import annotations

import uuid
from typing import Any

import pytest
from flag_analytics.reports import DeliveryOptions
from flag_analytics_database import DatabaseAnalyticsCollector

pytestmark = pytest.mark.server

SLOW = (
    "CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_sleep(0.0005); RETURN NEW; END $$",
    "CREATE TRIGGER slow BEFORE INSERT ON analytics_events FOR EACH ROW EXECUTE FUNCTION slow()",
)


async def test_a_statement_timeout_too_short_for_a_batch_stores_it_in_parts(postgresql: Any, make_event: Any) -> None:
    """Two thousand rows take more than a second; the role's time ends after 300 milliseconds."""
    await (operator := postgresql.store()).upgrade()
    await operator.close()
    for statement in SLOW:
        await postgresql.run(statement)
    role = f"r{uuid.uuid4().hex[:12]}"
    await postgresql.run(f"CREATE ROLE {role} LOGIN SUPERUSER PASSWORD 'pw'")
    try:
        await postgresql.run(f"ALTER ROLE {role} SET statement_timeout = '300ms'")
        url = postgresql.url.set(username=role, password="pw").render_as_string(hide_password=False)
        collector = await DatabaseAnalyticsCollector.create(
            url, batch_size=2_000, delivery=DeliveryOptions(retry_initial_seconds=0.005, retry_max_seconds=0.05)
        )
        for number in range(2_000):
            await collector.record(make_event(number))
        assert await collector.flush(90.0), collector.health()
        ledger = collector.stats().sinks["database"]
        await collector.close()
    finally:
        await postgresql.run(f"DROP ROLE {role}")
    assert (ledger.delivered, ledger.dead) == (2_000, 0)
    assert ledger.retries > 0
    assert await postgresql.count() == 2_000
