"""Clocks that step, and times that make no sense: ids stay unique, intervals do not notice, events are flagged."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta

import pytest
from flag_analytics.errors import SinkUnavailable
from flag_analytics.reports import DeliveryOptions
from flag_analytics.testing.faults import ScriptedSink
from flag_analytics.testing.samples import plain_event
from flag_analytics_delivery import Delivery


@pytest.mark.parametrize("step", [-3_600.0, 3_600.0, -400 * 86_400.0])
def test_a_wall_clock_that_steps_changes_no_interval_and_no_id(monkeypatch, step):
    sink = ScriptedSink([SinkUnavailable()])
    delivery = Delivery({"sink": sink}, DeliveryOptions(flush_interval_seconds=0.02, retry_initial_seconds=0.02))
    real = time.time
    shift = 0.0
    monkeypatch.setattr(time, "time", lambda: real() + shift)
    for number in range(100):
        if number == 50:
            shift = step
        delivery.record_nowait(plain_event(number))
    assert delivery.flush_sync(5.0)
    assert len(sink.stored) == 100
    stats = delivery.stats().sinks["sink"]
    assert stats.backlog_age_seconds is None
    delivery.close_sync()


@pytest.mark.parametrize(
    ("moment", "kind"),
    [
        (datetime.now(UTC).replace(tzinfo=None), "naive_timestamp"),
        (datetime.now(UTC) - timedelta(days=365), "clock_skew"),
        (datetime.now(UTC) + timedelta(days=365), "clock_skew"),
        ("2016-12-31T23:59:60Z", "timestamp"),
        ("yesterday", "timestamp"),
        (None, "timestamp"),
    ],
)
def test_a_time_that_is_off_is_stored_and_flagged(moment, kind):
    sink = ScriptedSink()
    delivery = Delivery({"sink": sink})
    assert delivery.record_nowait(plain_event(timestamp=moment))
    assert delivery.flush_sync(5.0)
    assert delivery.stats().sanitised[kind] == 1
    (event,) = sink.stored.values()
    assert event.timestamp.tzinfo is UTC
    delivery.close_sync()


def test_the_age_of_the_backlog_is_never_negative(monkeypatch):
    sink = ScriptedSink(always=SinkUnavailable())
    delivery = Delivery({"sink": sink})
    delivery.record_nowait(plain_event())
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() - 3_600)
    assert delivery.stats().sinks["sink"].backlog_age_seconds == 0.0
    delivery.close_sync(0.0)
