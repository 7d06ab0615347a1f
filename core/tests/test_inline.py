"""Sinks that take each event at once, alone and beside the delivery engine."""

from __future__ import annotations

import asyncio

from flag_analytics.errors import SinkUnavailable
from flag_analytics.fanout import Fanout
from flag_analytics.inline import InlineSinks
from flag_analytics.protocols import RecordResult
from flag_analytics.reports import DeliveryOptions
from flag_analytics.testing.faults import ScriptedSink
from flag_analytics.testing.samples import plain_event, plain_events
from flag_analytics_delivery import Delivery


class Inline:
    def __init__(self, result=RecordResult.ACCEPTED, *, fail=False):
        self.result, self.fail, self.events, self.closed = result, fail, [], 0

    def record_nowait(self, event):
        self.events.append(event)
        if isinstance(self.result, BaseException):
            raise self.result
        return self.result

    async def flush(self):
        if self.fail:
            raise RuntimeError

    async def close(self):
        self.closed += 1
        if self.fail:
            raise RuntimeError


def fan_out(inline, batch=None, **options):
    engine = Delivery(batch, DeliveryOptions(**options)) if batch else None
    return Fanout([*(batch or {}), *inline], InlineSinks(inline), engine, close_timeout_seconds=1.0)


def test_an_event_that_only_an_inline_sink_took_is_accepted():
    stuck, inline = ScriptedSink(always=SinkUnavailable()), Inline()
    sinks = fan_out({"inline": inline}, {"stuck": stuck}, max_events=1, retry_initial_seconds=30.0)
    for event in plain_events(3):
        assert sinks.record_nowait(event)
    stats = sinks.stats()
    assert (stats.recorded, stats.accepted, sum(stats.refused.values())) == (3, 3, 0)
    assert stats.balanced()
    assert len(inline.events) == 3
    sinks.close_sync(0.0)


async def test_an_inline_sink_that_raises_in_flush_and_close_does_not_keep_others_from_theirs():
    bad, good = Inline(fail=True), Inline()
    sinks = fan_out({"bad": bad, "good": good})
    sinks.record_nowait(plain_event())
    assert not await sinks.flush()
    assert await sinks.close()
    assert (bad.closed, good.closed) == (1, 1)
    assert sinks.close_sync()
    assert (bad.closed, good.closed) == (1, 1)


def test_what_each_inline_sink_refuses_is_counted_for_it_and_for_all():
    full, broken, good = Inline(RecordResult.OVERFLOW), Inline(ValueError()), Inline()
    sinks = fan_out({"full": full, "broken": broken, "good": good})
    assert sinks.record_nowait(plain_event())
    alone = fan_out({"full": full, "broken": broken})
    assert alone.record_nowait(plain_event()) is RecordResult.OVERFLOW
    ledgers = sinks.stats().sinks
    assert ledgers["full"].dropped == {"overflow": 1}
    assert ledgers["broken"].dropped == {"error": 1}
    assert ledgers["good"].delivered == 1
    assert (alone.stats().accepted, alone.stats().refused) == (0, {"overflow": 1})
    for one in (sinks, alone):
        assert one.stats().balanced()
        one.close_sync()
        assert one.record_nowait(plain_event()) is RecordResult.CLOSED
        assert one.stats().balanced()


def test_the_synchronous_close_of_a_collector_is_the_one_that_is_called():
    class Both(Inline):
        def close_sync(self):
            self.closed += 10

    both = Both()
    fan_out({"both": both}).close_sync()
    assert both.closed == 10
    asyncio.run(fan_out({"both": both}).close())
    assert both.closed == 11
