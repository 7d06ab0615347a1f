"""``CollectorContract``: what a backend promises that keeps events."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Iterable
from datetime import UTC, datetime, timedelta, timezone
from functools import partial
from typing import Any, ClassVar

import pytest
import pytest_asyncio

from .life_cycle import LifeCycleContract
from .samples import HARD_SAMPLES, described, edge_case_values, plain_event, plain_events
from .subjects import Subject
from .threads import in_threads
from .zones import local_time_zone

__all__ = ["CollectorContract"]


class CollectorContract(LifeCycleContract):
    """Inherit it, return your backend from the fixture ``collector``, and read it back in ``stored``.

    The backend must have room for 10,000 events. ``LifeCycleContract`` and ``WritingContract`` have more.

    Capabilities:
        keeps_order: ``stored`` returns events in the order in which they were recorded.
        keeps_every_field: All of an event's fields are stored, not only the reference's eight.
    """

    keeps_order: ClassVar[bool] = True
    keeps_every_field: ClassVar[bool] = True

    @pytest.fixture
    def collector(self) -> Any:
        """Return a new backend with nothing stored."""
        pytest.fail(f"{type(self).__name__} needs a fixture `collector` that returns a new backend")

    async def stored(self, collector: Any) -> Iterable[Any]:
        """Return every stored event in the order of writing, as events or as dicts of their ``to_dict()``."""
        if not hasattr(collector, "get_events"):
            pytest.fail(f"{type(self).__name__} needs a method `stored`: the collector has no get_events()")
        events: Iterable[Any] = await collector.get_events()
        return events

    @pytest_asyncio.fixture
    async def subject(self, collector: Any) -> AsyncIterator[Subject]:
        subject = Subject(collector, behind_engine=not self.takes_events_directly)
        yield subject
        await subject.close()

    async def known(self, subject: Subject) -> Counter[str]:
        """Return how many events of each flag are stored."""
        return Counter(fields["flag_key"] for fields in await self._read(subject))

    async def _read(self, subject: Subject) -> list[dict[str, Any]]:
        try:
            events = await self.stored(subject.backend)
        except FileNotFoundError:
            events = []  # a file that is made with the first event
        return [described(event, every_field=self.keeps_every_field) for event in events]

    async def _check_round_trip(self, subject: Subject, *events: Any) -> None:
        await subject.record(*events)
        await subject.flush()
        recorded = [described(event, every_field=self.keeps_every_field) for event in events]
        found = await self._read(subject)
        if not self.keeps_order:
            recorded.sort(key=lambda fields: str(fields["flag_key"]))
            found.sort(key=lambda fields: str(fields["flag_key"]))
        assert found == recorded

    async def _check_store(self, subject: Subject, *events: Any) -> None:
        """Hand over one batch, and compare what is stored with the form in which it was handed over."""
        batch = await subject.store(*events)
        handed = [described(event.thaw(), every_field=self.keeps_every_field) for event in batch]
        found = await self._read(subject)
        if not self.keeps_order:
            handed.sort(key=str)
            found.sort(key=str)
        assert found == handed

    @pytest.mark.asyncio
    @pytest.mark.parametrize("sample", HARD_SAMPLES)
    async def test_it_keeps(self, subject: Subject, sample: str) -> None:
        events = [plain_event(number, **fields) for number, fields in enumerate(HARD_SAMPLES[sample])]
        await self._check_store(subject, *events)

    @pytest.mark.asyncio
    @pytest.mark.parametrize("size", [1, 499, 500, 501, 10_000])
    async def test_a_batch_is_stored_whole_whatever_its_size(self, subject: Subject, size: int) -> None:
        events = [plain_event(number, flag_key=f"flag-{number % 1_000}") for number in range(size)]
        await subject.store(*events)
        found = [fields["targeting_key"] for fields in await self._read(subject)]
        wanted = [f"user-{number}" for number in range(size)]
        assert len(found) == size
        assert (found == wanted) if self.keeps_order else (sorted(found) == sorted(wanted))

    @pytest.mark.asyncio
    async def test_events_of_one_moment_and_of_the_past_keep_their_order(self, subject: Subject) -> None:
        if not self.keeps_order:
            pytest.skip("no order")
        moment = datetime.now(UTC) - timedelta(minutes=1)
        offsets = [0, 0, -5, 3, 3, -1]
        for number, offset in enumerate(offsets):
            await subject.store(plain_event(number, timestamp=moment + timedelta(seconds=offset)))
        assert [fields["flag_key"] for fields in await self._read(subject)] == [f"flag-{n}" for n in range(6)]

    @pytest.mark.asyncio
    async def test_times_mean_the_same_in_every_zone_of_the_machine(self, subject: Subject) -> None:
        moments = [fields["timestamp"] for fields in HARD_SAMPLES["hours that clocks are turned back to"]]
        events: list[Any] = []
        for zone in ("EST5EDT,M3.2.0,M11.1.0", "<+0545>-5:45", "<+14>-14"):
            with local_time_zone(zone):
                new = [plain_event(len(events) + n, timestamp=moment) for n, moment in enumerate(moments)]
                events += new
                await subject.store(*new)
                assert sorted(str(fields["timestamp"]) for fields in await self._read(subject)) == sorted(
                    event.timestamp.isoformat() for event in events
                ), f"times change where the machine's zone is {zone}"

    @pytest.mark.asyncio
    async def test_get_events_answers_for_one_flag_and_for_the_newest(self, subject: Subject) -> None:
        get_events = getattr(subject.backend, "get_events", None)
        if get_events is None:
            pytest.skip("no get_events")
        await subject.store(*(plain_event(number, flag_key=f"flag-{number % 2}") for number in range(6)))

        async def users(*arguments: Any, **options: Any) -> list[str]:
            return [str(event.targeting_key) for event in await get_events(*arguments, **options)]

        assert await users() == [f"user-{number}" for number in range(6)]
        assert await users("flag-1") == ["user-1", "user-3", "user-5"]
        assert await users(limit=2) == ["user-4", "user-5"], "limit: the newest, the oldest of them first"
        assert await users("flag-0", limit=2) == ["user-2", "user-4"]
        assert await users(limit=0) == []
        assert await users(limit=100) == [f"user-{number}" for number in range(6)]
        assert await users("no-such-flag") == []

    @pytest.mark.asyncio
    async def test_all_and_only_what_was_recorded_is_stored_in_order(self, subject: Subject) -> None:
        await self._check_round_trip(subject, *plain_events(20))

    @pytest.mark.asyncio
    async def test_the_order_holds_over_many_batches_and_flushes(self, subject: Subject) -> None:
        if not self.keeps_order:
            pytest.skip("no order")
        numbers = iter(range(1_400))
        for count in (1, 700, 2, 697):
            await subject.record(*(plain_event(next(numbers)) for _ in range(count)))
            await subject.flush()
        assert [fields["flag_key"] for fields in await self._read(subject)] == [f"flag-{n}" for n in range(1_400)]

    @pytest.mark.asyncio
    async def test_each_threads_events_stay_in_its_order(self, subject: Subject) -> None:
        if not self.keeps_order:
            pytest.skip("no order")
        events = {thread: [plain_event(n, flag_key=f"thread-{thread}") for n in range(100)] for thread in range(4)}
        await in_threads([partial(subject.record, *mine) for mine in events.values()], self.patience_seconds)
        await subject.flush()
        found = await self._read(subject)
        for thread in range(4):
            users = [fields["targeting_key"] for fields in found if fields["flag_key"] == f"thread-{thread}"]
            assert users == [f"user-{n}" for n in range(100)]

    @pytest.mark.asyncio
    async def test_none_and_falsy_and_nested_values_come_back_as_they_were(self, subject: Subject) -> None:
        values = edge_case_values()
        await self._check_round_trip(subject, *(plain_event(number, value=v) for number, v in enumerate(values)))

    @pytest.mark.asyncio
    async def test_context_attributes_come_back_as_they_were(self, subject: Subject) -> None:
        values = edge_case_values()
        contexts: list[dict[str, Any]] = [{}, {"": ""}, {"a.b": 1, 'c"d': 2, "é": 3}, *({"a": v} for v in values)]
        await self._check_round_trip(
            subject, *(plain_event(number, context_attributes=context) for number, context in enumerate(contexts))
        )

    @pytest.mark.asyncio
    async def test_absent_and_empty_and_similar_texts_stay_apart(self, subject: Subject) -> None:
        texts = [None, "", "default", "Default", "default ", "dèfault", "None", "null", "'; --", "%s", "🚩", "x" * 190]
        events = [plain_event(n, variant=text, targeting_key=text) for n, text in enumerate(texts)]
        keys = [plain_event(flag_key=text) for text in texts if text is not None]
        await self._check_round_trip(subject, *events, *keys)

    @pytest.mark.asyncio
    async def test_any_reason_comes_back_as_it_was(self, subject: Subject) -> None:
        reasons = ["DEFAULT", "ERROR", "error", "TARGETING_MATCH", "MY_OWN_REASON"]
        await self._check_round_trip(subject, *(plain_event(n, reason=reason) for n, reason in enumerate(reasons)))

    @pytest.mark.asyncio
    async def test_every_field_comes_back(self, subject: Subject) -> None:
        if not self.keeps_every_field:
            pytest.skip("keeps the reference's eight fields")
        kinds = ("evaluation", "exposure", "outcome")
        await self._check_round_trip(
            subject,
            *(
                plain_event(
                    number,
                    error_type="TYPE_MISMATCH",
                    error_message="expected a boolean",
                    flag_version="v7",
                    flag_set_id="shop",
                    provider_name="flagd",
                    kind=kind,
                    sample_rate=0.25,
                )
                for number, kind in enumerate(kinds)
            ),
        )

    @pytest.mark.asyncio
    async def test_times_keep_their_microseconds_in_any_zone(self, subject: Subject) -> None:
        moment = datetime.now(UTC).replace(microsecond=123_457) - timedelta(minutes=1)
        zones = [UTC, timezone(timedelta(hours=5, minutes=45)), timezone(timedelta(hours=-9))]
        await self._check_round_trip(
            subject, *(plain_event(n, timestamp=moment.astimezone(zone)) for n, zone in enumerate(zones))
        )

    @pytest.mark.asyncio
    async def test_a_time_without_zone_is_taken_as_utc(self, subject: Subject) -> None:
        moment = datetime.now(UTC) - timedelta(minutes=1)
        await subject.record(plain_event(timestamp=moment.replace(tzinfo=None)))
        await subject.flush()
        (fields,) = await self._read(subject)
        assert fields["timestamp"] == moment.isoformat()

    @pytest.mark.asyncio
    async def test_what_is_changed_after_recording_changes_nothing_stored(self, subject: Subject) -> None:
        contexts: list[dict[str, Any]] = [{}, {"a": 1}, {"a": {"b": [1]}}]
        values: list[Any] = [{"a": [1]}, [1], "text"]
        events = [plain_event(n, context_attributes=contexts[n], value=values[n]) for n in range(3)]
        as_recorded = [described(event, every_field=self.keeps_every_field) for event in events]
        await subject.record(*events)
        for context in contexts:
            context["late"] = True
        contexts[2]["a"]["b"].append(2)
        values[0]["a"].append(2)
        values[1].clear()
        await subject.flush()
        assert await self._read(subject) == as_recorded
        contexts[1].clear()
        assert await self._read(subject) == as_recorded

    @pytest.mark.asyncio
    async def test_what_was_read_can_be_changed_without_changing_what_is_stored(self, subject: Subject) -> None:
        events = [plain_event(0, value={"a": [1]}), plain_event(1, value=1, context_attributes={})]
        await subject.record(*events)
        await subject.flush()
        before = await self._read(subject)
        for event in await self.stored(subject.backend):
            fields = event if isinstance(event, dict) else {"context_attributes": event.context_attributes}
            fields["context_attributes"]["late"] = True
        assert await self._read(subject) == before

    @pytest.mark.asyncio
    async def test_an_event_that_comes_twice_is_stored_once(self, subject: Subject) -> None:
        if not self.idempotent:
            pytest.skip("not idempotent")
        event = plain_event()
        await subject.record(event, event, plain_event(1))
        await subject.flush()
        await subject.record(event)
        await subject.flush()
        assert await self.known(subject) == Counter({"flag-0": 1, "flag-1": 1})

    @pytest.mark.asyncio
    async def test_a_batch_is_written_once_unless_the_answer_was_lost(self, collector: Any, subject: Subject) -> None:
        if subject.delivery is None or not hasattr(collector, "write"):
            pytest.skip("no sink: it is not written to in batches")
        for number in range(3):
            await subject.record(plain_event(number))
            await subject.flush()
        stats = subject.delivery.stats().sinks["subject"]
        assert (stats.delivered, stats.retries, stats.commit_unknown) == (3, 0, 0)
        assert await self.known(subject) == Counter(f"flag-{number}" for number in range(3))
