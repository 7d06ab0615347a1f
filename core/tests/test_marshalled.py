"""Questions to a sink's source are awaited in the sink's own loop, unless it says that it may be asked from any."""

from __future__ import annotations

import asyncio
import sys
import threading
from functools import partial

import pytest
from flag_analytics import AnalyticsAggregator, SinkUnavailable
from flag_analytics.marshalled import MarshalledSource, marshalled
from flag_analytics.metrics import EventsSource
from flag_analytics.testing import plain_event
from flag_analytics_delivery import Delivery

pytestmark = pytest.mark.timeout(30)


class OneClient(EventsSource):
    """A sink and a source over one client, which belongs to the loop in which it was used first."""

    any_loop = False

    def __init__(self) -> None:
        super().__init__(lambda: self.stored)
        self.stored: list = []
        self.loop: asyncio.AbstractEventLoop | None = None
        self.threads: set[str] = set()
        self.waits: asyncio.Event | None = None

    def _use_client(self) -> None:
        loop = asyncio.get_running_loop()
        self.loop = self.loop or loop
        self.threads.add(threading.current_thread().name)
        if self.loop is not loop:
            raise RuntimeError("attached to a different loop")

    async def write(self, batch) -> None:
        self._use_client()
        self.stored.extend(batch)

    async def list_flags(self, window, **options):
        self._use_client()
        if self.waits is not None:
            await self.waits.wait()
        return await super().list_flags(window, **options)

    async def count_future(self, now):
        self._use_client()
        raise ValueError("the source's own")


@pytest.fixture
def opened():
    sink = OneClient()
    delivery = Delivery({"sink": sink})
    yield sink, delivery, marshalled(sink, partial(delivery.ask, "sink"))
    delivery.close_sync()


async def test_the_callers_loop_is_not_the_clients(opened):
    sink, delivery, source = opened
    delivery.record_nowait(plain_event())
    assert await delivery.flush()
    with pytest.raises(RuntimeError, match="different loop"):
        await sink.list_flags(None)
    aggregator = AnalyticsAggregator(source)
    assert [flag.flag_key for flag in await aggregator.list_flags(None)] == ["flag-0"]
    assert len(sink.threads - {threading.current_thread().name}) == 1


def test_every_loop_may_ask_at_once(opened):
    _, delivery, source = opened
    delivery.record_nowait(plain_event())
    delivery.flush_sync()
    found = []

    def ask() -> None:
        found.append(len(asyncio.run(AnalyticsAggregator(source).list_flags(None))))

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10.0)
    assert found == [1] * 8


async def test_a_question_that_comes_before_the_first_event_starts_the_sinks_loop(opened):
    _, _, source = opened
    assert await AnalyticsAggregator(source).list_flags(None) == []


async def test_an_answer_that_is_an_exception_comes_as_it_is(opened):
    _, _, source = opened
    with pytest.raises(ValueError, match="the source's own"):
        await AnalyticsAggregator(source).count_future()


async def test_a_question_that_is_given_up_does_no_harm(opened):
    sink, delivery, source = opened
    sink.waits = asyncio.Event()
    asking = asyncio.ensure_future(AnalyticsAggregator(source).list_flags(None))
    await asyncio.sleep(0.05)
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    sink.waits = None
    delivery.record_nowait(plain_event())
    assert await delivery.flush()
    assert len(await AnalyticsAggregator(source).list_flags(None)) == 1


async def test_a_question_that_is_open_at_the_end_is_told_so(opened):
    sink, delivery, source = opened
    assert await AnalyticsAggregator(source).list_flags(None) == []
    sink.waits = asyncio.Event()
    asking = asyncio.ensure_future(AnalyticsAggregator(source).list_flags(None))
    await asyncio.sleep(0.05)
    await delivery.close(1.0)
    with pytest.raises(SinkUnavailable):
        await asking


async def test_after_the_end_the_source_is_asked_where_the_caller_is(opened):
    sink, delivery, source = opened
    await delivery.close()
    sink.loop = None
    assert await AnalyticsAggregator(source).list_flags(None) == []


def test_a_source_that_may_be_asked_from_any_loop_is_left_as_it_is():
    source = EventsSource(list)
    assert marshalled(source, lambda _: None) is source
    assert isinstance(marshalled(OneClient(), lambda _: None), MarshalledSource)


async def test_a_pipeline_asks_in_the_sinks_loop(pipeline, tmp_path):
    path = tmp_path / "one_client.py"
    path.write_text(
        "import attrs, sys\n"
        "from flag_analytics import Backend, hookimpl\n"
        "@attrs.frozen\nclass Options: pass\n"
        "@hookimpl\n"
        "def flag_analytics_register_collectors():\n"
        "    return [Backend('one_client', Options, lambda _: sys.modules['one_client_for_tests'].OneClient())]\n",
        "utf-8",
    )
    sys.modules["one_client_for_tests"] = sys.modules[__name__]
    try:
        opened = pipeline({"plugins": [str(path)], "collectors": {"one_client": {}}})
        opened.record_nowait(plain_event())
        assert await opened.flush()
        assert len(await opened.aggregator.list_flags(None)) == 1
        assert len(await opened.aggregator_of("one_client").list_flags(None)) == 1
    finally:
        del sys.modules["one_client_for_tests"]
