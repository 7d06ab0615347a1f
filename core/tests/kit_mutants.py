"""A good collector and broken ones, each wrong in one way; ``test_kit`` runs the kit on them in a process of their own.

``MUTANTS`` names, for each broken one, the tests of the contract that must notice.
"""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections import Counter
from typing import Any

import pytest
from flag_analytics.freezer import Freezer
from flag_analytics.frozen import FrozenEvent
from flag_analytics.protocols import Batch
from flag_analytics.testing import CollectorContract, ExporterContract, RecordingSink


class Good:
    """Keeps events in memory, does everything right, and lets its heirs do one thing wrong."""

    def __init__(self) -> None:
        self.freezer = Freezer()
        self.events: list[FrozenEvent] = []
        self.closed = False
        self.lock = threading.Lock()
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self.after_fork)

    def after_fork(self) -> None:
        self.lock = threading.Lock()
        self.events = []

    async def record(self, event: Any) -> None:
        frozen = self.freezer.freeze(event)
        with self.lock:
            if not self.closed:
                self.events.append(frozen)

    async def flush(self) -> None:
        pass

    async def close(self) -> None:
        self.closed = True

    async def get_events(self) -> list[Any]:
        return [event.thaw() for event in self.events]


class Contract(CollectorContract):
    """The contract, with less patience than a plugin author needs."""

    patience_seconds = 3.0
    fork_deadline_seconds = 3.0
    forks = 1


class TestGood(Contract):
    @pytest.fixture
    def collector(self) -> Any:
        return Good()


class TestDropsNone(Contract):
    class Collector(Good):
        async def record(self, event: Any) -> None:
            if event.value is not None:
                await super().record(event)

    @pytest.fixture
    def collector(self) -> Any:
        return self.Collector()


class TestReversesOrder(Contract):
    class Collector(Good):
        async def get_events(self) -> list[Any]:
            return [event.thaw() for event in reversed(self.events)]

    @pytest.fixture
    def collector(self) -> Any:
        return self.Collector()


class Buffering(Good):
    """Keeps what is new apart until it is flushed."""

    def __init__(self) -> None:
        super().__init__()
        self.buffer: list[FrozenEvent] = []

    async def record(self, event: Any) -> None:
        frozen = self.freezer.freeze(event)
        with self.lock:
            if not self.closed:
                self.buffer.append(frozen)

    async def flush(self) -> None:
        with self.lock:
            taken, self.buffer = self.buffer, []
            self.events += taken

    async def close(self) -> None:
        await self.flush()
        self.closed = True

    def after_fork(self) -> None:
        super().after_fork()
        self.buffer = []


class TestGoodBuffering(Contract):
    @pytest.fixture
    def collector(self) -> Any:
        return Buffering()


class TestLosesOnClose(Contract):
    class Collector(Buffering):
        async def close(self) -> None:
            self.closed = True
            self.buffer.clear()

    @pytest.fixture
    def collector(self) -> Any:
        return self.Collector()


class TestSwallowsFlush(Contract):
    class Collector(Buffering):
        async def flush(self) -> None:
            asyncio.get_running_loop().call_later(0.05, self.store)

        def store(self) -> None:
            self.events += self.buffer
            self.buffer.clear()

    @pytest.fixture
    def collector(self) -> Any:
        return self.Collector()


class TestBlocksTheLoop(Contract):
    max_stall_seconds = 0.05

    class Collector(Good):
        async def flush(self) -> None:
            time.sleep(0.12)  # noqa: ASYNC251 - that is what is wrong with it

    @pytest.fixture
    def collector(self) -> Any:
        return self.Collector()


class TestNotThreadSafe(Contract):
    class Collector(Good):
        async def record(self, event: Any) -> None:
            if not self.closed:
                before = self.events
                time.sleep(0)  # noqa: ASYNC251 - as any I/O would, this lets another thread in
                self.events = [*before, self.freezer.freeze(event)]

    @pytest.fixture
    def collector(self) -> Any:
        return self.Collector()


class TestDuplicates(Contract):
    class Collector(Good):
        async def record(self, event: Any) -> None:
            await super().record(event)
            if len(self.events) % 50 == 7:
                await super().record(event)

    @pytest.fixture
    def collector(self) -> Any:
        return self.Collector()


class TestSendsAgain(Contract):
    """Sends the last batch again at each flush, though no answer was lost."""

    class Collector(Buffering):
        def __init__(self) -> None:
            super().__init__()
            self.last: list[FrozenEvent] = []

        async def flush(self) -> None:
            with self.lock:
                taken, self.buffer = self.buffer, []
                self.events += [*self.last, *taken]
                self.last = taken

    @pytest.fixture
    def collector(self) -> Any:
        return self.Collector()


class TestKeepsReferences(Contract):
    class Collector(Good):
        async def record(self, event: Any) -> None:
            self.freezer.freeze(event)
            if not self.closed:
                self.events.append(event)

        async def get_events(self) -> list[Any]:
            return [self.freezer.freeze(event).thaw() for event in self.events]

    @pytest.fixture
    def collector(self) -> Any:
        return self.Collector()


class TestRaisesAfterClose(Contract):
    class Collector(Good):
        async def record(self, event: Any) -> None:
            if self.closed:
                raise RuntimeError("closed")
            await super().record(event)

    @pytest.fixture
    def collector(self) -> Any:
        return self.Collector()


class TestStoresAfterClose(Contract):
    class Collector(Good):
        async def close(self) -> None:
            pass

    @pytest.fixture
    def collector(self) -> Any:
        return self.Collector()


class TestClosesOnlyOnce(Contract):
    class Collector(Good):
        async def close(self) -> None:
            if self.closed:
                raise RuntimeError("closed already")
            self.closed = True

    @pytest.fixture
    def collector(self) -> Any:
        return self.Collector()


class TestDeadlocksAfterFork(Contract):
    fork_deadline_seconds = 0.5
    forks = 3

    class Collector(Good):
        async def record(self, event: Any) -> None:
            with self.lock:
                time.sleep(0.0005)  # noqa: ASYNC251 - long enough for a fork to come in between
                if not self.closed:
                    self.events.append(self.freezer.freeze(event))

        def after_fork(self) -> None:
            self.events = []

    @pytest.fixture
    def collector(self) -> Any:
        return self.Collector()


class TestAliasesVariants(Contract):
    class Collector(Good):
        async def get_events(self) -> list[Any]:
            return [{**event.to_dict(), "variant": event.variant or "default"} for event in self.events]

    @pytest.fixture
    def collector(self) -> Any:
        return self.Collector()


class TestFoldsCase(Contract):
    class Collector(Good):
        async def get_events(self) -> list[Any]:
            return [{**event.to_dict(), "flag_key": event.flag_key.lower()} for event in self.events]

    @pytest.fixture
    def collector(self) -> Any:
        return self.Collector()


class TestTurnsValuesIntoText(Contract):
    class Collector(Good):
        async def get_events(self) -> list[Any]:
            return [{**event.to_dict(), "value": str(event.value)} for event in self.events]

    @pytest.fixture
    def collector(self) -> Any:
        return self.Collector()


class TestTakesOneForTrue(Contract):
    class Collector(Good):
        async def get_events(self) -> list[Any]:
            return [{**event.to_dict(), "value": True if event.value == 1 else event.value} for event in self.events]

    @pytest.fixture
    def collector(self) -> Any:
        return self.Collector()


class TestLosesMicroseconds(Contract):
    class Collector(Good):
        async def get_events(self) -> list[Any]:
            return [
                {**event.to_dict(), "timestamp": event.timestamp.replace(microsecond=0).isoformat()}
                for event in self.events
            ]

    @pytest.fixture
    def collector(self) -> Any:
        return self.Collector()


class TestBelongsToOneLoop(Contract):
    class Collector(Good):
        def __init__(self) -> None:
            super().__init__()
            self.loop: asyncio.AbstractEventLoop | None = None

        async def record(self, event: Any) -> None:
            self.loop = self.loop or asyncio.get_running_loop()
            done = self.loop.create_future()
            self.loop.call_soon(done.set_result, None)
            await done
            await super().record(event)

    @pytest.fixture
    def collector(self) -> Any:
        return self.Collector()


class TestRaisesForHostileEvents(Contract):
    class Collector(Good):
        async def record(self, event: Any) -> None:
            assert str(event.value) is not None
            await super().record(event)

    @pytest.fixture
    def collector(self) -> Any:
        return self.Collector()


class TestForgetsFields(Contract):
    class Collector(Good):
        async def get_events(self) -> list[Any]:
            return [{**event.to_dict(), "provider_name": None} for event in self.events]

    @pytest.fixture
    def collector(self) -> Any:
        return self.Collector()


class TestHandsOutItsOwn(Contract):
    class Collector(Good):
        async def record(self, event: Any) -> None:
            frozen = self.freezer.freeze(event).thaw()
            with self.lock:
                if not self.closed:
                    self.events.append(frozen)  # type: ignore[arg-type]

        async def get_events(self) -> list[Any]:
            return self.events[:]

    @pytest.fixture
    def collector(self) -> Any:
        return self.Collector()


class TestClaimsToBeIdempotent(Contract):
    idempotent = True

    @pytest.fixture
    def collector(self) -> Any:
        return Good()


class TestInheritsTheBuffer(Contract):
    """Its forked children send what the parent has not sent yet, to a store that both share."""

    forks = 3

    class Collector(Buffering):
        def __init__(self) -> None:
            self.read, self.write_end = os.pipe()
            os.set_blocking(self.read, False)
            self.lines = b""
            super().__init__()

        def after_fork(self) -> None:
            self.lock = threading.Lock()

        async def flush(self) -> None:
            with self.lock:
                taken, self.buffer = self.buffer, []
                if not taken or self.closed:
                    return
                os.write(self.write_end, b"".join(event.flag_key.encode() + b"\n" for event in taken))

        async def get_events(self) -> list[Any]:
            try:
                self.lines += os.read(self.read, 2**20)
            except BlockingIOError:
                pass
            keys = self.lines.decode().split()
            return [{"flag_key": key, "timestamp": "2026-01-31", "value": 0, "reason": "SPLIT"} for key in keys]

    @pytest.fixture
    def collector(self) -> Any:
        return self.Collector()


class TestOverridesATest(Contract):
    async def test_closing_loses_nothing(self, subject: Any) -> None:
        pass

    @pytest.fixture
    def collector(self) -> Any:
        return Good()


class TestOverridesATestWithAReason(Contract):
    @pytest.mark.xfail(reason="shown to whoever reads the results")
    async def test_closing_loses_nothing(self, subject: Any) -> None:
        raise AssertionError

    @pytest.fixture
    def collector(self) -> Any:
        return Good()


class TestGoodSink(Contract):
    idempotent = True

    @pytest.fixture
    def collector(self) -> Any:
        return RecordingSink()

    async def stored(self, collector: Any) -> list[Any]:
        return list(collector.stored.values())


class TestSinkThatStoresHalf(TestGoodSink):
    class Sink(RecordingSink):
        async def write(self, batch: Batch) -> None:
            await super().write(Batch(batch.id, batch.events[: max(1, len(batch) // 2)]))

    @pytest.fixture
    def collector(self) -> Any:
        return self.Sink()


class CountingExporter(Good):
    """Tells a monitoring system, a counter, of each event."""

    def __init__(self) -> None:
        super().__init__()
        self.told: Counter[str] = Counter()

    async def record(self, event: Any) -> None:
        key = self.freezer.freeze(event).flag_key
        with self.lock:
            if not self.closed:
                self.told[key] += 1

    def after_fork(self) -> None:
        super().after_fork()
        self.told = Counter()


class ExporterKit(ExporterContract):
    forks = 1

    @pytest.fixture
    def exporter(self) -> Any:
        return CountingExporter()

    async def exported(self, exporter: Any) -> Counter[str]:
        return Counter(exporter.told)


class TestGoodExporter(ExporterKit):
    pass


class TestExporterThatDropsErrors(ExporterKit):
    class Exporter(CountingExporter):
        async def record(self, event: Any) -> None:
            if event.reason != "ERROR":
                await super().record(event)

    @pytest.fixture
    def exporter(self) -> Any:
        return self.Exporter()


class TestExporterThatCountsTwiceAcrossFlushes(ExporterKit):
    class Exporter(CountingExporter):
        async def flush(self) -> None:
            self.told.update(dict.fromkeys(self.told, 1))

    @pytest.fixture
    def exporter(self) -> Any:
        return self.Exporter()


GOOD = ("TestGood", "TestGoodBuffering", "TestGoodSink", "TestGoodExporter", "TestOverridesATestWithAReason")

MUTANTS = {
    "TestDropsNone": "none_and_falsy",
    "TestReversesOrder": "in_order",
    "TestLosesOnClose": "closing_loses_nothing",
    "TestSwallowsFlush": "known_after_a_flush",
    "TestBlocksTheLoop": "never_blocked",
    "TestNotThreadSafe": "many_threads",
    "TestDuplicates": "all_and_only",
    "TestSendsAgain": "flush_repeats_nothing",
    "TestKeepsReferences": "changed_after_recording",
    "TestRaisesAfterClose": "after_close_neither_raises",
    "TestStoresAfterClose": "after_close_neither_raises",
    "TestClosesOnlyOnce": "closing_again",
    "TestDeadlocksAfterFork": "forked_child",
    "TestAliasesVariants": "stay_apart",
    "TestFoldsCase": "stay_apart",
    "TestTurnsValuesIntoText": "none_and_falsy",
    "TestTakesOneForTrue": "none_and_falsy",
    "TestLosesMicroseconds": "microseconds",
    "TestBelongsToOneLoop": "many_event_loops",
    "TestRaisesForHostileEvents": "hostile_events",
    "TestForgetsFields": "every_field",
    "TestHandsOutItsOwn": "what_was_read",
    "TestClaimsToBeIdempotent": "comes_twice",
    "TestInheritsTheBuffer": "forked_child",
    "TestOverridesATest": "no_test_of_the_contract_is_overridden",
    "TestSinkThatStoresHalf": "order_holds_over_many_batches",
    "TestExporterThatDropsErrors": "differ_in_every_way",
    "TestExporterThatCountsTwiceAcrossFlushes": "flush_repeats_nothing",
}
