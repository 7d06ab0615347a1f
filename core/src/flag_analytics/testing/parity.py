"""``SourceParityContract``: a source answers as the arithmetic over events in memory does, whatever the events are.

It needs Hypothesis, which makes them up: few values of each kind, so that events meet at a boundary, in a tie, or under
the same user, and values that careless SQL takes for others.
"""

from __future__ import annotations

import uuid
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, ClassVar, TypeVar, cast

import attrs
import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from .. import metrics
from ..events import FlagEvaluationEvent, new_event_id
from ..freezer import Freezer
from ..frozen import FrozenEvent
from ..outcomes import exposure_filter
from ..protocols import Batch
from ..sources import PARTS, EventFilter, FlagSummary, Grouping, Window
from .samples import plain_event

__all__ = ["FEW", "SourceParityContract", "check_every_answer", "every_question"]

_BASE = datetime(2026, 3, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)

offsets = st.sampled_from([0, 1, 2, 3, 999_999, 1_000_000, 1_000_001, 1_500_000, 3_599_999_999, 3_600_000_000])
times = offsets.map(lambda offset: _BASE + offset * _MICROSECOND)
flag_keys = st.sampled_from(["a", "b", "A", "a ", "ä", "🎏"])
attribute_names = st.sampled_from(["plan", "environment", 'q"u', "a.b", "é", "\t", "", "$[0]", "-a"])
attribute_values = st.sampled_from(
    [
        None,
        True,
        False,
        0,
        1,
        1.0,
        -0.0,
        1.5,
        "1",
        "",
        "true",
        "null",
        "x ",
        "x",
        2**53 + 1,
        float(2**53),
        2**60,
        float(2**60),
        2**63 - 1,
        float(2**63),
        1e300,
        1e16,
        10**16,
        [1],
        [1, None],
        {"a": 1, "b": [2, "x, y"]},
        {},
    ]
)
numbers = st.sampled_from([0, 1, 1.0, -0.0, 1.5, 2**53 + 1, float(2**53), 2**60, float(2**60), 1e300, 5e-324])
leaves = st.sampled_from([None, True, False, "", "1", "é", "true", "a b", "\t\n'"]) | numbers
nested = st.recursive(
    leaves,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(attribute_names, inner, max_size=2),
    max_leaves=4,
)
contexts = st.dictionaries(attribute_names, attribute_values | nested, max_size=3)

# A third and 0.7 have no exact weight; the last is below the least rate that counts.
rates = st.sampled_from([1.0, 1.0, 1.0, 0.5, 0.1, 1 / 3, 0.7, 0.999999, 1e-9])
events = st.builds(
    FlagEvaluationEvent,
    times,
    flag_keys,
    st.sampled_from([None, None, True, 1, 2.5, -4, 1e300, "1", [1]]),
    st.sampled_from(["SPLIT", "ERROR", "error", "custom"]),
    st.sampled_from([None, "", "default", "on", "ON", "on "]),
    st.sampled_from([None, "", " ", "u", "U", "u ", "ü"]),
    contexts,
    st.sampled_from([0.0, -1.0, 0.1, 0.2, 0.3, 1 / 3, 5e-324, 1e300]) | st.floats(1e-9, 1e9),
    event_id=st.builds(new_event_id),
    error_type=st.sampled_from([None, None, "", "GENERAL"]),
    flag_version=st.sampled_from([None, "", "1", "2"]),
    flag_set_id=st.sampled_from([None, "web"]),
    sample_rate=rates,
    kind=st.sampled_from(["evaluation", "evaluation", "exposure", "outcome"]),
    provider_name=st.sampled_from([None, "flagd", "Flagd"]),
)
windows = st.builds(
    lambda one, other, open_start: Window(None if open_start else min(one, other), max(one, other)),
    times,
    times,
    st.booleans(),
)


def wanted(*texts: str) -> st.SearchStrategy[Any]:
    """Any, one of these texts, or a set of them."""
    return st.none() | st.none() | st.sampled_from(texts) | st.sets(st.sampled_from(texts), max_size=2)


hashable = st.sampled_from([None, True, 1, 1.5, "x", "é", 2**60])
filters = st.builds(
    EventFilter,
    environment=wanted("x", "1"),
    provider_name=wanted("flagd", "Flagd"),
    variant=wanted("on", "default", "", "ON"),
    context=st.dictionaries(attribute_names, attribute_values | nested | st.sets(hashable, max_size=2), max_size=1),
    kinds=st.sampled_from([("evaluation", "exposure"), ("outcome",), ("evaluation", "exposure", "outcome"), ()]),
    reasons=wanted("SPLIT", "ERROR", "error"),
    flag_version=wanted("1", "2", ""),
    flag_set_id=wanted("web"),
    targeting_key=wanted("u", "U", "", "ü"),
)
groupings = st.builds(
    Grouping,
    st.sampled_from(["variant", "reason", "flag_version", "environment"]) | attribute_names.map("context.{}".format),
    st.sampled_from([1, 2, 50]),
)
percentiles = st.lists(st.sampled_from([0.0, 100.0, 50.0, 90.0, 99.0, 99.9]) | st.floats(0, 100), max_size=4)
FEW = settings(
    max_examples=70,
    deadline=None,
    suppress_health_check=[
        HealthCheck.function_scoped_fixture,
        HealthCheck.too_slow,
        HealthCheck.data_too_large,
        HealthCheck.differing_executors,
    ],
)


_QUESTIONS: Any = given(
    recorded=st.lists(events, max_size=25),
    window=windows,
    where=st.none() | filters,
    percents=percentiles,
    step_seconds=st.sampled_from([1e-6, 2e-6, 0.5, 1.0, 1.000001, 3_600.0, 10_000.0]),
    parts=st.just(PARTS) | st.sets(st.sampled_from(sorted(PARTS))).map(frozenset),
    group_by=groupings,
)


Test = TypeVar("Test", bound=Callable[..., Any])


def every_question(test: Test) -> Test:
    """Let Hypothesis call a test with events and questions, the arguments of ``check_every_answer``."""
    return cast("Test", _QUESTIONS(test))


Replace = Callable[[Batch], Awaitable[None]]
"""Makes these the only events that are stored."""


async def check_every_answer(
    source: Any,
    replace_all: Replace,
    recorded: Sequence[FlagEvaluationEvent],
    window: Window,
    where: EventFilter | None,
    percents: Sequence[float],
    step_seconds: float,
    parts: frozenset[str],
    group_by: Grouping,
) -> None:
    """Ask a source every question about these events, and compare."""
    batch = _batch(recorded)
    await replace_all(batch)
    selected = metrics.select(batch.events, window, metrics.canonical_filter(where))
    by_flag: dict[str, list[Any]] = {}
    for event in selected:
        by_flag.setdefault(event.flag_key, []).append(event)

    found = await source.summarise(
        ["a", "b", "A", "a ", "ä", "🎏"], window, parts=parts, percentiles=percents, where=where
    )
    assert found.keys() == by_flag.keys()
    for flag_key, summary in found.items():
        assert _asked_for(summary, parts) == _asked_for(_tally(by_flag[flag_key], percents), parts)

    assert await source.summarise(["a", "b"], window, percentiles=percents, where=where, group_by=group_by) == {
        key: metrics.summarise(by_flag[key], percents, group_by) for key in ("a", "b") if key in by_flag
    }
    in_memory = metrics.EventsSource(lambda: batch.events)
    for flag_key in ("a", "b"):
        exposures: Any = await in_memory.get_exposures(flag_key, window, where=where)
        assert await source.get_exposures(flag_key, window, where=where) == exposures

    exposed = exposure_filter(metrics.canonical_filter(where))
    for flag_key, metric in (("a", "b"), ("a", "a"), ("b", "A")):
        outcomes = await in_memory.get_outcomes(flag_key, metric, window, where=exposed)
        assert await source.get_outcomes(flag_key, metric, window, where=exposed) == outcomes

    for flag_key in ("a", "b"):
        found = await source.summarise([flag_key], window, parts=parts, percentiles=percents, where=where)
        assert found.keys() == {flag_key} & by_flag.keys()
        for summary in found.values():
            assert _asked_for(summary, parts) == _asked_for(_tally(by_flag[flag_key], percents), parts)

    activity = [metrics.activity(flag_key, of_flag) for flag_key, of_flag in sorted(by_flag.items())]
    assert await source.list_flags(window, where=where) == activity
    if window.start is not None:
        for flag_key in ("a", "b"):
            steps = metrics.count_steps(by_flag.get(flag_key, []), window, step_seconds)
            assert await source.count_steps(flag_key, window, step_seconds, where=where) == steps
            grouped = await in_memory.count_steps(flag_key, window, step_seconds, where=where, group_by=group_by)
            found_steps = await source.count_steps(flag_key, window, step_seconds, where=where, group_by=group_by)
            assert found_steps == grouped
    assert await source.count_future(window.end) == sum(event.timestamp > window.end for event in batch.events)

    if not hasattr(source, "get_events"):
        return
    read = await source.get_events(window=window, where=where or EventFilter())
    in_order = sorted(selected, key=lambda event: (event.timestamp, event.event_id))
    assert [repr(event) for event in read] == [repr(event.thaw()) for event in in_order]


def _batch(events: Sequence[FlagEvaluationEvent]) -> Batch:
    """Return a batch of its own, with new ids: Hypothesis repeats an example, and what looks alike is others then."""
    freeze = Freezer(clock=_BASE.timestamp).freeze
    frozen: tuple[FrozenEvent, ...] = tuple(
        msgspec.structs.replace(freeze(event), event_id=new_event_id()) for event in events
    )
    return Batch(uuid.uuid4().hex, frozen)


def _tally(selected: list[Any], percents: Sequence[float]) -> FlagSummary:
    tally = metrics.Tally()
    tally.add(selected)
    return tally.summary(percents)


def _asked_for(summary: FlagSummary, parts: frozenset[str]) -> FlagSummary:
    """Leave out what was not asked for: a source may compute it or not."""
    nothing = FlagSummary()
    fields = {
        "errors": ["errors"],
        "users": ["unique_users"],
        "variants": ["variants"],
        "reasons": ["reasons"],
        "latency": ["percentiles"],
        "variant_users": ["variant_users", "crossover_users"],
    }
    left_out = {name: getattr(nothing, name) for part, names in fields.items() if part not in parts for name in names}
    return attrs.evolve(summary, **left_out)


class SourceParityContract:
    """Inherit it, return your source, with nothing stored, from the fixture ``source``, and override ``replace_all``.

    Capabilities:
        patience_seconds: How long one test may take before it counts as stuck.
        max_seconds: How long all tests of a class may take.
    """

    is_contract = True
    patience_seconds: ClassVar[float] = 120.0
    max_seconds: ClassVar[float] = 600.0

    @pytest.fixture
    def source(self) -> Any:
        """Return a new source with nothing stored."""
        pytest.fail(f"{type(self).__name__} needs a fixture `source` that returns a new source")

    async def replace_all(self, source: Any, batch: Batch) -> None:
        """Make these the only events that are stored."""
        pytest.fail(f"{type(self).__name__} needs a method `replace_all` that stores {len(batch)} events in {source!r}")

    @pytest.mark.asyncio
    @every_question
    @FEW
    async def test_every_answer_is_that_of_events_in_memory(self, source: Any, **asked: Any) -> None:
        async def replace_all(batch: Batch) -> None:
            await self.replace_all(source, batch)

        await check_every_answer(source, replace_all, **asked)

    @pytest.mark.asyncio
    @given(
        seconds=st.lists(st.integers(0, 12), min_size=1, max_size=12),
        start=st.integers(0, 6),
        length=st.integers(0, 12),
        step=st.integers(1, 5),
    )
    @FEW
    async def test_steps_are_counted_in_whole_microseconds(
        self, source: Any, seconds: list[int], start: int, length: int, step: int
    ) -> None:
        recorded = [
            plain_event(
                offset, flag_key="checkout", timestamp=_BASE + offset * _MICROSECOND, targeting_key=f"u{offset % 3}"
            )
            for offset in seconds
        ]
        await self.replace_all(source, _batch(recorded))
        window = Window(_BASE + start * _MICROSECOND, _BASE + (start + length) * _MICROSECOND)
        found = await source.count_steps("checkout", window, step / 1_000_000)
        assert found == metrics.count_steps(metrics.select(recorded, window), window, step / 1_000_000)

    @pytest.mark.asyncio
    async def test_errors_of_one_step_are_counted_whatever_comes_before_them(self, source: Any) -> None:
        """MariaDB sorts such events by their user, and then reads a generated column as null."""
        same: dict[str, Any] = {"flag_key": "checkout", "timestamp": _BASE, "targeting_key": None}
        events = [plain_event(**same, error_type=None), plain_event(1, **same, error_type="GENERAL")]
        await self.replace_all(source, _batch(events))
        window = Window(_BASE, _BASE)
        (step,) = (await source.count_steps("checkout", window, 1e-6)).values()
        assert (step.count, step.errors) == (2, 1)
        for by in ("variant", "context.plan"):
            (step,) = (await source.count_steps("checkout", window, 1e-6, group_by=Grouping(by))).values()
            assert sum(group.errors for group in step.groups.values()) == 1

    @pytest.mark.asyncio
    async def test_percentiles_are_those_of_memory_to_the_last_bit(self, source: Any) -> None:
        durations = [(number * 7919 % 1009) / 7 for number in range(1_009)]
        events = [
            plain_event(number, flag_key="checkout", timestamp=_BASE, evaluation_duration_ms=duration)
            for number, duration in enumerate(durations)
        ]
        await self.replace_all(source, _batch(events))
        percents = [0.0, 0.1, 12.5, 33.3, 50.0, 66.6, 90.0, 95.0, 99.0, 99.9, 99.99, 100.0]
        found = await source.summarise(["checkout"], Window(None, _BASE), percentiles=percents)
        measured = sorted(duration for duration in durations if duration > 0)
        wanted = {percent: metrics.percentile(measured, percent) for percent in percents}
        assert found["checkout"].percentiles == wanted

    @pytest.mark.asyncio
    async def test_a_flag_without_events_is_missing_whatever_is_asked(self, source: Any) -> None:
        await self.replace_all(source, _batch([]))
        window = Window(None, datetime(2027, 1, 1, tzinfo=UTC))
        for parts in (PARTS, frozenset({"count"}), frozenset({"users"}), frozenset({"latency"}), frozenset[str]()):
            assert await source.summarise(["nobody"], window, parts=parts, percentiles=(50.0,)) == {}
            assert await source.summarise(["nobody", "else"], window, parts=parts, percentiles=(50.0,)) == {}
        assert await source.summarise([], window) == {}
