"""Whose word counts when a sink has wishes and its user has settings."""

from __future__ import annotations

from flag_analytics.reports import DeliveryOptions
from flag_analytics.testing.faults import ScriptedSink
from flag_analytics.testing.samples import plain_events
from flag_analytics_delivery import Delivery


class InTens(ScriptedSink):
    delivery = DeliveryOptions(batch_size=10, flush_interval_seconds=60.0)


def largest_batch(sink, **arguments):
    delivery = Delivery({"sink": sink}, **arguments)
    for event in plain_events(40):
        delivery.record_nowait(event)
    assert delivery.close_sync().complete
    return max(len(batch) for batch in sink.writes)


def test_a_sinks_wish_holds_where_nobody_says_otherwise():
    assert largest_batch(InTens()) == 10


def test_options_given_to_a_delivery_go_above_a_sinks_wish():
    assert largest_batch(InTens(), options=DeliveryOptions(batch_size=20, flush_interval_seconds=60.0)) == 20


def test_options_given_for_one_sink_go_above_all_others():
    own = {"sink": DeliveryOptions(batch_size=5, flush_interval_seconds=60.0)}
    assert largest_batch(InTens(), options=DeliveryOptions(batch_size=20), sink_options=own) == 5
