"""Every kind of hostile value in every field of an event, recorded in memory among plain events."""

from __future__ import annotations

import pytest
from flag_analytics.freezer import Freezer
from flag_analytics.testing.hostile import CANARY, HOSTILE_KINDS, PLACES, hostile_event
from flag_analytics.testing.samples import plain_event
from flag_analytics_memory import InMemoryAnalyticsCollector


@pytest.mark.parametrize("kind", HOSTILE_KINDS)
async def test_a_hostile_value_harms_no_other_event_and_balances(kind, caplog, capsys):
    collector = InMemoryAnalyticsCollector()
    for place in PLACES:
        assert collector.record_nowait(plain_event(flag_key=f"before {place}"))
        assert collector.record_nowait(hostile_event(place, HOSTILE_KINDS[kind](), provider_name="hostile"))
        await collector.record(plain_event(flag_key=f"after {place}"))
    stats = collector.stats()
    assert stats.accepted == stats.stored == 3 * len(PLACES)
    assert not stats.refused
    stored = {event.flag_key for event in await collector.get_events()}
    assert {f"{when} {place}" for when in ("before", "after") for place in PLACES} <= stored
    report = await collector.close()
    assert report
    assert (report.stored, report.pending, dict(report.dropped)) == (3 * len(PLACES), 0, {})
    assert CANARY not in caplog.text
    assert CANARY not in "".join(capsys.readouterr())


@pytest.mark.parametrize("kind", sorted(HOSTILE_KINDS.keys() - {"a generator", "a table that another thread changes"}))
async def test_memory_keeps_the_canonical_form_that_every_backend_stores(kind):
    for place in PLACES:
        if place in {"event_id", "timestamp"}:
            continue  # made anew at each freezing, where it is none
        event = hostile_event(place, HOSTILE_KINDS[kind]())
        collector = InMemoryAnalyticsCollector()
        collector.record_nowait(event)
        (stored,) = await collector.get_events()
        expected = Freezer().freeze(event).thaw()
        assert repr(stored.to_dict()) == repr(expected.to_dict()), place
