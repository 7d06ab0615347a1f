"""``EventSourceContract``: what a source promises that answers questions about stored events."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, ClassVar

import pytest
import pytest_asyncio

from ..marshalled import MarshalledSource
from ..sources import PARTS, EventFilter, FlagSummary, Grouping, Window
from .oracle import Oracle
from .samples import plain_event
from .subjects import Subject
from .threads import in_threads

__all__ = ["EventSourceContract"]

START = datetime(2026, 3, 1, 12, 0, 0, 123_456, UTC)
END = START + timedelta(seconds=600)
_ALL = Window(START, END)
_FIGURES = (
    "total",
    "errors",
    "unique_users",
    "variants",
    "reasons",
    "first_seen",
    "variant_users",
    "crossover_users",
)
_PERCENTILES = (0.0, 1.0, 25.0, 50.0, 90.0, 95.0, 99.0, 99.9, 100.0)
_ALIKE: tuple[Any, ...] = (1, 1.5, True, False, 0, "1", "true", "", None, "ü", "U", [1], [True], {"a": [1.5, None]})

WINDOWS = {
    "the whole": _ALL,
    "from the first event on": Window(None, END),
    "one moment": Window(START, START),
    "up to a microsecond before the end": Window(START, END - timedelta(microseconds=1)),
    "from a microsecond after the start": Window(START + timedelta(microseconds=1), END),
    "a minute in the middle": Window(START + timedelta(seconds=120), START + timedelta(seconds=180)),
    "before everything": Window(None, START - timedelta(seconds=1)),
    "after everything": Window(END + timedelta(seconds=1), END + timedelta(seconds=5)),
}
FILTERS: dict[str, EventFilter | None] = {
    "any": None,
    "a variant": EventFilter(variant="on"),
    "a variant in another case": EventFilter(variant="ON"),
    "the default variant": EventFilter(variant="default"),
    "an environment": EventFilter(environment="production"),
    "a provider": EventFilter(provider_name="flagd"),
    "outcomes": EventFilter(kinds=("outcome",)),
    "no kind": EventFilter(kinds=()),
    "one of two variants": EventFilter(variant={"on", "off"}),
    "one of two reasons": EventFilter(reasons=frozenset({"ERROR", "MY_OWN"})),
    "a version": EventFilter(flag_version="2"),
    "a set of flags": EventFilter(flag_set_id="shop"),
    "a user": EventFilter(targeting_key="user-3"),
    "one of two context values": EventFilter(context={"plan": {"pro", "free"}, "alike": {True, "1"}}),
    "all of it": EventFilter(environment="production", provider_name="flagd", variant="on", context={"plan": "pro"}),
    **{f"a context value of {value!r}": EventFilter(context={"alike": value}) for value in _ALIKE},
}


GROUPINGS = {
    grouping.by + (f", {grouping.most}" if grouping.most < 50 else ""): grouping
    for grouping in (
        Grouping("variant"),
        Grouping("reason"),
        Grouping("flag_version"),
        Grouping("environment"),
        Grouping("context.alike"),
        Grouping("context.alike", 3),
        Grouping("context.no-such-attribute"),
    )
}


def source_events() -> list[Any]:
    """Return events that careless answers count wrongly: at the edges of windows, alike, of every kind and duration."""
    variants = (None, "default", "on", "ON", "off", "")
    events = [
        plain_event(
            number,
            timestamp=START + timedelta(seconds=5 * number),
            flag_key=("checkout", "Checkout", "search")[number % 3],
            reason=("SPLIT", "ERROR", "MY_OWN", "error")[number // 3 % 4],
            variant=variants[number // 2 % len(variants)],
            targeting_key=(None, "", *(f"user-{n}" for n in range(15)))[number % 17],
            evaluation_duration_ms=(0.0, 0.1, 1e-9, 3.3, 250.0, 1e9)[number // 3 % 6] * (1 + number % 5),
            context_attributes={
                "alike": _ALIKE[number % len(_ALIKE)],
                "environment": ("production", "staging")[number // 6 % 2],
                "plan": ("pro", "free")[number // 12 % 2],
            },
            provider_name=("flagd", "FlagD", None)[number // 4 % 3],
            flag_version=("1", "2", None)[number // 7 % 3],
            flag_set_id=("shop", None)[number // 8 % 2],
            error_type=("GENERAL", None, None, "")[number % 4],
            kind=("evaluation", "evaluation", "exposure", "outcome")[number // 5 % 4],
        )
        for number in range(120)
    ]
    edges = [
        START,
        END,
        END - timedelta(microseconds=1),
        START + timedelta(microseconds=1),
        START + timedelta(seconds=60),
        START + timedelta(seconds=60) - timedelta(microseconds=1),
        START - timedelta(microseconds=1),
        END + timedelta(microseconds=1),
        datetime(2090, 1, 1, tzinfo=UTC),
    ]
    events += [plain_event(200 + n, flag_key="edges", timestamp=moment) for n, moment in enumerate(edges)]
    events.append(plain_event(300, flag_key="once", timestamp=START, evaluation_duration_ms=0.0, targeting_key=None))
    return events


class EventSourceContract:
    """Inherit it, and return your source, with nothing stored, from the fixture ``source``.

    A source that is a backend too is filled by writing to it; for any other one override ``fill``.

    Capabilities:
        idempotent: An event that comes twice, by its ``event_id``, is counted once.
        relative_error: How much a percentile may differ, as a ratio.
        patience_seconds: How long one test may take before it counts as stuck.
        max_seconds: How long all tests of a class may take.
    """

    is_contract = True
    idempotent: ClassVar[bool] = False
    relative_error: ClassVar[float] = 1e-9
    patience_seconds: ClassVar[float] = 10.0
    max_seconds: ClassVar[float] = 40.0

    @pytest.fixture
    def source(self) -> Any:
        """Return a new source with nothing stored."""
        pytest.fail(f"{type(self).__name__} needs a fixture `source` that returns a new source")

    async def fill(self, source: Any, events: Sequence[Any]) -> None:
        """Store these events where the source finds them; by default it is handed them as a backend."""
        await Subject(source).store(*events)

    async def empty(self, source: Any) -> None:
        """Release what the source holds; by default it is closed where it can be."""
        await Subject(source).close()

    @pytest_asyncio.fixture
    async def filled(self, source: Any) -> AsyncIterator[tuple[Any, Oracle]]:
        events = source_events()
        await self.fill(source, events)
        yield source, Oracle(events)
        await self.empty(source)

    @pytest.mark.asyncio
    async def test_an_empty_source_knows_of_nothing(self, source: Any) -> None:
        try:
            assert not [summary for summary in (await source.summarise(["a"], _ALL)).values() if summary.total]
            assert list(await source.list_flags(_ALL)) == []
            assert dict(await source.count_steps("a", _ALL, 60.0)) == {}
            assert await source.count_future(START) == 0
        finally:
            await self.empty(source)

    @pytest.mark.asyncio
    @pytest.mark.parametrize("window", WINDOWS)
    async def test_a_window_holds_both_its_ends(self, filled: tuple[Any, Oracle], window: str) -> None:
        await self._check_all(*filled, WINDOWS[window], None)

    @pytest.mark.asyncio
    @pytest.mark.parametrize("where", FILTERS)
    async def test_a_filter_lets_through(self, filled: tuple[Any, Oracle], where: str) -> None:
        await self._check_all(*filled, Window(None, END), FILTERS[where])

    async def _check_all(self, source: Any, oracle: Oracle, window: Window, where: EventFilter | None) -> None:
        keys = [*oracle.flag_keys(), "no-such-flag"]
        found = await source.summarise(keys, window, where=where)
        for key in keys:
            self._check_summary(found, oracle, key, window, (), where)
        assert list(await source.list_flags(window, where=where)) == oracle.list_flags(window, where)

    def _check_summary(
        self,
        found: Mapping[str, FlagSummary],
        oracle: Oracle,
        key: str,
        window: Window,
        percentiles: Sequence[float],
        where: EventFilter | None = None,
    ) -> None:
        wanted = oracle.summarise(key, window, percentiles, where=where)
        summary = found.get(key) or FlagSummary()
        if wanted is None:
            assert summary.total == 0
            return
        self._compare(summary, wanted, key)

    def _compare(self, summary: FlagSummary, wanted: FlagSummary, what: str) -> None:
        for part in _FIGURES:
            answer = getattr(summary, part)
            assert (dict(answer) if isinstance(answer, Mapping) else answer) == getattr(wanted, part), f"{what}: {part}"
        assert dict(summary.percentiles) == pytest.approx(dict(wanted.percentiles), rel=self.relative_error), what
        assert not summary.estimated, what

    @pytest.mark.asyncio
    async def test_percentiles_are_interpolated_between_the_durations_above_zero(
        self, filled: tuple[Any, Oracle]
    ) -> None:
        source, oracle = filled
        keys = oracle.flag_keys()
        found = await source.summarise(keys, _ALL, percentiles=_PERCENTILES)
        for key in keys:
            self._check_summary(found, oracle, key, _ALL, _PERCENTILES)

    @pytest.mark.asyncio
    async def test_each_part_is_the_same_alone(self, filled: tuple[Any, Oracle]) -> None:
        source, oracle = filled
        whole = oracle.summarise("checkout", _ALL, (50.0,))
        assert whole is not None
        names = {
            "count": ("total",),
            "users": ("unique_users",),
            "variants": ("variants",),
            "reasons": ("reasons",),
            "errors": ("errors",),
            "variant_users": ("variant_users", "crossover_users"),
        }
        for part, fields in names.items():
            found = (await source.summarise(["checkout"], _ALL, parts=frozenset({part})))["checkout"]
            for field in fields:
                answer = getattr(found, field)
                assert (dict(answer) if isinstance(answer, Mapping) else answer) == getattr(whole, field), part
        found = (await source.summarise(["checkout"], _ALL, parts=frozenset({"latency"}), percentiles=(50.0,)))[
            "checkout"
        ]
        assert dict(found.percentiles) == pytest.approx(dict(whole.percentiles), rel=self.relative_error)
        assert names.keys() | {"latency"} == PARTS

    @pytest.mark.asyncio
    @pytest.mark.parametrize("step_seconds", [0.5, 7.0, 60.0, 600.0, 3_600.0])
    async def test_steps_are_counted_from_the_start_of_the_window(
        self, filled: tuple[Any, Oracle], step_seconds: float
    ) -> None:
        source, oracle = filled
        for key in ("checkout", "edges", "no-such-flag"):
            found = await source.count_steps(key, _ALL, step_seconds)
            assert dict(found) == oracle.count_steps(key, _ALL, step_seconds), key
        where = EventFilter(variant="on")
        found = await source.count_steps("checkout", _ALL, step_seconds, where=where)
        assert dict(found) == oracle.count_steps("checkout", _ALL, step_seconds, where)

    @pytest.mark.asyncio
    @pytest.mark.parametrize("group_by", GROUPINGS)
    async def test_events_are_grouped_by(self, filled: tuple[Any, Oracle], group_by: str) -> None:
        source, oracle = filled
        grouping = GROUPINGS[group_by]
        found = (await source.summarise(["checkout"], _ALL, percentiles=(50.0,), group_by=grouping))["checkout"]
        wanted = oracle.summarise("checkout", _ALL, (50.0,), group_by=grouping)
        assert wanted is not None
        assert found.groups.keys() == wanted.groups.keys()
        for name, summary in wanted.groups.items():
            self._compare(found.groups[name], summary, name)

    @pytest.mark.asyncio
    @pytest.mark.parametrize("window", WINDOWS)
    async def test_users_are_told_by_the_variant_they_saw_first(self, filled: tuple[Any, Oracle], window: str) -> None:
        source, oracle = filled
        for key in ("checkout", "search", "edges"):
            found = await source.get_exposures(key, WINDOWS[window])
            wanted = oracle.exposures(key, WINDOWS[window])
            for figure in ("users", "first_variant_users", "crossover_users", "switch_back_users"):
                assert getattr(found, figure) == getattr(wanted, figure), f"{key}: {figure}"

    @pytest.mark.asyncio
    async def test_a_sampled_event_counts_for_those_that_were_left_out(self, source: Any) -> None:
        events = [plain_event(n, flag_key="sampled", timestamp=START, sample_rate=0.25) for n in range(3)]
        await self.fill(source, [*events, plain_event(3, flag_key="sampled", timestamp=START)])
        try:
            summary = (await source.summarise(["sampled"], _ALL))["sampled"]
            assert summary.total == 13, "an event with a sample rate of 0.25 counts as 4"
            assert summary.estimated, "a figure with sampled events in it is an estimate"
        finally:
            await self.empty(source)

    @pytest.mark.asyncio
    async def test_events_of_the_future_are_counted(self, filled: tuple[Any, Oracle]) -> None:
        source, oracle = filled
        for now in (START, START + timedelta(seconds=60), END, datetime(2080, 1, 1, tzinfo=UTC)):
            assert await source.count_future(now) == oracle.count_future(now)

    @pytest.mark.asyncio
    async def test_an_event_that_comes_twice_counts_once(self, source: Any) -> None:
        if not self.idempotent:
            pytest.skip("not idempotent")
        event = plain_event(flag_key="twice", timestamp=START)
        await self.fill(source, [event, event])
        await self.fill(source, [event])
        try:
            assert (await source.summarise(["twice"], _ALL))["twice"].total == 1
            assert [flag.count for flag in await source.list_flags(_ALL)] == [1]
        finally:
            await self.empty(source)

    @pytest.mark.asyncio
    async def test_asking_changes_nothing(self, filled: tuple[Any, Oracle]) -> None:
        source, _ = filled
        first = await source.summarise(["checkout"], _ALL, percentiles=(50.0,))
        await source.list_flags(_ALL)
        await source.count_steps("checkout", _ALL, 60.0)
        assert await source.summarise(["checkout"], _ALL, percentiles=(50.0,)) == first

    @pytest.mark.asyncio
    async def test_questions_may_come_at_once(self, filled: tuple[Any, Oracle]) -> None:
        source, oracle = filled
        wanted = oracle.list_flags(_ALL)
        for found in await asyncio.gather(*(source.list_flags(_ALL) for _ in range(8))):
            assert list(found) == wanted

    @pytest.mark.asyncio
    async def test_questions_may_come_from_another_event_loop(self, source: Any) -> None:
        """Writes run in the loop of the sink's own thread; a pipeline asks there too, unless ``any_loop`` is true."""
        events = source_events()
        wanted = Oracle(events).list_flags(_ALL)
        asked: Any = source
        subject = None
        if hasattr(source, "write") and not getattr(source, "any_loop", False):
            subject = Subject(source)
            await subject.record(*events)
            await subject.flush()
            assert subject.delivery is not None
            asked = MarshalledSource(source, partial(subject.delivery.ask, "subject"))
        else:
            await self.fill(source, events)
            assert list(await source.list_flags(_ALL)) == wanted

        async def ask() -> None:
            assert list(await asked.list_flags(_ALL)) == wanted

        try:
            await ask()
            await in_threads([ask, ask], self.patience_seconds)
        finally:
            await (self.empty(source) if subject is None else subject.close())
