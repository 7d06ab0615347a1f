"""Fast answers count exactly what the events say, and users and percentiles keep the bounds that they tell."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import attrs
import msgspec
import pytest
from flag_analytics.errors import SourceError
from flag_analytics.events import FlagEvaluationEvent, new_event_id
from flag_analytics.protocols import Batch
from flag_analytics.sources import EXACT, PARTS, EventFilter, FlagSummary, Grouping, TimeStep, Window
from flag_analytics_database import DatabaseStore, retention
from flag_analytics_database.counting import DAY, HOUR
from flag_analytics_database.retention import prune_some
from flag_analytics_database.rollups.answers import RolledUpSource
from flag_analytics_database.rollups.spans import DAYS_OF_SPANS, Span, cover
from flag_analytics_database.rows import from_micros, micros
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import delete, select

pytest.importorskip("datasketches", reason="it has no wheel for this Python")

BASE = datetime(2026, 3, 1, tzinfo=UTC)
END = BASE + timedelta(days=10)
FLAGS = ["a", "b", "A", "🎏"]
MICROSECOND = timedelta(microseconds=1)
COUNTED = ("total", "errors", "variants", "reasons", "first_seen", "estimated")

# Days and hours in which events meet, at their edges above all.
offsets = st.builds(
    lambda days, hours, micro: timedelta(days=days, hours=hours, microseconds=micro),
    st.integers(0, 9),
    st.sampled_from([0, 0, 1, 12, 23]),
    st.sampled_from([0, 0, 1, 1_800_000_000, 3_599_999_999]),
)
times = offsets.map(lambda offset: BASE + offset)
events = st.builds(
    FlagEvaluationEvent,
    times,
    st.sampled_from(FLAGS),
    st.just(True),
    st.sampled_from(["SPLIT", "ERROR", "STATIC"]),
    st.sampled_from([None, "", "default", "on", "ON"]),
    st.sampled_from([None, "", "u", "U", "v", "w", "ü"]),
    st.dictionaries(st.just("environment"), st.sampled_from(["prod", "test", None, 1, "1", "x" * 200]), max_size=1),
    st.sampled_from([0.0, 0.1, 0.5, 2.0, 30.0]) | st.floats(1e-6, 1e6),
    event_id=st.builds(new_event_id),
    error_type=st.sampled_from([None, None, "GENERAL"]),
    sample_rate=st.sampled_from([1.0, 1.0, 1.0, 0.5, 1 / 3]),
    kind=st.sampled_from(["evaluation", "evaluation", "exposure", "outcome"]),
)
windows = st.builds(
    lambda one, other, open_start: Window(None if open_start else min(one, other), max(one, other)),
    times,
    times,
    st.booleans(),
)
filters = st.none() | st.builds(
    EventFilter,
    environment=st.sampled_from([None, None, "prod", "1", "x" * 200, frozenset({"prod", "test"})]),
    variant=st.sampled_from([None, "on", "default", frozenset({"on", "ON"})]),
    reasons=st.sampled_from([None, "ERROR", frozenset({"SPLIT", "STATIC"})]),
    targeting_key=st.sampled_from([None, None, None, "u"]),
    kinds=st.sampled_from([("evaluation", "exposure"), ("exposure", "evaluation"), ("exposure",)]),
)
groupings = st.builds(
    Grouping, st.sampled_from(["variant", "reason", "environment", "flag_version"]), st.sampled_from([1, 2, 50])
)
FEW = settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
)
numbers = itertools.count()


@pytest.fixture
def store(database: Any) -> DatabaseStore:
    return database.store(rollups=True)


def rolled_up(store: DatabaseStore) -> RolledUpSource:
    """Return the source that answers from summaries however few events there are."""
    return attrs.evolve(store.source, few_events=0)


async def empty(store: DatabaseStore) -> None:
    """Remove what an example before this one has left."""

    async def remove(connection: Any) -> None:
        tables = store.tables
        for table in (tables.events, tables.counts, tables.sketches):
            await connection.execute(delete(table))
        await connection.execute(delete(tables.rollup_state).where(tables.rollup_state.c.name == "pruned_before"))
        await connection.commit()

    await store._questions.run(remove, settle=True)


def new_batch(batch_of: Any, recorded: list[FlagEvaluationEvent]) -> Batch:
    """Return a batch of events with ids of their own: hypothesis repeats an example."""
    frozen = batch_of(*recorded).events
    return Batch(
        f"batch-{next(numbers)}", tuple(msgspec.structs.replace(one, event_id=new_event_id()) for one in frozen)
    )


def steps_of(steps: Any) -> Any:
    """Return steps without what rollups do not tell."""

    def plain(step: TimeStep) -> Any:
        groups = {name: plain(group) for name, group in step.groups.items()}
        return (step.start, step.end, step.count, step.errors, step.estimated, step.unfinished, groups)

    return {number: plain(step) for number, step in steps.items()}


def check_bounds(fast: FlagSummary, exact: FlagSummary) -> None:
    bounds, missing = fast.accuracy.bounds, fast.accuracy.missing
    if "users" not in missing:
        assert abs(fast.unique_users - exact.unique_users) <= max(bounds.get("users", 0.0) * exact.unique_users, 1e-3)
    if "variant_users" not in missing:
        assert fast.variant_users.keys() == exact.variant_users.keys()
        for variant, users in exact.variant_users.items():
            assert abs(fast.variant_users[variant] - users) <= max(bounds.get("variant_users", 0.0) * users, 1e-3)
    if "crossover_users" not in missing:
        assert fast.crossover_users == exact.crossover_users
    if "latency" not in missing:
        assert fast.percentiles.keys() == exact.percentiles.keys()
        for percent, value in exact.percentiles.items():
            assert abs(fast.percentiles[percent] - value) <= value * (bounds.get("latency", 0.0) + 1e-9)


@FEW
@given(
    first=st.lists(events, min_size=1, max_size=25),
    late=st.lists(events, min_size=1, max_size=4),
    compacted=st.sampled_from([0, 3, 1_000]),
    compacted_again=st.sampled_from([0, 2, 1_000]),
    forgotten=st.sampled_from([None, None, "u"]),
    window=windows,
    where=filters,
    group_by=groupings,
    hours=st.sampled_from([1, 2, 24, 36]),
)
async def test_a_fast_answer_counts_what_the_events_say(
    store: DatabaseStore,
    batch_of: Any,
    first: list[FlagEvaluationEvent],
    late: list[FlagEvaluationEvent],
    compacted: int,
    compacted_again: int,
    forgotten: str | None,
    window: Window,
    where: EventFilter | None,
    group_by: Grouping,
    hours: int,
) -> None:
    await empty(store)
    await store.write(new_batch(batch_of, first))
    if compacted:
        await store.compact(compacted)
    await store.write(new_batch(batch_of, late))
    if forgotten is not None:
        await store.forget([forgotten])
    if compacted_again:
        await store.compact(compacted_again)
    source, raw = rolled_up(store), store.source.raw
    percentiles = (0.0, 50.0, 99.0, 100.0)

    same = figures if forgotten is None else figures_but_times
    for filtered in (None, where):
        asked: dict[str, Any] = {"percentiles": percentiles, "where": filtered}
        exact = await raw.summarise(FLAGS, window, **asked)
        fast = await source.summarise(FLAGS, window, **asked, accuracy="fast")
        assert same(fast) == same(exact)
        for key, summary in exact.items():
            check_bounds(fast[key], summary)
    counted: dict[str, Any] = {"parts": PARTS - {"users", "variant_users", "latency"}, "where": where}
    grouped = await source.summarise(FLAGS, window, **counted, group_by=group_by, accuracy="fast")
    exact = await raw.summarise(FLAGS, window, **counted, group_by=group_by)
    assert {key: same(found.groups) for key, found in grouped.items()} == {
        key: same(found.groups) for key, found in exact.items()
    }
    activity = await source.list_flags(window, where=where, accuracy="fast")
    if forgotten is None:
        assert activity == await raw.list_flags(window, where=where)
    if window.start is not None:
        await check_steps(source, window, where, group_by, 3_600.0 * hours)


def figures(found: Mapping[str, FlagSummary]) -> dict[str, Any]:
    """Return what summaries must have in common with the truth."""
    return {key: tuple(getattr(one, name) for name in COUNTED) for key, one in found.items()}


def figures_but_times(found: Mapping[str, FlagSummary]) -> dict[str, Any]:
    """Return the same without times: of an hour from which events were taken out they are bounds."""
    return {key: (one.total, one.errors, one.variants, one.reasons, one.estimated) for key, one in found.items()}


async def check_steps(
    source: RolledUpSource, window: Window, where: EventFilter | None, group_by: Grouping, seconds: float
) -> None:
    assert window.start is not None
    whole_hour = from_micros(micros(window.start) // HOUR * HOUR)
    for start, grouping in itertools.product({whole_hour, window.start}, (None, group_by)):
        asked: dict[str, Any] = {"where": where, "group_by": grouping}
        stepped = Window(start, window.end)
        fast = await source.count_steps("a", stepped, seconds, **asked, accuracy="fast")
        assert steps_of(fast) == steps_of(await source.raw.count_steps("a", stepped, seconds, **asked))


@given(st.integers(-400, 20_000), st.integers(0, 500))
def test_spans_cover_every_day_once_and_are_few(first, days):
    spans = cover(first * DAY, (first + days) * DAY)
    covered = [day for span in spans for day in span.each_day]
    assert covered == [day * DAY for day in range(first, first + days)]
    assert all(span.start % (span.days * DAY) == 0 for span in spans)
    assert len(spans) <= 10 + days // 32
    assert all(half.days * 2 == span.days for span in spans for half in span.halves)
    assert Span(0, 32).halves == (Span(0, 16), Span(16 * DAY, 16))


async def test_summaries_are_made_once_and_again_where_late_events_came(store, batch_of, make_event) -> None:
    days = [BASE + timedelta(days=day, hours=7) for day in range(8)]
    await store.write(batch_of(*(make_event(n, timestamp=day) for n, day in enumerate(days))))
    spans = {(micros(day) // (length * DAY), length) for day in days for length in DAYS_OF_SPANS}
    assert await store.compact(1_000) == len(spans)
    assert await store.compact(1_000) == 0
    late = make_event(99, timestamp=days[2])
    await store.write(batch_of(late))
    assert await store.compact(1) == 1
    assert await store.compact(1_000) == len(DAYS_OF_SPANS) - 1
    assert await store.compact(1_000) == 0


async def test_an_answer_from_summaries_reads_no_event_of_their_days(store, batch_of, make_event) -> None:
    day = BASE + timedelta(hours=5)
    await store.write(batch_of(*(make_event(n, timestamp=day + timedelta(days=n % 3)) for n in range(30))))
    await store.compact(1_000)
    window = Window(BASE, BASE + timedelta(days=3) - MICROSECOND)
    before = await rolled_up(store).summarise(["checkout"], window, percentiles=(50.0,), accuracy="fast")

    async def remove(connection: Any) -> None:
        await connection.execute(delete(store.tables.events))
        await connection.commit()

    await store._questions.run(remove)
    assert await rolled_up(store).summarise(["checkout"], window, percentiles=(50.0,), accuracy="fast") == before
    assert before["checkout"].total == 30
    assert round(before["checkout"].unique_users) == 30
    assert before["checkout"].accuracy.missing == {"variant_users", "crossover_users"}


async def test_an_exact_answer_is_from_the_events_where_none_was_removed(store, batch_of, make_event) -> None:
    await store.write(batch_of(*map(make_event, range(10))))
    await store.compact(1_000)
    window = Window(None, BASE + timedelta(days=30))
    found = await store.summarise(["checkout"], window)
    assert found == await store.source.raw.summarise(["checkout"], window)
    assert found["checkout"].accuracy == EXACT


@pytest.mark.parametrize("compacted", [True, False])
async def test_an_event_of_the_first_year_makes_a_question_about_all_time_no_harder(
    store, batch_of, make_event, compacted
) -> None:
    ancient = [
        make_event(timestamp=datetime(1, 1, 1, tzinfo=UTC)),
        make_event(1, timestamp=datetime(1969, 7, 20, tzinfo=UTC)),
    ]
    await store.write(batch_of(*ancient, *(make_event(n, timestamp=BASE + timedelta(days=n)) for n in range(2, 9))))
    if compacted:
        await store.compact(1_000)
    asked: list[Any] = []
    ask = store.source.raw.ask

    async def counting(query: Any) -> Any:
        asked.append(query)
        return await ask(query)

    source = attrs.evolve(rolled_up(store), raw=attrs.evolve(store.source.raw, ask=counting))
    (found,) = (await source.summarise(["checkout"], Window(None, END), accuracy="fast")).values()
    assert (found.total, round(found.unique_users)) == (9, 9)
    assert len(asked) < 500 // 3


async def test_many_events_that_no_summary_has_are_counted_by_the_database(store, batch_of, make_event) -> None:
    await store.write(batch_of(*(make_event(n, timestamp=BASE + timedelta(hours=n)) for n in range(48))))
    window = Window(BASE, END)
    exact = await store.source.raw.summarise(["checkout"], window, percentiles=(50.0,))
    patient = attrs.evolve(rolled_up(store), most_measured=48)
    (read,) = (await patient.summarise(["checkout"], window, percentiles=(50.0,), accuracy="fast")).values()
    assert read.accuracy.bounds
    hasty = attrs.evolve(rolled_up(store), most_measured=47)
    assert await hasty.summarise(["checkout"], window, percentiles=(50.0,), accuracy="fast") == exact


async def test_few_events_are_answered_exactly_in_a_fast_answer_too(store, batch_of, make_event) -> None:
    await store.write(batch_of(*map(make_event, range(10))))
    await store.compact(1_000)
    window = Window(BASE - timedelta(days=10), BASE + timedelta(days=30))
    fast = await store.summarise(["checkout"], window, accuracy="fast")
    assert fast == await store.source.raw.summarise(["checkout"], window)


async def test_forgetting_someone_removes_the_summaries_of_their_days_at_once(store, batch_of, make_event) -> None:
    days = [BASE + timedelta(days=day, hours=7) for day in range(4)]
    await store.write(batch_of(*(make_event(n, timestamp=day) for n, day in enumerate(days * 2))))
    made = await store.compact(1_000)
    await store.forget(["user-1"])
    kept = store.tables.sketches.c
    left = await store._ask(select(kept.start, kept.days))
    assert all(not start <= micros(days[1]) < start + length * DAY for start, length in left)
    assert len(left) == made - len(DAYS_OF_SPANS)
    assert await store.compact(1_000) == len(DAYS_OF_SPANS)
    (found,) = (await rolled_up(store).summarise(["checkout"], Window(BASE, END), accuracy="fast")).values()
    assert (found.total, round(found.unique_users)) == (7, 7)


async def test_users_by_variant_are_kept_of_declared_experiments(database, batch_of, make_event) -> None:
    store = database.store(rollups=True, rollup_experiments=("checkout",))
    events_ = [make_event(n, timestamp=BASE + timedelta(days=n % 3, hours=2)) for n in range(30)]
    await store.write(batch_of(*events_, *(make_event(n, flag_key="other", timestamp=BASE) for n in range(9))))
    await store.compact(1_000)
    window = Window(BASE, BASE + timedelta(days=3))
    found = await rolled_up(store).summarise(["checkout", "other"], window, accuracy="fast")
    assert {name: round(users) for name, users in found["checkout"].variant_users.items()} == {"a": 15, "b": 15}
    assert found["checkout"].accuracy.missing == {"crossover_users"}
    assert found["other"].accuracy.missing == {"variant_users", "crossover_users"}


async def test_summaries_that_cannot_be_made_keep_no_others_back(store, batch_of, make_event) -> None:
    days = [BASE + timedelta(days=day, hours=7) for day in range(4)]
    await store.write(batch_of(*(make_event(n, timestamp=day) for n, day in enumerate(days))))
    gone = store.tables.events.c.timestamp < micros(days[1])

    async def remove(connection: Any) -> None:
        await connection.execute(delete(store.tables.events).where(gone))
        await connection.commit()

    await store._questions.run(remove)
    assert await store.compact(1) == 1
    while await store.compact(2):
        pass
    kept = store.tables.sketches.c
    made = {row.start for row in await store._ask(select(kept.start).where(kept.days == 1))}
    assert made == {micros(day) // DAY * DAY for day in days[1:]}


async def test_summaries_are_made_beside_the_writing(store, batch_of, make_event) -> None:
    await store.write(batch_of(make_event(timestamp=BASE)))
    assert store._background._pending is None
    store._background.due = 0.0
    await store.write(batch_of(make_event(1, timestamp=BASE + timedelta(days=1))))
    await asyncio.wrap_future(store._background._pending)
    assert await store.compact(1_000) == 0


# --- where events were removed


@pytest.fixture
async def pruned(store: DatabaseStore, batch_of: Any, make_event: Any) -> DatabaseStore:
    """Ten days of 24 events, the first six of which are in rollups alone."""
    hours = [BASE + timedelta(hours=hour, minutes=20) for hour in range(240)]
    await store.write(batch_of(*(make_event(n, timestamp=at) for n, at in enumerate(hours))))
    assert await store.prune(BASE + timedelta(days=6, hours=5)) == 6 * 24  # whole days, with their summaries made first
    return store


async def test_an_exact_question_about_removed_events_is_answered_from_rollups_with_bounds(pruned) -> None:
    (found,) = (await pruned.summarise(["checkout"], Window(None, END), percentiles=(50.0,))).values()
    assert found.total == 240
    assert round(found.unique_users) == 240
    assert found.accuracy.complete_since is None
    assert found.accuracy.bounds["users"] <= 0.01
    assert found.accuracy.bounds["latency"] <= 0.02
    assert found.first_seen == BASE + timedelta(minutes=20)
    [flag] = await pruned.list_flags(Window(None, END))
    assert (flag.count, flag.accuracy) == (240, EXACT)


async def test_a_window_that_begins_within_a_removed_day_says_from_when_on_it_is_complete(pruned) -> None:
    window = Window(BASE + timedelta(days=1, hours=5, minutes=10), END)
    (found,) = (await pruned.summarise(["checkout"], window)).values()
    assert found.accuracy.complete_since == BASE + timedelta(days=2)
    assert found.total == 8 * 24
    (counted,) = (await pruned.summarise(["checkout"], window, parts=frozenset({"count"}))).values()
    assert counted.accuracy.complete_since == BASE + timedelta(days=1, hours=6)
    assert counted.total == 8 * 24 + 18
    [flag] = await pruned.list_flags(window)
    assert (flag.count, flag.accuracy.complete_since) == (8 * 24 + 18, BASE + timedelta(days=1, hours=6))


async def test_hours_of_removed_events_are_counted_and_their_users_are_missing(pruned) -> None:
    window = Window(BASE + timedelta(hours=3), BASE + timedelta(hours=9))
    (found,) = (await pruned.summarise(["checkout"], window, percentiles=(50.0,))).values()
    assert found.total == 6
    assert {"users", "latency"} <= found.accuracy.missing
    assert found.accuracy.complete_since is None


async def test_what_rollups_cannot_tell_of_removed_events_is_said(pruned) -> None:
    version = EventFilter(targeting_key="user-3")
    since = BASE + timedelta(days=6)
    (found,) = (await pruned.summarise(["checkout"], Window(None, END), where=version)).values()
    assert (found.total, found.accuracy.complete_since) == (0, since)
    assert (await pruned.list_flags(Window(None, END), where=EventFilter(targeting_key="user-200")))[
        0
    ].accuracy.complete_since == since
    with pytest.raises(SourceError, match="counted by the hour: ask for steps of whole hours"):
        await pruned.count_steps("checkout", Window(BASE, END), 60.0)
    with pytest.raises(SourceError, match="counted by the hour: ask for a window that ends with an hour"):
        await pruned.list_flags(Window(BASE, BASE + timedelta(hours=30, minutes=1)))


async def test_exposures_and_outcomes_say_that_events_were_removed(pruned) -> None:
    since = BASE + timedelta(days=6)
    exposures = await pruned.get_exposures("checkout", Window(BASE, END))
    assert (exposures.users, exposures.accuracy.complete_since) == (4 * 24, since)
    outcomes = await pruned.get_outcomes("checkout", "buy", Window(None, END))
    assert outcomes.accuracy.complete_since == since
    assert [doubt for doubt in outcomes.doubts() if "were removed" in doubt]
    assert (await pruned.get_exposures("checkout", Window(since, END))).accuracy == EXACT


async def test_an_environment_that_only_events_name_is_not_taken_for_complete(store, batch_of, make_event) -> None:
    named = {"context_attributes": {"environment": "x" * 300}}
    await store.write(batch_of(*(make_event(n, timestamp=BASE + timedelta(hours=n), **named) for n in range(48))))
    assert await store.prune(BASE + timedelta(days=1)) == 24
    since, where = BASE + timedelta(days=1), EventFilter(environment="x" * 300)
    (found,) = (await store.summarise(["checkout"], Window(BASE, END), where=where)).values()
    assert (found.total, found.accuracy.complete_since) == (24, since)
    [flag] = await store.list_flags(Window(BASE, END), where=where)
    assert (flag.count, flag.accuracy.complete_since) == (24, since)
    steps = await store.count_steps("checkout", Window(BASE, END), 86_400.0, where=where)
    assert [(steps[day].count, steps[day].accuracy.complete_since) for day in (0, 1)] == [(0, since), (24, since)]


async def test_a_series_over_removed_events_is_counted(pruned) -> None:
    steps = await pruned.count_steps("checkout", Window(BASE, END), 3_600.0)
    assert [steps[number].count for number in range(240)] == [1] * 240
    assert steps[0].accuracy.missing == {"users"}


async def test_no_event_is_removed_before_it_is_in_a_summary(store, batch_of, make_event) -> None:
    hours = [BASE + timedelta(hours=hour) for hour in range(72)]
    await store.write(batch_of(*(make_event(n, timestamp=at) for n, at in enumerate(hours))))

    async def prune(connection: Any) -> int:
        return await prune_some(connection, store.tables, store.family, BASE + timedelta(days=2))

    assert await store._questions.run(prune) == 0
    await store.compact(1)
    assert await store._questions.run(prune) == 24
    assert await store._questions.run(prune) == 0
    await store.write(batch_of(make_event(99, timestamp=hours[30])))
    await store.compact(1)
    assert await store._questions.run(prune) == 25
    (found,) = (await store.summarise(["checkout"], Window(BASE, END))).values()
    assert (found.total, round(found.unique_users)) == (73, 73)


async def test_late_events_of_removed_days_are_counted_at_once_and_taken_into_the_summary(
    pruned, batch_of, make_event
) -> None:
    late = [make_event(1_000 + n, timestamp=BASE + timedelta(days=2, hours=2)) for n in range(3)]
    await pruned.write(batch_of(*late))
    window = Window(BASE, END)
    for _ in range(2):
        (found,) = (await pruned.summarise(["checkout"], window, percentiles=(100.0,))).values()
        assert found.total == 243
        assert round(found.unique_users) == 243
        assert found.percentiles[100.0] == pytest.approx(1_002.5, rel=0.01)
        await pruned.compact(1_000)
    assert await pruned.compact(1_000) == 0
    removed = Window(None, BASE + timedelta(days=6) - MICROSECOND)
    assert await pruned.source.raw.list_flags(removed) == []


async def test_a_late_event_in_a_day_that_is_half_removed_bends_no_percentile(
    store, batch_of, make_event, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention, "BATCH_ROWS", 12)
    hours = [BASE + timedelta(hours=hour) for hour in range(48)]
    await store.write(batch_of(*(make_event(n, timestamp=at) for n, at in enumerate(hours))))
    await store.compact(1_000)

    async def prune(connection: Any) -> int:
        return await prune_some(connection, store.tables, store.family, BASE + timedelta(days=1))

    assert await store._questions.run(prune) == 12
    await store.write(batch_of(make_event(0, timestamp=BASE + timedelta(hours=2))))
    window = Window(BASE, BASE + timedelta(days=1) - MICROSECOND)
    for _ in range(2):
        (found,) = (await store.summarise(["checkout"], window, percentiles=(50.0,))).values()
        assert found.total == 25
        assert round(found.unique_users) == 24
        assert "latency" in found.accuracy.missing or found.percentiles[50.0] == pytest.approx(11.5, rel=0.02)
        await store.compact(1_000)
    assert await store._questions.run(prune) == 0
    assert await store.source.raw.list_flags(window) == []


@pytest.mark.parametrize("late", [False, True])
async def test_retention_goes_on_where_counts_began_within_a_day_of_which_events_were_removed(
    database, batch_of, make_event, late
) -> None:
    plain = database.store()
    hours = [BASE + timedelta(hours=hour, minutes=20) for hour in range(72)]
    await plain.write(batch_of(*(make_event(n, timestamp=at) for n, at in enumerate(hours))))
    assert await plain.prune(BASE + timedelta(hours=10, minutes=10)) == 10
    store = database.store(rollups=True)
    await store.open()
    await store.rebuild_counts()
    if late:
        await store.write(batch_of(make_event(99, timestamp=BASE + timedelta(hours=10, minutes=30))))
    assert await store.prune(BASE + timedelta(days=2)) == 38 + late
    for start in (None, BASE):
        (found,) = (await store.summarise(["checkout"], Window(start, END))).values()
        assert found.accuracy.complete_since is not None
        since = found.accuracy.complete_since
        assert found.total == sum(at >= since for at in hours)
    (found,) = (await store.summarise(["checkout"], Window(BASE + timedelta(days=1), END))).values()
    assert (found.total, found.accuracy.complete_since) == (48, None)


async def test_a_series_over_removed_events_that_were_not_counted_says_so_of_each_step(
    database, batch_of, make_event
) -> None:
    store = database.store()
    hours = [BASE + timedelta(hours=hour) for hour in range(48)]
    await store.write(batch_of(*(make_event(n, timestamp=at) for n, at in enumerate(hours))))
    await store.prune(BASE + timedelta(days=1, minutes=30))
    since = BASE + timedelta(days=1, minutes=30)
    for end, lost in ((BASE + timedelta(days=1), 24), (BASE + timedelta(days=2), 25)):
        steps = await store.count_steps("checkout", Window(BASE, end), 3_600.0)
        assert [steps[number].accuracy.complete_since for number in range(lost)] == [since] * lost
        assert [steps[number].count for number in range(lost)] == [0] * lost
