"""A worker is woken when half of either bound of its sink is reached (T43)."""

from __future__ import annotations

import pytest
from flag_analytics.reports import DeliveryOptions
from flag_analytics.testing.faults import ScriptedSink, wait_until
from flag_analytics.testing.samples import plain_event
from flag_analytics_delivery import Delivery
from flag_analytics_delivery.log import NEVER

PATIENT = DeliveryOptions(flush_interval_seconds=10_000.0, batch_size=100_000)


def wait_for_sleep(delivery):
    """Wait until the worker has seen every event and sleeps."""
    (sink,) = delivery._engine.accounts.sinks.values()
    for_the_first_event = 1
    assert wait_until(lambda: sink.cursor.wake_at not in {NEVER, for_the_first_event})


@pytest.mark.parametrize(
    ("options", "padding", "before", "needed"),
    [
        ({"max_events": 100}, 0, 49, 1),
        ({"max_bytes": 2**20}, 3_000, 100, 60),
        ({"batch_size": 20}, 0, 19, 1),
    ],
)
def test_a_worker_that_lets_a_batch_fill_is_woken_in_time(options, padding, before, needed):
    sink = ScriptedSink()
    delivery = Delivery({"sink": sink}, PATIENT.evolve(**options))
    event = plain_event(context_attributes={"text": "x" * padding})
    for _ in range(before):
        assert delivery.record_nowait(event)
    wait_for_sleep(delivery)
    assert sink.stored == {}
    for _ in range(needed):
        assert delivery.record_nowait(event)
    assert sink.wait_for(lambda: sink.writes)
    for _ in range(5 * before):
        assert delivery.record_nowait(event), "dropped beside a sink that keeps up"
        assert wait_until(lambda: delivery.stats().sinks["sink"].pending < before + needed)
    assert delivery.stats().sinks["sink"].dropped == {}
    assert delivery.close_sync()
