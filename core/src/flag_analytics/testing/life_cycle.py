"""The promises of every backend: no event lost, none stored twice, no caller disturbed."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from functools import partial
from typing import Any, ClassVar

import pytest

from ..protocols import RecordResult
from .children import can_fork, run_in_child
from .samples import foreign_event, hostile_events, plain_event, plain_events
from .stalls import LoopWatch
from .subjects import Subject
from .threads import eager_switching, in_threads
from .writing import WritingContract

__all__ = ["LifeCycleContract"]


class LifeCycleContract(WritingContract):
    """The part of the contract that ``CollectorContract`` and ``ExporterContract`` share, with that of its base.

    Capabilities:
        takes_events_directly: Applications may hold it themselves. If False, it is only ever used behind a pipeline,
            and the kit puts it behind the delivery engine (a sink always is).
        forks: How often a fork is tried while other threads record.
        fork_deadline_seconds: How long a forked child may take to record one event and flush.
    """

    takes_events_directly: ClassVar[bool] = True
    forks: ClassVar[int] = 10
    fork_deadline_seconds: ClassVar[float] = 5.0

    def test_no_test_of_the_contract_is_overridden(self) -> None:
        overridden = [
            name
            for name in _names_of_tests(type(self))
            if not _is_own(getattr(type(self), name)) and not _has_reason(getattr(type(self), name))
        ]
        assert not overridden, (
            f"{', '.join(overridden)} of the contract: overridden; state a capability in a class attribute instead, "
            "or mark the test that replaces it with @pytest.mark.xfail(reason=...)"
        )

    @pytest.mark.asyncio
    async def test_a_new_backend_knows_of_nothing(self, subject: Subject) -> None:
        await subject.flush()
        assert await self.known(subject) == Counter()

    @pytest.mark.asyncio
    async def test_what_was_recorded_is_known_after_a_flush(self, subject: Subject) -> None:
        events = plain_events(20)
        await subject.record(*events)
        await subject.flush()
        assert await self.known(subject) == Counter(event.flag_key for event in events)

    @pytest.mark.asyncio
    async def test_a_flush_repeats_nothing(self, subject: Subject) -> None:
        for event in plain_events(5):
            await subject.record(event)
            await subject.flush()
            await subject.flush()
        assert await self.known(subject) == Counter(event.flag_key for event in plain_events(5))

    @pytest.mark.asyncio
    async def test_many_events_at_once_all_arrive(self, subject: Subject) -> None:
        await subject.record(*(plain_event(number, flag_key=f"flag-{number % 7}") for number in range(1_500)))
        await subject.flush()
        assert await self.known(subject) == Counter(f"flag-{number % 7}" for number in range(1_500))

    @pytest.mark.asyncio
    async def test_closing_loses_nothing(self, subject: Subject) -> None:
        if not self.keeps_after_close:
            pytest.skip("nothing can be read after close()")
        await subject.record(*plain_events(20))
        await subject.close()
        assert await self.known(subject) == Counter(event.flag_key for event in plain_events(20))

    @pytest.mark.asyncio
    async def test_closing_again_and_from_many_tasks_is_fine(self, subject: Subject) -> None:
        await subject.record(*plain_events(3))
        await asyncio.wait_for(asyncio.gather(*(subject.close() for _ in range(5))), self.patience_seconds)
        await subject.close()
        if self.keeps_after_close:
            assert await self.known(subject) == Counter(event.flag_key for event in plain_events(3))

    @pytest.mark.asyncio
    async def test_recording_after_close_neither_raises_nor_arrives(self, subject: Subject) -> None:
        await subject.record(plain_event(flag_key="before"))
        await subject.close()
        await subject.record(plain_event(flag_key="after"))
        if self.keeps_after_close:
            assert (await self.known(subject))["after"] == 0

    @pytest.mark.asyncio
    async def test_flushing_after_close_is_fine(self, subject: Subject) -> None:
        await subject.close()
        await subject.flush()

    @pytest.mark.asyncio
    async def test_many_tasks_of_one_event_loop_may_record(self, subject: Subject) -> None:
        async def record(task: int) -> None:
            for number in range(20):
                await subject.record(plain_event(number, flag_key=f"task-{task}"))
                await asyncio.sleep(0)

        await asyncio.gather(*(record(task) for task in range(20)))
        await subject.flush()
        assert await self.known(subject) == Counter({f"task-{task}": 20 for task in range(20)})

    @pytest.mark.asyncio
    async def test_many_threads_may_record_at_once(self, subject: Subject) -> None:
        events = {thread: [plain_event(n, flag_key=f"thread-{thread}") for n in range(200)] for thread in range(8)}
        with eager_switching():
            await in_threads([partial(subject.record, *mine) for mine in events.values()], self.patience_seconds)
        await subject.flush()
        assert await self.known(subject) == Counter({f"thread-{thread}": 200 for thread in range(8)})

    @pytest.mark.asyncio
    async def test_many_event_loops_may_record_and_flush_one_after_the_other_and_at_once(
        self, subject: Subject
    ) -> None:
        async def use(loop: int) -> None:
            for number in range(10):
                await subject.record(plain_event(number, flag_key=f"loop-{loop}"))
                await asyncio.sleep(0)
            await subject.flush()

        await in_threads([partial(use, 0)], self.patience_seconds)  # the loop that used it first is closed now
        await in_threads([partial(use, loop) for loop in range(1, 6)], self.patience_seconds)
        await use(6)
        assert await self.known(subject) == Counter({f"loop-{loop}": 10 for loop in range(7)})

    @pytest.mark.asyncio
    async def test_the_event_loop_is_never_blocked(self, subject: Subject) -> None:
        async with LoopWatch() as watch:
            for number in range(3):
                await subject.record(plain_event(number))
                await asyncio.sleep(0.01)
            await subject.flush()
            await asyncio.sleep(0.01)
        assert watch.longest < self.max_stall_seconds, f"the event loop stood still for {watch.longest:.3f} seconds"

    @pytest.mark.asyncio
    async def test_cancelling_a_flush_loses_nothing(self, subject: Subject) -> None:
        await subject.record(*plain_events(20))
        flush = asyncio.ensure_future(subject.flush())
        await asyncio.sleep(0)
        flush.cancel()
        await asyncio.wait([flush])
        await subject.flush()
        assert await self.known(subject) == Counter(event.flag_key for event in plain_events(20))

    @pytest.mark.asyncio
    async def test_hostile_events_raise_nothing_and_harm_no_other(self, subject: Subject) -> None:
        hostile = dict(hostile_events())
        for what, event in hostile.items():
            try:
                await subject.record(event)
            except Exception as error:
                pytest.fail(f"record() of an event with {what} raised {type(error).__name__}")
            await subject.record(plain_event(flag_key="good"))
        await subject.flush()
        assert await self.known(subject) == Counter(good=len(hostile), hostile=len(hostile))

    @pytest.mark.asyncio
    async def test_record_nowait_says_what_became_of_the_event(self, subject: Subject) -> None:
        """It answers at once, and raises for no event, nor after the close."""
        record_nowait = getattr(subject.backend, "record_nowait", None)
        if record_nowait is None or subject.delivery is not None:
            pytest.skip("no record_nowait")
        for what, event in {"nothing wrong": plain_event(), **dict(hostile_events())}.items():
            try:
                outcome = record_nowait(event)
            except Exception as error:
                pytest.fail(f"record_nowait() of an event with {what} raised {type(error).__name__}")
            assert isinstance(outcome, RecordResult), (
                f"record_nowait() returned {type(outcome).__name__}: see RecordResult"
            )
            assert outcome, f"record_nowait() of an event with {what}: {outcome}"
        await subject.close()
        assert not record_nowait(plain_event()), "an event was accepted after the close"

    @pytest.mark.asyncio
    async def test_events_of_a_foreign_class_are_taken(self, subject: Subject) -> None:
        await subject.record(*(foreign_event(number) for number in range(5)))
        await subject.flush()
        assert await self.known(subject) == Counter(f"flag-{number}" for number in range(5))

    @pytest.mark.asyncio
    async def test_a_forked_child_is_not_stuck_and_repeats_nothing(self, subject: Subject) -> None:
        if not (self.survives_fork and can_fork()):
            pytest.skip("no fork")
        subject.start()
        with eager_switching():
            for fork in range(self.forks):
                await self._fork_while_recording(subject, fork)
        await subject.flush()
        known = await self.known(subject)
        assert {key: n for key, n in known.items() if key.startswith("parent")} == {
            f"parent-{fork}-{thread}": 50 for fork in range(self.forks) for thread in range(2)
        }
        # What the children recorded is seen here only if they share the store; there, once.
        assert {n for key, n in known.items() if key.startswith("child")} <= {1}

    async def _fork_while_recording(self, subject: Subject, fork: int) -> None:
        at_once = threading.Barrier(3)

        async def record(thread: int) -> None:
            events = [plain_event(number, flag_key=f"parent-{fork}-{thread}") for number in range(50)]
            at_once.wait(self.patience_seconds)
            await subject.record(*events)

        async def use_in_child() -> None:
            await subject.record(plain_event(flag_key=f"child-{fork}"))
            await subject.flush()

        async def fork_child() -> None:
            at_once.wait(self.patience_seconds)

        def forker() -> None:
            asyncio.run(fork_child())
            run_in_child(lambda: asyncio.run(use_in_child()), self.fork_deadline_seconds)

        await asyncio.gather(
            in_threads([partial(record, 0), partial(record, 1)], self.patience_seconds), asyncio.to_thread(forker)
        )


def _names_of_tests(contract: type) -> list[str]:
    return sorted(
        {name for base in contract.__mro__ if _is_contract(base) for name in vars(base) if name.startswith("test_")}
    )


def _is_contract(base: type) -> bool:
    return base.__module__.startswith(f"{__package__}.")


def _is_own(test: Any) -> bool:
    return str(getattr(test, "__module__", "")).startswith(f"{__package__}.")


def _has_reason(test: Any) -> bool:
    marks = getattr(test, "pytestmark", [])
    return any(mark.name == "xfail" and mark.kwargs.get("reason") for mark in marks)
