"""Sinks that take each event at once, alone and beside the delivery engine."""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
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


@pytest.mark.parametrize("method", ["flush", "close"])
async def test_inline_sinks_share_one_deadline(method):
    class Hanging(Inline):
        async def flush(self):
            await asyncio.sleep(60.0)

        close = flush

    sinks = fan_out({f"sink-{number}": Hanging() for number in range(4)})
    started = time.monotonic()
    await getattr(sinks, method)(0.3)
    assert time.monotonic() - started < 1.1  # four deadlines one after the other would be 1.2


async def test_a_close_that_was_cancelled_leaves_inline_sinks_to_the_next_one():
    class Slow(Inline):
        patient = True

        async def close(self):
            if self.patient:
                await asyncio.sleep(60.0)
            self.closed += 1

    sink = Slow()
    sinks = fan_out({"sink": sink})
    closing = asyncio.ensure_future(sinks.close(30.0))
    for _ in range(5):
        await asyncio.sleep(0)
    closing.cancel()
    await asyncio.wait({closing})
    sink.patient = False
    await sinks.close()
    assert sink.closed == 1


@pytest.mark.parametrize("error", [SystemExit(), KeyboardInterrupt()])
def test_an_inline_sink_that_ends_the_process_counts_and_keeps_nothing_from_the_others(error):
    ends, other = Inline(error), Inline()
    sinks = fan_out({"ends": ends, "other": other})
    with pytest.raises(type(error)):
        sinks.record_nowait(plain_event())
    stats = sinks.stats()
    assert len(other.events) == stats.sinks["other"].delivered == 1
    assert stats.sinks["ends"].dropped == {"error": 1}
    assert stats.balanced()


async def test_ten_closes_at_once_close_an_inline_sink_once():
    class ClosesSlowly(Inline):
        async def close(self):
            self.closed += 1
            await asyncio.sleep(0)

    sink = ClosesSlowly()
    sinks = fan_out({"sink": sink})
    await asyncio.gather(*(sinks.close() for _ in range(10)))
    assert sink.closed == 1


def test_closes_from_many_threads_share_the_inline_sinks():
    for _ in range(100):
        inline = {f"sink-{number}": Inline() for number in range(3)}
        sinks = fan_out(inline)
        with ThreadPoolExecutor(4) as threads:
            for done in [threads.submit(sinks.close_sync) for _ in range(4)]:
                assert done.result(10.0)
        assert [sink.closed for sink in inline.values()] == [1, 1, 1]
