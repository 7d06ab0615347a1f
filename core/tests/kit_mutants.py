"""Good backends of every kind and broken ones, each wrong in one way.

``test_kit`` runs the kit on them. Each broken one is a class of tests whose decorator ``broken`` names the test that
must notice, and a pattern of what it must say.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import re
import socket
import sqlite3
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec
import pytest
from flag_analytics.errors import BadBatch, SinkUnavailable
from flag_analytics.events import FlagEvaluationEvent, new_event_id
from flag_analytics.freezer import Freezer
from flag_analytics.frozen import FrozenEvent
from flag_analytics.metrics import EventsSource
from flag_analytics.protocols import Batch, RecordResult
from flag_analytics.sources import EventFilter, FlagSummary, Window
from flag_analytics.testing import (
    CollectorContract,
    EventSourceContract,
    ExporterContract,
    ProcessorContract,
    RecordingSink,
)
from flag_analytics.testing.faults import FaultProxy, TcpSink, TcpStore

logger = logging.getLogger("kit.mutants")

BROKEN: dict[str, tuple[str, str]] = {}
"""By the name of its class of tests: the test that must notice, and a pattern of what it must say."""


def broken(test: str, says: str = "") -> Callable[[type], type]:
    def note(cls: type) -> type:
        BROKEN[cls.__name__] = (test, says)
        return cls

    return note


EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


# -- sinks that write to a file, one line for each event --------------------------------------------------------------


class FileSink:
    """Appends to a file; stores an event twice that comes twice."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def fields(self, event: FrozenEvent) -> dict[str, Any]:
        return event.to_dict()

    def lines(self, batch: Iterable[FrozenEvent]) -> list[str]:
        return [json.dumps(self.fields(event)) + "\n" for event in batch]

    def append(self, lines: Sequence[str]) -> None:
        with self.path.open("a", encoding="utf-8") as file:
            file.write("".join(lines))

    async def write(self, batch: Batch) -> None:
        self.append(self.lines(batch))

    async def close(self) -> None:
        pass

    def load(self, line: str) -> dict[str, Any]:
        return json.loads(line)

    def read(self) -> list[dict[str, Any]]:
        return [self.load(line) for line in self.path.read_text("utf-8").splitlines()] if self.path.exists() else []


class FileKit(CollectorContract):
    sink: Callable[[Path], Any] = FileSink
    forks = 1

    @pytest.fixture
    def collector(self, tmp_path: Path) -> Any:
        return type(self).sink(tmp_path / "events.jsonl")

    async def stored(self, collector: Any) -> list[Any]:
        return collector.read()


class TestGoodFile(FileKit):
    pass


@broken("closing_loses_nothing")
class TestFileThatLosesItsBufferOnClose(FileKit):
    class sink(FileSink):  # noqa: N801 - it stands in for a function
        buffer: tuple[str, ...] = ()

        def append(self, lines: Sequence[str]) -> None:
            self.buffer = (*self.buffer, *lines)
            if len(self.buffer) > 100:
                super().append(self.buffer)
                self.buffer = ()


@broken("acknowledged_outlives", "acknowledged, and not stored")
class TestFileThatIsWrittenByATaskOfItsOwn(FileKit):
    class sink(FileSink):  # noqa: N801
        tasks: tuple[asyncio.Task[None], ...] = ()

        async def write(self, batch: Batch) -> None:
            self.tasks = (*self.tasks, asyncio.create_task(super().write(batch)))

        async def close(self) -> None:
            await asyncio.gather(*self.tasks, return_exceptions=True)


@broken("acknowledged_outlives", "acknowledged, and not stored")
class TestFileThatIsWrittenByAThread(FileKit):
    class sink(FileSink):  # noqa: N801
        async def write(self, batch: Batch) -> None:
            lines = self.lines(batch)
            threading.Timer(0.02, lambda: self.append(lines)).start()

        def read(self) -> list[dict[str, Any]]:
            time.sleep(0.1)
            return super().read()


@broken("acknowledged_outlives", "acknowledged, and not stored")
class TestFileThatIsNeverFlushed(FileKit):
    class sink(FileSink):  # noqa: N801
        file: Any = None

        def append(self, lines: Sequence[str]) -> None:
            self.file = self.file or self.path.open("a", encoding="utf-8", buffering=2**24)
            self.file.write("".join(lines))

        def read(self) -> list[dict[str, Any]]:
            if self.file is not None:
                self.file.flush()
            return super().read()

        async def close(self) -> None:
            if self.file is not None:
                self.file.close()
                self.file = None


@broken("second_backend_writes_again")
class TestFileThatRemembersIdsInMemory(FileKit):
    idempotent = True

    class sink(FileSink):  # noqa: N801
        def __init__(self, path: Path) -> None:
            super().__init__(path)
            self.seen: set[str] = set()

        def lines(self, batch: Iterable[FrozenEvent]) -> list[str]:
            new = {event.event_id: event for event in batch if event.event_id not in self.seen}
            self.seen |= new.keys()
            return super().lines(new.values())


@broken("second_backend_writes_again")
class TestFileThatRemembersTheLastBatchInMemory(FileKit):
    idempotent = True

    class sink(FileSink):  # noqa: N801
        last: frozenset[str] = frozenset()

        def lines(self, batch: Iterable[FrozenEvent]) -> list[str]:
            new = {event.event_id: event for event in batch if event.event_id not in self.last}
            self.last = self.last | new.keys()
            return super().lines(new.values())


@broken("failure_of_the_system", "while it was not")
class TestFileThatSwallowsErrors(FileKit):
    class sink(FileSink):  # noqa: N801
        async def write(self, batch: Batch) -> None:
            with contextlib.suppress(Exception):
                await super().write(batch)


@broken("failure_of_the_system", "while it was not")
class TestFileThatLogsErrorsAndGoesOn(FileKit):
    class sink(FileSink):  # noqa: N801
        async def write(self, batch: Batch) -> None:
            try:
                await super().write(batch)
            except OSError as error:
                logger.warning("a batch was not written (%s)", type(error).__name__)


@broken("cannot_be_read", "left out an event")
class TestFileThatSkipsWhatItCannotRead(FileKit):
    class sink(FileSink):  # noqa: N801
        def lines(self, batch: Iterable[FrozenEvent]) -> list[str]:
            lines = []
            for event in batch:
                with contextlib.suppress(Exception):
                    lines += super().lines([event])
            return lines


class ThreadedFileSink(FileSink):
    """Writes in a thread, so that a write waits for something."""

    async def write(self, batch: Batch) -> None:
        await asyncio.to_thread(self.append, self.lines(batch))


@broken("cancelled_ends_as_cancelled", "returned as if nothing had happened")
class TestFileThatSwallowsCancellation(FileKit):
    class sink(ThreadedFileSink):  # noqa: N801
        async def write(self, batch: Batch) -> None:
            with contextlib.suppress(asyncio.CancelledError):
                await super().write(batch)


@broken("cancelled_ends_as_cancelled", "raised SinkUnavailable")
class TestFileThatTurnsCancellationIntoAnError(FileKit):
    class sink(ThreadedFileSink):  # noqa: N801
        async def write(self, batch: Batch) -> None:
            try:
                await super().write(batch)
            except asyncio.CancelledError:
                raise SinkUnavailable("interrupted") from None


@broken("cancelled_ends_as_cancelled", "does not end")
class TestFileThatResistsCancellation(FileKit):
    class sink(ThreadedFileSink):  # noqa: N801
        async def write(self, batch: Batch) -> None:
            try:
                await super().write(batch)
            except asyncio.CancelledError:
                for _ in range(100):
                    with contextlib.suppress(asyncio.CancelledError):
                        await asyncio.sleep(0.1)


@broken("failure_of_the_system", "bad content")
class TestFileThatBlamesTheContent(FileKit):
    class sink(FileSink):  # noqa: N801
        async def write(self, batch: Batch) -> None:
            try:
                await super().write(batch)
            except Exception as error:
                raise BadBatch(code=type(error).__name__) from None


@broken("failure_of_the_system", "while it was not")
class TestFileThatGivesUpAfterThreeFailures(FileKit):
    class sink(FileSink):  # noqa: N801
        failures = 0

        async def write(self, batch: Batch) -> None:
            try:
                await super().write(batch)
            except OSError:
                self.failures += 1
                if self.failures < 3:
                    raise


@broken("failure_of_the_system", "did not recover")
class TestFileThatStaysBroken(FileKit):
    class sink(FileSink):  # noqa: N801
        failures = 0

        async def write(self, batch: Batch) -> None:
            if self.failures > 5:
                raise SinkUnavailable("it failed too often")
            try:
                await super().write(batch)
            except OSError:
                self.failures += 1
                raise


@broken("neither_sleeps", "calls time.sleep")
class TestFileThatSleeps(FileKit):
    class sink(FileSink):  # noqa: N801
        async def write(self, batch: Batch) -> None:
            time.sleep(0.01)  # noqa: ASYNC251 - that is what is wrong with it
            await super().write(batch)


@broken("lets_other_tasks_go_on", "stood still|did not end within")
class TestFileThatIsBusy(FileKit):
    class sink(FileSink):  # noqa: N801
        async def write(self, batch: Batch) -> None:
            ends = time.thread_time() + 0.4
            while time.thread_time() < ends:
                pass
            await super().write(batch)


@broken("no_longer_than_its_work", "each write of one event takes|did not end within")
class TestFileThatIsSlow(FileKit):
    class sink(FileSink):  # noqa: N801
        async def write(self, batch: Batch) -> None:
            await asyncio.sleep(1.1)
            await super().write(batch)


@broken("changes_nothing_of_the_events", "changed its events")
class TestFileThatChangesItsEvents(FileKit):
    class sink(FileSink):  # noqa: N801
        async def write(self, batch: Batch) -> None:
            await super().write(batch)
            for event in batch:
                msgspec.structs.force_setattr(event, "variant", (event.variant or "").upper())


@broken("failure_of_the_system", "stored more than once")
class TestFileThatIsOpenedForEachLine(FileKit):
    class sink(FileSink):  # noqa: N801
        def append(self, lines: Sequence[str]) -> None:
            for line in lines:
                super().append([line])


@broken("failure_of_the_system", "stored more than once")
class TestFileThatWritesInHalvesAfterAFailure(FileKit):
    class sink(FileSink):  # noqa: N801
        def append(self, lines: Sequence[str]) -> None:
            super().append(lines[: len(lines) // 2])
            try:
                super().append(lines[len(lines) // 2 :])
            except OSError:
                super().append(lines)


@broken("closing_a_backend_that_was_never_used", "AttributeError")
class TestFileThatCannotBeClosedUnused(FileKit):
    class sink(FileSink):  # noqa: N801
        async def write(self, batch: Batch) -> None:
            self.file = self.path.open("a", encoding="utf-8")
            self.file.write("".join(self.lines(batch)))
            self.file.close()

        async def close(self) -> None:
            self.file.close()


@broken("closing_twice_by_itself", "RuntimeError")
class TestFileThatIsClosedOnlyOnce(FileKit):
    class sink(FileSink):  # noqa: N801
        closed = False

        async def close(self) -> None:
            if self.closed:
                raise RuntimeError("closed already")
            self.closed = True


@broken("closing_a_backend_that_was_never_used", "did not end")
class TestFileThatHangsAtClose(FileKit):
    patience_seconds = 2.0

    class sink(FileSink):  # noqa: N801
        async def close(self) -> None:
            await asyncio.Event().wait()


@broken("closing_a_backend_that_was_never_used", "the backend hangs")
class TestFileThatBlocksAtClose(FileKit):
    patience_seconds = 1.0

    class sink(FileSink):  # noqa: N801
        async def close(self) -> None:
            threading.Event().wait()


@broken("second_backend_finds", "changed what is stored")
class TestFileThatIsEmptiedAtTheStart(FileKit):
    class sink(FileSink):  # noqa: N801
        def __init__(self, path: Path) -> None:
            super().__init__(path)
            path.write_text("")


@broken("second_backend_finds", "changed what is stored")
class TestFileThatIsEmptiedByTheFirstWrite(FileKit):
    class sink(FileSink):  # noqa: N801
        mode = "w"

        def append(self, lines: Sequence[str]) -> None:
            with self.path.open(self.mode, encoding="utf-8") as file:
                file.write("".join(lines))
            self.mode = "a"


@broken("leave_no_thread_task_or_descriptor", "descriptors")
class TestFileThatLeaksDescriptors(FileKit):
    class sink(FileSink):  # noqa: N801
        def append(self, lines: Sequence[str]) -> None:
            descriptor = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
            os.write(descriptor, "".join(lines).encode())


@broken("leave_no_thread_task_or_descriptor", "threads")
class TestFileThatLeaksThreads(FileKit):
    class sink(FileSink):  # noqa: N801
        async def write(self, batch: Batch) -> None:
            await super().write(batch)
            threading.Thread(target=threading.Event().wait, args=(30.0,), daemon=True).start()


@broken("leave_no_thread_task_or_descriptor", "still alive")
class TestFileWhoseThreadOutlivesIt(FileKit):
    class sink(FileSink):  # noqa: N801
        thread: threading.Thread | None = None

        async def write(self, batch: Batch) -> None:
            await super().write(batch)
            if self.thread is None:
                self.thread = threading.Thread(target=threading.Event().wait, args=(30.0,), daemon=True)
                self.thread.start()


@broken("leave_no_thread_task_or_descriptor", "tasks")
class TestFileThatLeaksTasks(FileKit):
    class sink(FileSink):  # noqa: N801
        tasks: tuple[Any, ...] = ()

        async def write(self, batch: Batch) -> None:
            await super().write(batch)
            self.tasks = (*self.tasks, asyncio.create_task(asyncio.sleep(30)))


@broken("not_kept_in_memory", "still referred to")
class TestFileThatKeepsItsBatches(FileKit):
    class sink(FileSink):  # noqa: N801
        history: tuple[Batch, ...] = ()

        async def write(self, batch: Batch) -> None:
            await super().write(batch)
            self.history = (*self.history, batch)


@broken("not_kept_in_memory", "bytes in memory")
class TestFileThatKeepsWhatItHasWritten(FileKit):
    class sink(FileSink):  # noqa: N801
        written: tuple[str, ...] = ()

        def append(self, lines: Sequence[str]) -> None:
            super().append(lines)
            self.written = (*self.written, "".join(lines))


@broken("no_event_content", "logged, printed or raised")
class TestFileThatLogsItsEvents(FileKit):
    class sink(FileSink):  # noqa: N801
        async def write(self, batch: Batch) -> None:
            logger.debug("writing %r", batch.events)
            await super().write(batch)


@broken("no_event_content", "logged, printed or raised")
class TestFileThatQuotesEventsInErrors(FileKit):
    class sink(FileSink):  # noqa: N801
        async def write(self, batch: Batch) -> None:
            lines = self.lines(batch)
            try:
                self.append(lines)
            except OSError as error:
                raise SinkUnavailable(f"could not write {lines}: {error}") from None


@broken("no_event_content", "logged, printed or raised")
class TestFileThatPrints(FileKit):
    class sink(FileSink):  # noqa: N801
        async def write(self, batch: Batch) -> None:
            for event in batch:
                print("stored", event.targeting_key)  # noqa: T201 - that is what is wrong with it
            await super().write(batch)


@broken("whatever_its_size[501]")
class TestFileThatWritesTheFirstFiveHundred(FileKit):
    class sink(FileSink):  # noqa: N801
        def lines(self, batch: Iterable[FrozenEvent]) -> list[str]:
            return super().lines(list(batch)[:500])


@broken("whatever_its_size[501]")
class TestFileThatWritesWholeHundreds(FileKit):
    class sink(FileSink):  # noqa: N801
        def append(self, lines: Sequence[str]) -> None:
            whole = len(lines) if len(lines) < 100 else len(lines) // 100 * 100
            super().append(lines[:whole])


@broken("whatever_its_size[10000]")
class TestFileThatWritesAThousandFlags(FileKit):
    """Keeps at most 2,000 events in one write."""

    class sink(FileSink):  # noqa: N801
        def lines(self, batch: Iterable[FrozenEvent]) -> list[str]:
            return super().lines(list(batch)[:2_000])


@broken("keep_their_order")
class TestFileThatIsReadByTime(FileKit):
    class sink(FileSink):  # noqa: N801
        def read(self) -> list[dict[str, Any]]:
            return sorted(super().read(), key=lambda fields: str(fields["timestamp"]))


@broken("stored_in_order")
class TestFileThatReversesEachBatch(FileKit):
    class sink(FileSink):  # noqa: N801
        def lines(self, batch: Iterable[FrozenEvent]) -> list[str]:
            return super().lines(list(batch)[::-1])


# -- what is stored otherwise than it was ------------------------------------------------------------------------------


class Altered(FileSink):
    """A good one, as long as ``alter`` does nothing."""

    def alter(self, fields: dict[str, Any]) -> None:
        pass

    def fields(self, event: FrozenEvent) -> dict[str, Any]:
        fields = super().fields(event)
        self.alter(fields)
        return fields


def moment(fields: Mapping[str, Any]) -> datetime:
    return datetime.fromisoformat(fields["timestamp"])


@broken("in_every_zone_of_the_machine", "")
class TestStoresLocalTime(FileKit):
    class sink(Altered):  # noqa: N801
        def alter(self, fields: dict[str, Any]) -> None:
            fields["timestamp"] = moment(fields).astimezone().replace(tzinfo=None).isoformat()

        def load(self, line: str) -> dict[str, Any]:
            fields = super().load(line)
            fields["timestamp"] = moment(fields).astimezone().isoformat()
            return fields


@broken("it_keeps[microseconds]", "without its zone")
class TestReturnsTimesWithoutZone(FileKit):
    class sink(Altered):  # noqa: N801
        def alter(self, fields: dict[str, Any]) -> None:
            fields["timestamp"] = moment(fields).astimezone(UTC).replace(tzinfo=None).isoformat()


@broken("it_keeps[microseconds]")
class TestStoresMilliseconds(FileKit):
    class sink(Altered):  # noqa: N801
        def alter(self, fields: dict[str, Any]) -> None:
            fields["timestamp"] = (
                moment(fields).replace(microsecond=moment(fields).microsecond // 1000 * 1000).isoformat()
            )


@broken("it_keeps[microseconds]")
class TestStoresFloatEpochs(FileKit):
    class sink(Altered):  # noqa: N801
        def alter(self, fields: dict[str, Any]) -> None:
            seconds = moment(fields).timestamp()
            fields["timestamp"] = (
                EPOCH + timedelta(microseconds=int(seconds % 1 * 1_000_000), seconds=seconds // 1)
            ).isoformat()


@broken("it_keeps[times after 2038]")
class TestStoresSecondsInThirtyTwoBits(FileKit):
    class sink(Altered):  # noqa: N801
        def alter(self, fields: dict[str, Any]) -> None:
            since = moment(fields) - EPOCH
            fields["timestamp"] = (EPOCH + min(since, timedelta(seconds=2**31 - 1))).isoformat()


@broken("it_keeps[times before 1970]")
class TestStoresUnsignedTimes(FileKit):
    class sink(Altered):  # noqa: N801
        def alter(self, fields: dict[str, Any]) -> None:
            fields["timestamp"] = max(EPOCH, moment(fields)).isoformat()


@broken("it_keeps[falsy values]")
class TestLeavesOutFalsyFields(FileKit):
    class sink(Altered):  # noqa: N801
        def alter(self, fields: dict[str, Any]) -> None:
            fields["value"] = fields["value"] or None


@broken("none_and_falsy")
class TestLeavesOutEmptyMembers(FileKit):
    class sink(Altered):  # noqa: N801
        def alter(self, fields: dict[str, Any]) -> None:
            if isinstance(fields["value"], dict):
                fields["value"] = {name: value for name, value in fields["value"].items() if value}


@broken("it_keeps[no variant, and one named default]")
class TestStoresNoVariantAsDefault(FileKit):
    class sink(Altered):  # noqa: N801
        def alter(self, fields: dict[str, Any]) -> None:
            fields["variant"] = fields["variant"] or "default"


@broken("it_keeps[spaces at the ends]")
class TestStoresNoneForEmpty(FileKit):
    class sink(Altered):  # noqa: N801
        def alter(self, fields: dict[str, Any]) -> None:
            fields["targeting_key"] = fields["targeting_key"] or None


@broken("it_keeps[spaces at the ends]")
class TestStripsSpaces(FileKit):
    class sink(Altered):  # noqa: N801
        def alter(self, fields: dict[str, Any]) -> None:
            fields["variant"] = fields["variant"] and fields["variant"].strip()


@broken("it_keeps[letters that differ in case]")
class TestFoldsCase(FileKit):
    class sink(Altered):  # noqa: N801
        def alter(self, fields: dict[str, Any]) -> None:
            fields["flag_key"] = fields["flag_key"].lower()


@broken("it_keeps[letters that differ in case]")
class TestStoresTheFirstSpelling(FileKit):
    class sink(Altered):  # noqa: N801
        def __init__(self, path: Path) -> None:
            super().__init__(path)
            self.spellings: dict[str, str] = {}

        def alter(self, fields: dict[str, Any]) -> None:
            key = fields["variant"]
            fields["variant"] = self.spellings.setdefault(key.casefold(), key) if key else key


@broken("it_keeps[large integers]")
class TestPassesIntegersThroughFloats(FileKit):
    class sink(FileSink):  # noqa: N801
        def load(self, line: str) -> dict[str, Any]:
            return json.loads(line, parse_int=lambda digits: int(float(digits)))


@broken("it_keeps[large integers]")
class TestStoresIntegersInSixtyThreeBits(FileKit):
    class sink(Altered):  # noqa: N801
        def alter(self, fields: dict[str, Any]) -> None:
            if type(fields["value"]) is int:
                fields["value"] = max(fields["value"], -(2**63) + 1)


@broken("it_keeps[durations]")
class TestStoresDurationsInThirtyTwoBits(FileKit):
    class sink(Altered):  # noqa: N801
        def alter(self, fields: dict[str, Any]) -> None:
            (fields["evaluation_duration_ms"],) = struct.unpack("f", struct.pack("f", fields["evaluation_duration_ms"]))


@broken("it_keeps[durations]")
class TestStoresDurationsAsDecimals(FileKit):
    class sink(Altered):  # noqa: N801
        def alter(self, fields: dict[str, Any]) -> None:
            fields["evaluation_duration_ms"] = float(
                Decimal(fields["evaluation_duration_ms"]).quantize(Decimal("0.01"))
            )


@broken("it_keeps[sample rates]")
class TestRoundsSampleRates(FileKit):
    class sink(Altered):  # noqa: N801
        def alter(self, fields: dict[str, Any]) -> None:
            fields["sample_rate"] = round(fields["sample_rate"], 4)


@broken("it_keeps[sample rates]")
class TestStoresSampleRatesInPercent(FileKit):
    class sink(Altered):  # noqa: N801
        def alter(self, fields: dict[str, Any]) -> None:
            fields["sample_rate"] = int(fields["sample_rate"] * 100) / 100


@broken("it_keeps[long keys]")
class TestCutsKeys(FileKit):
    class sink(Altered):  # noqa: N801
        def alter(self, fields: dict[str, Any]) -> None:
            fields["targeting_key"] = fields["targeting_key"] and fields["targeting_key"][:128]


@broken("it_keeps[long messages]")
class TestCutsMessages(FileKit):
    class sink(Altered):  # noqa: N801
        def alter(self, fields: dict[str, Any]) -> None:
            fields["error_message"] = fields["error_message"] and fields["error_message"][:255]


@broken("it_keeps[large values]")
class TestDropsLargeValues(FileKit):
    class sink(Altered):  # noqa: N801
        def alter(self, fields: dict[str, Any]) -> None:
            if len(json.dumps(fields["value"])) > 32_768:
                fields["value"] = None


@broken("it_keeps[texts of every plane]")
class TestStoresTheBasicPlaneOnly(FileKit):
    class sink(Altered):  # noqa: N801
        def alter(self, fields: dict[str, Any]) -> None:
            fields["variant"] = fields["variant"] and re.sub(r"[^\u0000-\uffff]", "?", fields["variant"])


@broken("it_keeps[control characters]")
class TestStoresOneLineOfText(FileKit):
    class sink(Altered):  # noqa: N801
        def alter(self, fields: dict[str, Any]) -> None:
            fields["variant"] = fields["variant"] and " ".join(fields["variant"].splitlines())


@broken("it_keeps[values that look alike]")
class TestTakesOneForTrue(FileKit):
    class sink(Altered):  # noqa: N801
        def alter(self, fields: dict[str, Any]) -> None:
            fields["value"] = True if fields["value"] == 1 else fields["value"]


@broken("it_keeps[values that look alike]")
class TestStoresContextsAsText(FileKit):
    class sink(Altered):  # noqa: N801
        def alter(self, fields: dict[str, Any]) -> None:
            fields["context_attributes"] = {name: str(value) for name, value in fields["context_attributes"].items()}


@broken("every_field_comes_back")
class TestForgetsFields(FileKit):
    class sink(Altered):  # noqa: N801
        def alter(self, fields: dict[str, Any]) -> None:
            fields["provider_name"] = None


@broken("any_reason_comes_back")
class TestKnowsTheUsualReasonsOnly(FileKit):
    class sink(Altered):  # noqa: N801
        def alter(self, fields: dict[str, Any]) -> None:
            fields["reason"] = fields["reason"] if fields["reason"] in {"SPLIT", "DEFAULT", "ERROR"} else "UNKNOWN"


# -- sinks that write to a database ------------------------------------------------------------------------------------


class DatabaseSink:
    """Stores each id once, in SQLite."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def insert(self, connection: sqlite3.Connection, batch: Batch) -> None:
        rows = [(event.event_id, json.dumps(event.to_dict())) for event in batch]
        connection.executemany("INSERT INTO events VALUES (?, ?) ON CONFLICT (id) DO NOTHING", rows)

    async def write(self, batch: Batch) -> None:
        with contextlib.closing(sqlite3.connect(self.path)) as connection, connection:
            connection.execute("CREATE TABLE IF NOT EXISTS events (id TEXT PRIMARY KEY, event TEXT NOT NULL)")
            self.insert(connection, batch)

    async def close(self) -> None:
        pass

    def read(self) -> list[dict[str, Any]]:
        if not self.path.exists():
            return []
        with contextlib.closing(sqlite3.connect(self.path)) as connection:
            return [json.loads(event) for (event,) in connection.execute("SELECT event FROM events ORDER BY rowid")]


class DatabaseKit(FileKit):
    sink = DatabaseSink
    idempotent = True


class TestGoodDatabase(DatabaseKit):
    pass


@broken("failure_of_the_system", "bad content")
class TestDatabaseThatBlamesTheContent(DatabaseKit):
    class sink(DatabaseSink):  # noqa: N801
        async def write(self, batch: Batch) -> None:
            try:
                await super().write(batch)
            except sqlite3.Error as error:
                raise BadBatch(code=error.__class__.__name__) from None


@broken("comes_twice")
class TestDatabaseWithoutAKey(DatabaseKit):
    class sink(DatabaseSink):  # noqa: N801
        def insert(self, connection: sqlite3.Connection, batch: Batch) -> None:
            rows = [(f"{event.event_id}-{time.monotonic_ns()}", json.dumps(event.to_dict())) for event in batch]
            connection.executemany("INSERT INTO events VALUES (?, ?)", rows)


@broken("stored_in_order")
class TestDatabaseThatStoresHalf(DatabaseKit):
    class sink(DatabaseSink):  # noqa: N801
        def insert(self, connection: sqlite3.Connection, batch: Batch) -> None:
            super().insert(connection, Batch(batch.id, batch.events[: max(1, len(batch) // 2)]))


# -- sinks that write to a server --------------------------------------------------------------------------------------


class ServerKit(CollectorContract):
    """The smallest server there is, behind the kit's proxy."""

    sink: Callable[[Any], Any] = TcpSink
    idempotent = True
    forks = 1

    @pytest.fixture
    def server(self) -> Any:
        with TcpStore() as store:
            yield store

    @pytest.fixture
    def server_address(self, server: TcpStore) -> tuple[str, int]:
        return server.address

    @pytest.fixture
    def collector(self, server: TcpStore, fault_proxy: FaultProxy) -> Any:
        made = type(self).sink(fault_proxy.address)
        made.server = server
        return made

    async def stored(self, collector: Any) -> list[Any]:
        return [event.thaw() for event in collector.server.stored.values()]


class TestGoodServer(ServerKit):
    pass


@broken("waits_without_a_deadline", "without a timeout")
class TestServerWithoutADeadline(ServerKit):
    class sink(TcpSink):  # noqa: N801
        server: Any = None

        async def write(self, batch: Batch) -> None:
            await asyncio.to_thread(self.send, batch)

        def send(self, batch: Batch) -> None:
            with socket.create_connection(self._address) as connection:
                for event in batch:
                    connection.sendall(encode(event) + b"\n")
                connection.sendall(b"COMMIT\n")
                assert connection.recv(10) == b"OK\n"


@broken("failure_of_the_other_side", "does not end")
class TestServerThatIsWaitedForWhateverHappens(ServerKit):
    class sink(TcpSink):  # noqa: N801
        server: Any = None

        async def write(self, batch: Batch) -> None:
            writing = asyncio.ensure_future(super().write(batch))
            while not writing.done():
                with contextlib.suppress(asyncio.CancelledError):
                    await asyncio.wait([writing])
            writing.result()


@broken("failure_of_the_other_side", "stored more than once")
class TestServerThatIsSentPartsAgain(ServerKit):
    """Sends each event alone, under an id of its own, and begins anew after a failure."""

    class sink(TcpSink):  # noqa: N801
        server: Any = None

        async def write(self, batch: Batch) -> None:
            for number, event in enumerate(batch):
                renamed = msgspec.structs.replace(event, event_id=new_event_id())
                await super().write(Batch(f"{batch.id}-{number}", (renamed,)))


@broken("failure_of_the_other_side", "while it was not")
class TestServerWhoseAnswerIsNotAwaited(ServerKit):
    class sink(TcpSink):  # noqa: N801
        server: Any = None

        async def write(self, batch: Batch) -> None:
            with contextlib.suppress(SinkUnavailable, TimeoutError):
                await asyncio.wait_for(super().write(batch), 0.3)


def encode(event: FrozenEvent) -> bytes:
    from flag_analytics.frozen import encode_event

    return encode_event(event)


# -- plain collectors in memory ----------------------------------------------------------------------------------------


class Memory:
    """Keeps events in memory."""

    def __init__(self) -> None:
        self.freezer = Freezer()
        self.events: list[Any] = []
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

    async def get_events(self, flag_key: str | None = None, limit: int | None = None) -> list[Any]:
        found = [event.thaw() for event in self.events if flag_key in (None, event.flag_key)]
        return found if limit is None else found[len(found) - min(limit, len(found)) :]


class MemoryKit(CollectorContract):
    made: Callable[[], Any] = Memory
    patience_seconds = 5.0
    fork_deadline_seconds = 2.0
    forks = 1

    @pytest.fixture
    def collector(self) -> Any:
        return type(self).made()


class TestGoodMemory(MemoryKit):
    pass


class TestGoodRecordingSink(MemoryKit):
    made = RecordingSink
    idempotent = True

    async def stored(self, collector: Any) -> list[Any]:
        return list(collector.stored.values())


class Buffering(Memory):
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


@broken("none_and_falsy")
class TestDropsNone(MemoryKit):
    class made(Memory):  # noqa: N801
        async def record(self, event: Any) -> None:
            if event.value is not None:
                await super().record(event)


@broken("closing_loses_nothing")
class TestLosesOnClose(MemoryKit):
    class made(Buffering):  # noqa: N801
        async def close(self) -> None:
            self.closed = True
            self.buffer.clear()


@broken("known_after_a_flush")
class TestFlushesLater(MemoryKit):
    class made(Buffering):  # noqa: N801
        async def flush(self) -> None:
            asyncio.get_running_loop().call_later(0.05, self.store)

        def store(self) -> None:
            self.events += self.buffer
            self.buffer.clear()


@broken("neither_sleeps", "calls time.sleep")
class TestSleepsInFlush(MemoryKit):
    class made(Memory):  # noqa: N801
        async def flush(self) -> None:
            time.sleep(0.01)  # noqa: ASYNC251


@broken("event_loop_is_never_blocked", "stood still")
class TestIsBusyInFlush(MemoryKit):
    class made(Memory):  # noqa: N801
        async def flush(self) -> None:
            ends = time.thread_time() + 0.4
            while time.thread_time() < ends:
                pass


@broken("many_threads_may_record")
class TestNotThreadSafe(MemoryKit):
    class made(Memory):  # noqa: N801
        async def record(self, event: Any) -> None:
            if not self.closed:
                before = self.events
                time.sleep(0)  # noqa: ASYNC251 - as any I/O would, this lets another thread in
                self.events = [*before, self.freezer.freeze(event)]


@broken("many_events_at_once")
class TestDuplicates(MemoryKit):
    class made(Memory):  # noqa: N801
        async def record(self, event: Any) -> None:
            await super().record(event)
            if len(self.events) % 50 == 7:
                await super().record(event)


@broken("flush_repeats_nothing")
class TestSendsAgain(MemoryKit):
    """Sends the last batch again at each flush, though no answer was lost."""

    class made(Buffering):  # noqa: N801
        def __init__(self) -> None:
            super().__init__()
            self.last: list[FrozenEvent] = []

        async def flush(self) -> None:
            with self.lock:
                taken, self.buffer = self.buffer, []
                self.events += [*self.last, *taken]
                self.last = taken


@broken("changed_after_recording")
class TestKeepsReferences(MemoryKit):
    class made(Memory):  # noqa: N801
        async def record(self, event: Any) -> None:
            self.freezer.freeze(event)
            if not self.closed:
                self.events.append(event)

        async def get_events(self, flag_key: str | None = None, limit: int | None = None) -> list[Any]:
            return [self.freezer.freeze(event).thaw() for event in self.events]


@broken("in_any_zone")
class TestForgetsZones(MemoryKit):
    class made(Memory):  # noqa: N801
        async def record(self, event: Any) -> None:
            if isinstance(event.timestamp, datetime):
                event = event.replace(timestamp=event.timestamp.replace(tzinfo=UTC))
            await super().record(event)


@broken("changes_nothing_of_the_events", "changed the event of its caller")
class TestMarksContexts(MemoryKit):
    class made(Memory):  # noqa: N801
        async def record(self, event: Any) -> None:
            await super().record(event)
            if isinstance(event.context_attributes, dict):
                event.context_attributes["stored"] = True


@broken("after_close_neither_raises")
class TestRaisesAfterClose(MemoryKit):
    class made(Memory):  # noqa: N801
        async def record(self, event: Any) -> None:
            if self.closed:
                raise RuntimeError("closed")
            await super().record(event)


@broken("after_close_neither_raises")
class TestStoresAfterClose(MemoryKit):
    class made(Memory):  # noqa: N801
        async def close(self) -> None:
            pass


@broken("closing_again")
class TestClosesOnlyOnce(MemoryKit):
    class made(Memory):  # noqa: N801
        async def close(self) -> None:
            if self.closed:
                raise RuntimeError("closed already")
            self.closed = True


@broken("forked_child", "stuck")
class TestDeadlocksAfterFork(MemoryKit):
    fork_deadline_seconds = 0.5
    forks = 3

    class made(Memory):  # noqa: N801
        async def record(self, event: Any) -> None:
            with self.lock:
                time.sleep(0.0005)  # noqa: ASYNC251 - long enough for a fork to come in between
                if not self.closed:
                    self.events.append(self.freezer.freeze(event))

        def after_fork(self) -> None:
            self.events = []


@broken("many_event_loops")
class TestBelongsToOneLoop(MemoryKit):
    class made(Memory):  # noqa: N801
        loop: asyncio.AbstractEventLoop | None = None

        async def record(self, event: Any) -> None:
            self.loop = self.loop or asyncio.get_running_loop()
            done = self.loop.create_future()
            self.loop.call_soon(done.set_result, None)
            await done
            await super().record(event)


@broken("hostile_events", "raised")
class TestRaisesForHostileEvents(MemoryKit):
    class made(Memory):  # noqa: N801
        async def record(self, event: Any) -> None:
            assert str(event.value) is not None
            await super().record(event)


@broken("what_was_read")
class TestHandsOutItsOwn(MemoryKit):
    class made(Memory):  # noqa: N801
        async def record(self, event: Any) -> None:
            thawed = self.freezer.freeze(event).thaw()
            with self.lock:
                if not self.closed:
                    self.events.append(thawed)

        async def get_events(self, flag_key: str | None = None, limit: int | None = None) -> list[Any]:
            return self.events[:]


@broken("comes_twice")
class TestClaimsToBeIdempotent(MemoryKit):
    idempotent = True


@broken("get_events_answers", "")
class TestIgnoresTheLimit(MemoryKit):
    class made(Memory):  # noqa: N801
        async def get_events(self, flag_key: str | None = None, limit: int | None = None) -> list[Any]:
            return await super().get_events(flag_key)


@broken("get_events_answers", "newest")
class TestLimitsToTheOldest(MemoryKit):
    class made(Memory):  # noqa: N801
        async def get_events(self, flag_key: str | None = None, limit: int | None = None) -> list[Any]:
            return (await super().get_events(flag_key))[:limit]


@broken("get_events_answers")
class TestReturnsOtherFlagsToo(MemoryKit):
    class made(Memory):  # noqa: N801
        async def get_events(self, flag_key: str | None = None, limit: int | None = None) -> list[Any]:
            return await super().get_events(None, limit)


@broken("forked_child")
class TestInheritsTheBuffer(MemoryKit):
    """Its forked children send what the parent has not sent yet, to a store that both share."""

    forks = 3

    class made(Buffering):  # noqa: N801
        def __init__(self) -> None:
            self.read_end, self.write_end = os.pipe()
            os.set_blocking(self.read_end, False)
            self.lines = b""
            super().__init__()

        def after_fork(self) -> None:
            self.lock = threading.Lock()

        async def flush(self) -> None:
            with self.lock:
                taken, self.buffer = self.buffer, []
                if taken and not self.closed:
                    os.write(self.write_end, b"".join(event.flag_key.encode() + b"\n" for event in taken))

        async def get_events(self, flag_key: str | None = None, limit: int | None = None) -> list[Any]:
            with contextlib.suppress(BlockingIOError):
                self.lines += os.read(self.read_end, 2**20)
            keys = self.lines.decode().split()
            return [{"flag_key": key, "timestamp": "2026-01-31T12:00:00Z", "value": 0, "reason": "X"} for key in keys]


@broken("no_test_of_the_contract_is_overridden")
class TestOverridesATest(MemoryKit):
    def test_a_new_backend_knows_of_nothing(self) -> None:
        pass


class TestOverridesATestWithAReason(MemoryKit):
    @pytest.mark.xfail(reason="this one knows of everything")
    def test_a_new_backend_knows_of_nothing(self) -> None:
        raise AssertionError


# -- inline sinks ------------------------------------------------------------------------------------------------------


class Inline:
    """Takes each event at once."""

    def __init__(self) -> None:
        self.freezer = Freezer()
        self.events: list[FrozenEvent] = []
        self.closed = False

    def record_nowait(self, event: Any) -> RecordResult:
        if self.closed:
            return RecordResult.CLOSED
        self.events.append(self.freezer.freeze(event))
        return RecordResult.ACCEPTED

    async def flush(self) -> None:
        pass

    async def close(self) -> None:
        self.closed = True

    async def get_events(self, flag_key: str | None = None, limit: int | None = None) -> list[Any]:
        found = [event.thaw() for event in self.events if flag_key in (None, event.flag_key)]
        return found if limit is None else found[len(found) - min(limit, len(found)) :]


class TestGoodInline(MemoryKit):
    made = Inline
    survives_fork = False


@broken("record_nowait_says", "raised")
class TestInlineThatRaises(MemoryKit):
    class made(Inline):  # noqa: N801
        def record_nowait(self, event: Any) -> RecordResult:
            if len(str(event.targeting_key)) > 500:
                raise ValueError("too long a key")
            return super().record_nowait(event)


@broken("record_nowait_says", "NoneType")
class TestInlineThatSaysNothing(MemoryKit):
    class made(Inline):  # noqa: N801
        def record_nowait(self, event: Any) -> Any:
            super().record_nowait(event)


@broken("record_nowait_says", "accepted after the close")
class TestInlineThatAcceptsAfterTheClose(MemoryKit):
    class made(Inline):  # noqa: N801
        def record_nowait(self, event: Any) -> RecordResult:
            super().record_nowait(event)
            return RecordResult.ACCEPTED


@broken("changes_nothing_of_the_events", "changed the event of its caller")
class TestInlineThatChangesContexts(MemoryKit):
    class made(Inline):  # noqa: N801
        def record_nowait(self, event: Any) -> RecordResult:
            result = super().record_nowait(event)
            if isinstance(event.context_attributes, dict):
                event.context_attributes.pop("x", None)
            return result


# -- exporters ---------------------------------------------------------------------------------------------------------


class Exporter:
    """Tells a monitoring system, a list, of each event."""

    def __init__(self) -> None:
        self.told: list[dict[str, Any]] = []
        self.fails_after: int | None = None

    def message(self, event: FrozenEvent) -> dict[str, Any]:
        return {
            "flag_key": event.flag_key,
            "variant": event.variant,
            "reason": event.reason,
            "value": event.value,
            "targeting_key": event.targeting_key,
            "timestamp": event.timestamp,
            "evaluation_duration_ms": event.evaluation_duration_ms,
        }

    def tell(self, messages: Sequence[dict[str, Any]]) -> None:
        """Hand over messages, all or, where the other side breaks, none."""
        if self.fails_after is not None and len(messages) > self.fails_after:
            raise SinkUnavailable(code="503")
        self.told += messages

    async def write(self, batch: Batch) -> None:
        self.tell([self.message(event) for event in batch])

    async def close(self) -> None:
        pass


class ExporterKit(ExporterContract):
    made: Callable[[], Any] = Exporter
    forks = 1

    @pytest.fixture
    def exporter(self) -> Any:
        return type(self).made()

    async def exported(self, exporter: Any) -> Mapping[str, int]:
        return Counter(message["flag_key"] for message in exporter.told)

    async def arrived(self, exporter: Any) -> Iterable[Mapping[str, Any]]:
        return exporter.told

    @pytest.fixture
    def faults(self, exporter: Any) -> Any:
        @contextlib.contextmanager
        def full() -> Any:
            exporter.fails_after = 2
            yield
            exporter.fails_after = None

        return {"full": full}


class TestGoodExporter(ExporterKit):
    pass


@broken("what_arrives_says")
class TestExporterThatSendsTheKeyOnly(ExporterKit):
    class made(Exporter):  # noqa: N801
        def message(self, event: FrozenEvent) -> dict[str, Any]:
            return dict.fromkeys(super().message(event)) | {"flag_key": event.flag_key}


@broken("what_arrives_says")
class TestExporterThatSendsSeconds(ExporterKit):
    class made(Exporter):  # noqa: N801
        def message(self, event: FrozenEvent) -> dict[str, Any]:
            return {**super().message(event), "evaluation_duration_ms": event.evaluation_duration_ms / 1_000}


@broken("what_arrives_says")
class TestExporterThatSendsTheTimeOfExport(ExporterKit):
    class made(Exporter):  # noqa: N801
        def message(self, event: FrozenEvent) -> dict[str, Any]:
            return {**super().message(event), "timestamp": datetime.now(UTC)}


@broken("what_arrives_says")
class TestExporterThatSendsValuesAsText(ExporterKit):
    class made(Exporter):  # noqa: N801
        def message(self, event: FrozenEvent) -> dict[str, Any]:
            return {**super().message(event), "value": str(event.value)}


@broken("differ_in_every_way")
class TestExporterThatDropsErrors(ExporterKit):
    class made(Exporter):  # noqa: N801
        async def write(self, batch: Batch) -> None:
            await super().write(Batch(batch.id, tuple(event for event in batch if event.reason != "ERROR")))


@broken("it_passes_on[no variant, and one named default]")
class TestExporterThatNamesAVariant(ExporterKit):
    class made(Exporter):  # noqa: N801
        def message(self, event: FrozenEvent) -> dict[str, Any]:
            return {**super().message(event), "variant": event.variant or "default"}


@broken("failure_of_the_other_side", "stored more than once")
class TestExporterThatRepeatsAPart(ExporterKit):
    class made(Exporter):  # noqa: N801
        async def write(self, batch: Batch) -> None:
            for number, event in enumerate(batch):
                if self.fails_after is not None and number >= self.fails_after:
                    raise SinkUnavailable(code="503")
                self.told.append(self.message(event))


@broken("failure_of_the_other_side", "while it was not")
class TestExporterThatSwallowsRefusals(ExporterKit):
    class made(Exporter):  # noqa: N801
        async def write(self, batch: Batch) -> None:
            with contextlib.suppress(SinkUnavailable):
                await super().write(batch)


@broken("whatever_its_size")
class TestExporterThatSendsAHundred(ExporterKit):
    class made(Exporter):  # noqa: N801
        async def write(self, batch: Batch) -> None:
            await super().write(Batch(batch.id, batch.events[:100]))


# -- sources -----------------------------------------------------------------------------------------------------------


class Source(EventsSource):
    """Answers from a list of events, with the arithmetic of core."""

    def __init__(self) -> None:
        self.freezer = Freezer()
        self.kept: list[Any] = []
        super().__init__(lambda: self.kept)


class SourceKit(EventSourceContract):
    made: Callable[[], Any] = Source

    @pytest.fixture
    def source(self) -> Any:
        return type(self).made()

    async def fill(self, source: Any, events: Sequence[Any]) -> None:
        source.kept += [source.freezer.freeze(event) for event in events]

    async def empty(self, source: Any) -> None:
        pass


class TestGoodSource(SourceKit):
    pass


@broken("a_window_holds_both_its_ends[the whole]")
class TestSourceThatLeavesOutTheEnd(SourceKit):
    class made(Source):  # noqa: N801
        async def summarise(self, flag_keys: Any, window: Window, **options: Any) -> Any:
            return await super().summarise(
                flag_keys, Window(window.start, window.end - timedelta(microseconds=1)), **options
            )


@broken("a_window_holds_both_its_ends[from a microsecond after the start]")
class TestSourceThatRoundsToSeconds(SourceKit):
    class made(Source):  # noqa: N801
        async def list_flags(self, window: Window, **options: Any) -> Any:
            start = None if window.start is None else window.start.replace(microsecond=0)
            return await super().list_flags(Window(start, window.end), **options)


@broken("percentiles_are_interpolated")
class TestSourceThatTakesTheNearestPercentile(SourceKit):
    class made(Source):  # noqa: N801
        async def summarise(self, flag_keys: Any, window: Window, **options: Any) -> Any:
            found = await super().summarise(flag_keys, window, **options)
            durations = sorted(event.evaluation_duration_ms for event in self.kept if event.evaluation_duration_ms > 0)
            return {
                key: evolve(
                    summary,
                    percentiles={
                        percent: durations[round(percent / 100 * (len(durations) - 1))]
                        for percent in summary.percentiles
                    },
                )
                for key, summary in found.items()
            }


@broken("percentiles_are_interpolated")
class TestSourceThatCountsUnmeasuredDurations(SourceKit):
    class made(Source):  # noqa: N801
        async def summarise(self, flag_keys: Any, window: Window, **options: Any) -> Any:
            found = await super().summarise(flag_keys, window, **options)
            return {
                key: evolve(summary, percentiles=dict.fromkeys(options.get("percentiles", ()), 0.0))
                if not summary.percentiles
                else summary
                for key, summary in found.items()
            }


@broken("knows_of_nothing")
class TestSourceThatAnswersGarbage(SourceKit):
    class made(Source):  # noqa: N801
        async def summarise(self, flag_keys: Any, window: Window, **options: Any) -> Any:
            return {key: FlagSummary(total=42) for key in flag_keys}


@broken("comes_twice")
class TestSourceThatCountsAnIdTwice(SourceKit):
    idempotent = True


@broken("a_filter_lets_through[a context value of True]")
class TestSourceThatTakesOneForTrue(SourceKit):
    class made(Source):  # noqa: N801
        async def list_flags(self, window: Window, *, where: EventFilter | None = None) -> Any:
            if where is not None and where.context.get("alike") is True:
                where = EventFilter(context={"alike": 1})
            return await super().list_flags(window, where=where)


@broken("a_filter_lets_through[outcomes]")
class TestSourceThatCountsEveryKind(SourceKit):
    class made(Source):  # noqa: N801
        async def list_flags(self, window: Window, *, where: EventFilter | None = None) -> Any:
            if where is not None:
                where = evolve(where, kinds=("evaluation", "exposure", "outcome"))
            return await super().list_flags(window, where=where)


@broken("a_filter_lets_through[a variant in another case]")
class TestSourceThatFoldsCase(SourceKit):
    class made(Source):  # noqa: N801
        async def list_flags(self, window: Window, *, where: EventFilter | None = None) -> Any:
            if where is not None and isinstance(where.variant, str):
                where = evolve(where, variant={where.variant.lower(), where.variant.upper()})
            return await super().list_flags(window, where=where)


@broken("steps_are_counted_from_the_start")
class TestSourceWhoseStepsBeginAtTheEpoch(SourceKit):
    class made(Source):  # noqa: N801
        async def count_steps(self, flag_key: str, window: Window, step_seconds: float, **options: Any) -> Any:
            assert window.start is not None
            start = EPOCH + (window.start - EPOCH) // timedelta(seconds=step_seconds) * timedelta(seconds=step_seconds)
            return await super().count_steps(flag_key, Window(start, window.end), step_seconds, **options)


@broken("sampled_event_counts", "counts as 4")
class TestSourceThatIgnoresSampleRates(SourceKit):
    async def fill(self, source: Any, events: Sequence[Any]) -> None:
        await super().fill(source, [event.replace(sample_rate=1.0) for event in events])


@broken("from_another_event_loop")
class TestSourceOfOneLoop(SourceKit):
    class made(Source):  # noqa: N801
        lock: Any = None

        async def list_flags(self, window: Window, **options: Any) -> Any:
            loop = asyncio.get_running_loop()
            self.lock = self.lock or loop
            if self.lock is not loop:
                raise RuntimeError("attached to a different loop")
            return await super().list_flags(window, **options)

        async def count_future(self, now: datetime) -> int:
            return await super().count_future(now)

    async def fill(self, source: Any, events: Sequence[Any]) -> None:
        await super().fill(source, events)
        await source.list_flags(Window(None, EPOCH))


class ClientOfOneLoop(Source):
    """A sink and a source over one client, as most asynchronous clients are: it belongs to the loop that used it."""

    any_loop = False
    loop: Any = None

    async def write(self, batch: Batch) -> None:
        self.use()
        self.kept += list(batch)

    async def list_flags(self, window: Window, **options: Any) -> Any:
        self.use()
        return await super().list_flags(window, **options)

    def use(self) -> None:
        self.loop = self.loop or asyncio.get_running_loop()
        if self.loop is not asyncio.get_running_loop():
            raise RuntimeError("attached to a different loop")


class TestGoodSourceOfOneLoop(SourceKit):
    made = ClientOfOneLoop


@broken("from_another_event_loop")
class TestSourceThatSaysAnyLoop(SourceKit):
    class made(ClientOfOneLoop):  # noqa: N801
        any_loop = True

        async def list_flags(self, window: Window, **options: Any) -> Any:
            return await super().list_flags(window, **options)


@broken("users_are_told_by_the_variant")
class TestSourceThatTakesTheLastVariant(SourceKit):
    class made(Source):  # noqa: N801
        async def get_exposures(self, flag_key: str, window: Window, **options: Any) -> Any:
            found = await super().get_exposures(flag_key, window, **options)
            return evolve(found, first_variant_users={"default": found.users})


@broken("events_are_grouped_by[context.alike, 3]")
class TestSourceThatForgetsTheOtherGroups(SourceKit):
    class made(Source):  # noqa: N801
        async def summarise(self, flag_keys: Any, window: Window, **options: Any) -> Any:
            found = await super().summarise(flag_keys, window, **options)
            return {
                key: evolve(
                    summary, groups={name: each for name, each in summary.groups.items() if name != "__other__"}
                )
                for key, summary in found.items()
            }


def evolve(thing: Any, **changes: Any) -> Any:
    import attrs

    return attrs.evolve(thing, **changes)


# -- processors --------------------------------------------------------------------------------------------------------


def redact_email(event: FlagEvaluationEvent) -> FlagEvaluationEvent | None:
    if not isinstance(event.context_attributes, Mapping):
        return event
    return event.replace(context_attributes={n: v for n, v in event.context_attributes.items() if n != "email"})


class ProcessorKit(ProcessorContract):
    process: Callable[[Any], Any] = staticmethod(redact_email)
    changes = frozenset({"context_attributes"})

    @pytest.fixture
    def processor(self) -> Any:
        return type(self).process


class TestGoodProcessor(ProcessorKit):
    pass


@broken("leaves_the_callers_event_alone", "was changed")
class TestProcessorThatChangesTheCallersContext(ProcessorKit):
    @staticmethod
    def process(event: Any) -> Any:
        if isinstance(event.context_attributes, dict):
            event.context_attributes.pop("email", None)
        return event


@broken("returns_an_event_or_none", "awaitable")
class TestProcessorThatIsACoroutine(ProcessorKit):
    @staticmethod
    async def process(event: Any) -> Any:
        return event


@broken("returns_an_event_or_none", "dict")
class TestProcessorThatReturnsFields(ProcessorKit):
    @staticmethod
    def process(event: Any) -> Any:
        return event.to_dict()


@broken("keeps_what_identifies", "event_id")
class TestProcessorThatMakesANewId(ProcessorKit):
    @staticmethod
    def process(event: Any) -> Any:
        return event.replace(event_id=new_event_id())


@broken("changes_only_the_fields", "value")
class TestProcessorThatChangesTheValue(ProcessorKit):
    @staticmethod
    def process(event: Any) -> Any:
        return event.replace(value=None)


@broken("comes_out_the_same", "dropped once")
class TestProcessorThatDrawsLots(ProcessorKit):
    drops = True
    calls = iter(range(10**9))

    @classmethod
    def process(cls, event: Any) -> Any:
        return event if next(cls.calls) % 2 else None


@broken("drops_nothing")
class TestProcessorThatDrops(ProcessorKit):
    @staticmethod
    def process(event: Any) -> Any:
        return None if event.flag_key.endswith("7") else event


@broken("hostile_events_raise_nothing", "raised")
class TestProcessorThatTrusts(ProcessorKit):
    @staticmethod
    def process(event: Any) -> Any:
        return event.replace(context_attributes=dict(event.context_attributes))


@broken("takes_no_time", "one event takes")
class TestProcessorThatWaits(ProcessorKit):
    @staticmethod
    def process(event: Any) -> Any:
        time.sleep(0.02)
        return event


@broken("many_threads_may_use_it", "another one's place")
class TestProcessorThatSharesAPlace(ProcessorKit):
    place: Any = None

    @classmethod
    def process(cls, event: Any) -> Any:
        cls.place = event
        time.sleep(0)
        return cls.place


GOOD = sorted(name for name in globals() if name.startswith("TestGood"))
