"""What every backend promises of one batch: stored once or reported as failed, whatever fails, and nothing left behind.

The tests hand batches to the backend themselves, without the delivery engine, so that the same happens at each run.
"""

from __future__ import annotations

import asyncio
import gc
import inspect
import logging
import os
import sys
import time
import tracemalloc
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any, ClassVar

import msgspec
import pytest

from ..errors import BadBatch
from ..protocols import Batch
from .blocking import watch_waits
from .children import can_fork, run_in_child
from .faults import proxy_faults
from .io_faults import IO_FAULTS
from .plugin import MADE, Made
from .resources import live_threads, open_descriptors, pending_tasks
from .samples import plain_event, plain_events
from .stalls import LoopWatch
from .subjects import Subject

__all__ = ["WritingContract"]

_FAILURES_IN_A_ROW = 12
_BROKEN_SECONDS = 2.0
_ATTEMPTS_AFTERWARDS = 40
_PAUSE_SECONDS = 0.05
_STEPS_BEFORE_CANCEL = (1, 2, 3, 4, 6, 9, 14, 20)
_CANARY = "kanarienvogel"
"""A word that is in nothing but the events of one test."""


class WritingContract:
    """The part of the contracts of collectors and exporters that needs no delivery engine.

    Capabilities:
        idempotent: An event that comes twice, by its ``event_id``, is stored once.
        repeats_after_failures: A batch whose answer was lost may be stored or exported twice, unless it is idempotent.
        keeps_after_close: What was stored or exported can still be read after ``close()``.
        store_is_in_process: The test's own process holds what is stored: memory may grow.
        survives_fork: It can be used in a forked child, and in the parent afterwards.
        max_stall_seconds: The longest ``record``, ``write`` and ``flush`` may keep an event loop from other tasks.
        patience_seconds: How long one test may take before it counts as stuck.
        max_seconds: How long all tests of a class may take; later ones get half a second each, and where some hung,
            none.
    """

    is_contract = True
    idempotent: ClassVar[bool] = False
    repeats_after_failures: ClassVar[bool] = True
    keeps_after_close: ClassVar[bool] = True
    store_is_in_process: ClassVar[bool] = False
    survives_fork: ClassVar[bool] = True
    max_stall_seconds: ClassVar[float] = 0.25
    patience_seconds: ClassVar[float] = 10.0
    max_seconds: ClassVar[float] = 40.0

    async def known(self, subject: Subject) -> Counter[str]:
        """Return how many events of each flag the backend knows of."""
        raise NotImplementedError

    @pytest.fixture
    def faults(self, request: pytest.FixtureRequest) -> Mapping[str, Callable[[], AbstractContextManager[Any]]]:
        """Return ways to break the backend's other side, by what happens: functions that return context managers.

        By default those of ``fault_proxy``, where the backend's fixture uses it.
        """
        return proxy_faults(request.getfixturevalue("fault_proxy")) if "fault_proxy" in request.fixturenames else {}

    # -- a second instance ---------------------------------------------------------------------------------------------

    async def another(self, request: pytest.FixtureRequest) -> Any:
        """Return a second backend on the same store; by default what the fixture makes when it is called again."""
        made = _made(request)
        return await _called(made.function, made.arguments)

    async def _second(self, request: pytest.FixtureRequest, subject: Subject) -> Subject:
        """Return a second subject on the first one's store, with one event of each in it; skip where there is none."""
        await subject.store(plain_event(flag_key="of-the-first"))
        assert (await self.known(subject))["of-the-first"] == 1, "acknowledged, and not stored"
        second = Subject(await self.another(request))
        request.node.stash.setdefault(_SECONDS, []).append(second)
        await second.store(plain_event(flag_key="of-the-second"))
        seen_by_first, seen_by_second = await self.known(subject), await self.known(second)
        if seen_by_first["of-the-first"] and not seen_by_second["of-the-first"] and not seen_by_first["of-the-second"]:
            await second.close()
            pytest.skip("each backend has a store of its own: override `another` if a second one can share it")
        both = Counter({"of-the-first": 1, "of-the-second": 1})
        assert both in (seen_by_first, seen_by_second), (
            "a second backend on the same store changed what is stored: "
            f"the first one finds {dict(seen_by_first)}, the second one {dict(seen_by_second)}"
        )
        return second

    @pytest.mark.asyncio
    async def test_a_second_backend_finds_what_the_first_has_stored(
        self, subject: Subject, request: pytest.FixtureRequest
    ) -> None:
        second = await self._second(request, subject)
        await subject.store(plain_event(flag_key="later"))
        found = await self.known(subject) | await self.known(second)
        await second.close()
        assert found == Counter({"of-the-first": 1, "of-the-second": 1, "later": 1})

    @pytest.mark.asyncio
    async def test_a_batch_that_a_second_backend_writes_again_is_stored_once(
        self, subject: Subject, request: pytest.FixtureRequest
    ) -> None:
        """After a restart the batch comes again whose answer was lost: what was stored is known to the store alone."""
        if not self.idempotent:
            pytest.skip("not idempotent")
        second = await self._second(request, subject)
        batch = await subject.store(*plain_events(5))
        await second.write(batch)
        found = {key: count for key, count in (await self.known(second)).items() if key.startswith("flag-")}
        await second.close()
        assert found == {f"flag-{number}": 1 for number in range(5)}

    @pytest.mark.asyncio
    async def test_what_was_acknowledged_outlives_the_process(
        self, subject: Subject, request: pytest.FixtureRequest
    ) -> None:
        """A child process stores a batch, and ends the moment that it is acknowledged."""
        if not can_fork() or self.store_is_in_process or not self.survives_fork:
            pytest.skip("no other process that could use it, or the store is in this one")
        second = await self._second(request, subject)
        await second.close()

        async def store() -> None:
            child = Subject(await self.another(request))
            await child.store(*plain_events(3))
            os._exit(0)  # before a task or a thread of the backend gets to anything more

        await asyncio.to_thread(run_in_child, lambda: asyncio.run(store()), self.patience_seconds / 2)
        found = {key: count for key, count in (await self.known(subject)).items() if key.startswith("flag-")}
        assert found == {f"flag-{number}": 1 for number in range(3)}, "acknowledged, and not stored"

    # -- failures ------------------------------------------------------------------------------------------------------

    @pytest.mark.asyncio
    @pytest.mark.parametrize("fault", IO_FAULTS)
    async def test_a_failure_of_the_system_is_reported_and_costs_nothing(
        self, subject: Subject, request: pytest.FixtureRequest, fault: str
    ) -> None:
        before = _made(request).descriptors
        repeats = fault == "connections are cut" and not self.idempotent  # it cannot know whether it was stored
        await self._check_failure(subject, lambda: IO_FAULTS[fault](before), most=2 if repeats else 1)

    @pytest.mark.asyncio
    async def test_a_failure_of_the_other_side_is_reported_and_costs_nothing(
        self, subject: Subject, faults: Mapping[str, Callable[[], AbstractContextManager[Any]]]
    ) -> None:
        if not faults:
            pytest.skip("override the fixture `faults` to have your backend's other side broken")
        for fault, broken in faults.items():
            try:
                most = 1 if self.idempotent or not self.repeats_after_failures else 2
                await self._check_failure(subject, broken, of=fault, most=most)
            except AssertionError as error:
                raise AssertionError(f"{fault}: {error}") from error

    async def _check_failure(
        self, subject: Subject, broken: Callable[[], AbstractContextManager[Any]], *, of: str = "flag", most: int
    ) -> None:
        """Store a batch before, during and after a failure, and look at what was reported and what is there."""
        keys = [f"{of}-{number}" for number in range(6)]
        events = [plain_event(number, flag_key=key) for number, key in enumerate(keys)]
        await subject.store(*events[:2])  # so that it is connected
        batch = subject.batch(*events[2:])
        with broken():
            ends = time.monotonic() + _BROKEN_SECONDS
            error = await self._attempt(subject, batch, first=True)
            for _ in range(_FAILURES_IN_A_ROW if subject.is_sink else 2):
                if error is None or time.monotonic() > ends:
                    break
                error = await self._attempt(subject, batch)
        if error is None and subject.is_sink:
            missing = set(keys) - set(await self.known(subject))
            assert not missing, "write() returned, as if all were stored, while it was not"
        for _ in range(_ATTEMPTS_AFTERWARDS):
            if error is None and set(keys) <= set(await self.known(subject)):
                break
            error = await self._attempt(subject, batch)
            if error is not None or not subject.is_sink:
                await asyncio.sleep(_PAUSE_SECONDS)
        found = {key: count for key, count in (await self.known(subject)).items() if key in keys}
        assert error is None, f"the backend did not recover after the failure was over: {type(error).__name__}"
        assert set(found) == set(keys), "what could not be stored at first was given up"
        assert all(count <= most for count in found.values()), f"stored more than once: {found}"

    async def _attempt(self, subject: Subject, batch: Batch, *, first: bool = False) -> Exception | None:
        """Hand over a batch within a second, as the engine does with its own deadline; return what was raised."""
        handing = asyncio.ensure_future(subject.write(batch) if first else subject.write_again(batch))
        done, _ = await asyncio.wait([handing], timeout=1.0)
        if not done:
            handing.cancel()
            done, _ = await asyncio.wait([handing], timeout=2.0)
            assert done, "a write that was cancelled at its deadline does not end"
        if handing.cancelled():
            return TimeoutError("the deadline")
        error = handing.exception()
        assert not isinstance(error, BadBatch), "a failure to write was reported as bad content (BadBatch)"
        assert error is None or isinstance(error, Exception), f"a failure was reported as {type(error).__name__}"
        return error

    @pytest.mark.asyncio
    async def test_a_write_that_is_cancelled_ends_as_cancelled_and_can_be_repeated(self, subject: Subject) -> None:
        if not subject.is_sink:
            pytest.skip("no sink: nothing that waits for it is ever cancelled")
        await subject.store(plain_event(flag_key="first"))
        keys = []
        for steps in _STEPS_BEFORE_CANCEL:
            batch = subject.batch(plain_event(flag_key=f"cancelled-{steps}"))
            keys.append(f"cancelled-{steps}")
            writing = asyncio.ensure_future(subject.write(batch))
            for _ in range(steps):
                await asyncio.sleep(0 if steps < _STEPS_BEFORE_CANCEL[-2] else 0.0005)
            if not writing.done():
                writing.cancel()
                done, _ = await asyncio.wait([writing], timeout=2.0)
                assert done, "a write that was cancelled does not end"
                error = None if writing.cancelled() else writing.exception()
                assert writing.cancelled(), "a write that was cancelled " + (
                    "returned as if nothing had happened" if error is None else f"raised {type(error).__name__}"
                )
                for _ in range(_ATTEMPTS_AFTERWARDS):
                    if await self._attempt(subject, batch) is None:
                        break
                    await asyncio.sleep(_PAUSE_SECONDS)
            await writing if writing.done() and not writing.cancelled() else None
        found = {key: count for key, count in (await self.known(subject)).items() if key in keys}
        assert set(found) == set(keys), "a write that was cancelled and then repeated is missing"
        assert all(count <= (1 if self.idempotent else 2) for count in found.values()), (
            f"stored more than once: {found}"
        )

    @pytest.mark.asyncio
    async def test_an_event_that_cannot_be_read_is_not_passed_over_in_silence(self, subject: Subject) -> None:
        if not subject.is_sink:
            pytest.skip("no sink: it freezes events itself")
        await subject.store(plain_event(flag_key="first"))
        broken: Any = _Unreadable()
        try:
            await subject.write(Batch("kit-unreadable", (broken,)))
        except Exception:
            await subject.store(plain_event(flag_key="last"))
            found = await self.known(subject)
            assert (found["first"], found["last"]) == (1, 1)
            return
        try:
            found = await self.known(subject)
        except ZeroDivisionError:
            return  # it was stored as it is
        assert found["unreadable"] == 1, "write() returned, and left out an event that cannot be read"

    # -- events are the caller's ---------------------------------------------------------------------------------------

    @pytest.mark.asyncio
    async def test_writing_changes_nothing_of_the_events(self, subject: Subject) -> None:
        events = [plain_event(n, value={"a": [1, {"b": n}]}, context_attributes={"x": {"y": [n]}}) for n in range(3)]
        before = [repr(event) for event in events]
        if subject.is_sink:
            batch = subject.batch(*events)
            frozen = [msgspec.structs.astuple(event) for event in batch]
            await subject.write(batch)
            assert [msgspec.structs.astuple(event) for event in batch] == frozen, "write() changed its events"
            assert len(batch) == len(events)
            return
        record = getattr(subject.backend, "record", None) or subject.backend.record_nowait
        for event in events:
            outcome = record(event)
            await outcome if inspect.isawaitable(outcome) else None
        await subject.flush()
        assert [repr(event) for event in events] == before, "record() changed the event of its caller"

    # -- time ----------------------------------------------------------------------------------------------------------

    @pytest.mark.asyncio
    async def test_a_write_lets_other_tasks_go_on(self, subject: Subject) -> None:
        await subject.store(plain_event(flag_key="first"))
        async with LoopWatch() as watch:
            for number in range(3):
                await subject.store(plain_event(number))
                await asyncio.sleep(0.01)
        assert watch.longest < self.max_stall_seconds, f"the event loop stood still for {watch.longest:.3f} seconds"

    @pytest.mark.asyncio
    async def test_a_write_neither_sleeps_nor_waits_without_a_deadline(self, subject: Subject) -> None:
        slept = []
        for number in range(5):
            with watch_waits() as waits:
                await subject.store(plain_event(number))
            slept.append(waits.slept_seconds)
            names = ", ".join(f"socket.{name}" for name in sorted(waits.without_deadline))
            assert not names, f"a write waits in {names} of a socket without a timeout"
        assert min(slept) < 0.002, (
            f"each write calls time.sleep for {min(slept):.3f} seconds: it holds every other task"
        )

    @pytest.mark.asyncio
    async def test_a_write_takes_no_longer_than_its_work(self, subject: Subject) -> None:
        await subject.store(plain_event(flag_key="first"))
        times = []
        for number in range(5):
            started = time.monotonic()
            await subject.store(plain_event(number))
            times.append(time.monotonic() - started)
        assert min(times) < 1.0, f"each write of one event takes {min(times):.1f} seconds or more"

    # -- what is left behind -------------------------------------------------------------------------------------------

    @pytest.mark.asyncio
    async def test_two_hundred_batches_leave_no_thread_task_or_descriptor_behind(
        self, subject: Subject, request: pytest.FixtureRequest
    ) -> None:
        made = _made(request)
        for number in range(20):
            await subject.store(plain_event(number))
        before = (len(live_threads()), len(open_descriptors()), len(pending_tasks()))
        for number in range(20, 220):
            await subject.store(plain_event(number))
        gc.collect()
        after = (len(live_threads()), len(open_descriptors()), len(pending_tasks()))
        more = [new - old for old, new in zip(before, after, strict=True)]
        assert more[0] < 20, f"200 batches left {more[0]} threads"
        assert more[1] < 20, f"200 batches left {more[1]} file descriptors open"
        assert more[2] < 20, f"200 batches left {more[2]} tasks"
        await subject.close()
        left = await _left_after(lambda: live_threads() - made.threads - _of_the_loop(), self.patience_seconds / 4)
        assert not left, f"after close() a thread is still alive: {', '.join(thread.name for thread in left)}"

    @pytest.mark.asyncio
    async def test_what_is_stored_elsewhere_is_not_kept_in_memory(
        self, subject: Subject, request: pytest.FixtureRequest
    ) -> None:
        second = await self._second(request, subject)  # skips where memory is the store
        await second.close()
        batches = [subject.batch(*(plain_event(n, value="x" * 2_000) for n in range(5))) for _ in range(40)]
        for batch in batches[:20]:
            await subject.write(batch)
        gc.collect()
        references = _references(batches)
        tracemalloc.start()
        try:
            before = tracemalloc.get_traced_memory()[0]
            for batch in batches[20:]:
                await subject.write(batch)
            gc.collect()
            grown = tracemalloc.get_traced_memory()[0] - before
        finally:
            tracemalloc.stop()
        kept = sum(new > old for old, new in zip(references, _references(batches), strict=True))
        assert kept < 5, f"{kept} batches and events that were stored elsewhere are still referred to"
        here = self.store_is_in_process or "fault_proxy" in request.fixturenames  # its server mostly is in this process
        assert grown < 100_000 or here, (
            f"100 events of 2 KB that were stored elsewhere leave {grown:,} bytes in memory: see `store_is_in_process`"
        )

    # -- the end -------------------------------------------------------------------------------------------------------

    @pytest.mark.asyncio
    async def test_closing_a_backend_that_was_never_used_is_fine(self, subject: Subject) -> None:
        await self._close(subject)

    @pytest.mark.asyncio
    async def test_closing_twice_by_itself_is_fine(self, subject: Subject) -> None:
        await subject.store(*plain_events(3))
        await self._close(subject)
        await self._close(subject)
        if self.keeps_after_close:
            assert await self.known(subject) == Counter(event.flag_key for event in plain_events(3))

    @pytest.mark.asyncio
    async def test_closing_during_a_write_ends_both(self, subject: Subject) -> None:
        if not subject.is_sink:
            pytest.skip("no sink")
        await subject.store(plain_event(flag_key="first"))
        writing = asyncio.ensure_future(subject.store(*plain_events(50)))
        await asyncio.sleep(0)
        await self._close(subject)
        done, _ = await asyncio.wait([writing], timeout=2.0)
        if not done:
            writing.cancel()
            done, _ = await asyncio.wait([writing], timeout=2.0)
        assert done, "a write during which the backend was closed does not end"
        assert writing.cancelled() or isinstance(writing.exception(), Exception | None)

    @pytest.mark.asyncio
    async def test_closing_lets_an_exit_through(self, subject: Subject) -> None:
        await subject.store(plain_event())

        async def end() -> None:
            try:
                sys.exit(3)
            finally:
                await self._close(subject)

        with pytest.raises(SystemExit, match="3"):
            await end()

    async def _close(self, subject: Subject) -> None:
        closing = asyncio.ensure_future(subject.close())
        done, _ = await asyncio.wait([closing], timeout=self.patience_seconds / 2)
        assert done, f"close() did not end within {self.patience_seconds / 2:g} seconds"
        error = None if closing.cancelled() else closing.exception()
        assert error is None, f"close() raised {type(error).__name__}"

    # -- redaction -----------------------------------------------------------------------------------------------------

    @pytest.mark.asyncio
    async def test_no_event_content_is_logged_printed_or_raised(
        self,
        subject: Subject,
        request: pytest.FixtureRequest,
        caplog: pytest.LogCaptureFixture,
        capfd: pytest.CaptureFixture[str],
    ) -> None:
        content: dict[str, Any] = {
            "value": f"{_CANARY}-value",
            "targeting_key": f"{_CANARY}-user",
            "context_attributes": {"email": f"{_CANARY}@example.org"},
            "error_message": f"{_CANARY} went wrong",
        }
        said: list[str] = []
        with caplog.at_level(logging.DEBUG):
            await subject.store(plain_event(**content))
            batch = subject.batch(plain_event(1, **content))
            for fault in IO_FAULTS.values():
                with fault(_made(request).descriptors):
                    error = await self._attempt(subject, batch, first=True)
                said += [str(error), repr(error)]
            said.append(repr(subject.backend))
            await self._close(subject)
        printed = capfd.readouterr()
        said += [printed.out, printed.err, caplog.text]
        assert not [text for text in said if _CANARY in text], "event content was logged, printed or raised"


_SECONDS = pytest.StashKey[list[Subject]]()


def _made(request: pytest.FixtureRequest) -> Made:
    made: Made | None = request.node.stash.get(MADE, None)
    assert made is not None, "the kit's pytest plugin is not active: run pytest without `-p no:flag_analytics`"
    return made


async def _called(function: Callable[..., Any], arguments: Mapping[str, Any]) -> Any:
    """Return what a fixture's function makes: a plain or an async function, or a generator of either kind."""
    made = function(**arguments)
    if inspect.isawaitable(made):
        return await made
    if isinstance(made, AsyncIterator):
        return await anext(made)
    return next(made) if inspect.isgenerator(made) else made


async def _left_after(look: Callable[[], Any], seconds: float) -> Any:
    """Return what is still there after a while, or nothing as soon as nothing is."""
    for _ in range(max(1, int(seconds / 0.02))):
        if not (left := look()):
            return left
        await asyncio.sleep(0.02)
    return look()


def _of_the_loop() -> frozenset[Any]:
    """Return the threads of the event loop's own executor: they belong to the loop and end with it."""
    return frozenset(thread for thread in live_threads() if thread.name.startswith("asyncio_"))


def _references(batches: list[Batch]) -> list[int]:
    return [sys.getrefcount(each) for batch in batches for each in (batch, *batch.events)]


class _Unreadable:
    """An event that has an id and a flag, and raises for everything else."""

    event_id = "01890a5d-ac96-774b-bcce-b302099a8057"
    flag_key = "unreadable"

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        raise ZeroDivisionError("this event cannot be read")
