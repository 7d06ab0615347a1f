"""Fast answers: counts are those of the events, users and latencies within the bounds that the answer tells."""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta
from typing import Any

import attrs
import pytest
from flag_analytics.sources import EXACT, EventFilter, FlagSummary, Grouping, Window
from flag_analytics_clickhouse import ClickHouseStore, fast
from flag_analytics_clickhouse.cutting import Cut

pytestmark = pytest.mark.clickhouse

START = datetime(2026, 11, 1, tzinfo=UTC)
HOUR, DAY, MICROSECOND = timedelta(hours=1), timedelta(days=1), timedelta(microseconds=1)
FLAGS = ["checkout", "search", "sampled"]
PERCENTILES = (0.0, 1.0, 50.0, 90.0, 99.0, 100.0)


def made_up(engine: Any, seed: int, count: int = 600) -> list[Any]:
    """Return events of four days, many of them at the edges of hours and days."""
    draw = random.Random(seed)
    edges = [DAY, DAY - MICROSECOND, 2 * DAY, HOUR, HOUR - MICROSECOND, 30 * HOUR, 4 * DAY - MICROSECOND]
    return [
        engine.event(
            number,
            timestamp=START + (draw.choice(edges) if number % 5 == 0 else draw.random() * 4 * DAY),
            flag_key=draw.choice(FLAGS),
            variant=draw.choice([None, "", "on", "off", "default"]),
            reason=draw.choice(["SPLIT", "ERROR", "DEFAULT"]),
            targeting_key=draw.choice([None, "", *(f"user-{n}" for n in range(40))]),
            context_attributes=draw.choice(
                [{}, {"environment": "production"}, {"environment": 1}, {"environment": "1"}]
            ),
            evaluation_duration_ms=draw.choice([0.0, -1.0, draw.lognormvariate(0, 3)]),
            error_type=draw.choice([None, None, "GENERAL"]),
            kind=draw.choice(["evaluation", "exposure", "outcome"]),
        )
        for number in range(count)
    ]


def with_rates(events: list[Any]) -> list[Any]:
    return [one.replace(sample_rate=0.3) if one.flag_key == "sampled" else one for one in events]


MOMENTS = [
    START,
    START + MICROSECOND,
    START + 30 * timedelta(minutes=1),
    START + HOUR,
    START + DAY - MICROSECOND,
    START + DAY,
    START + 30 * HOUR,
    START + 30 * HOUR + timedelta(minutes=7),
    START + 2 * DAY + 5 * HOUR,
    START + 4 * DAY - MICROSECOND,
    START + 9 * DAY,
]
WINDOWS = [Window(None, end) for end in MOMENTS] + [
    Window(start, end) for number, start in enumerate(MOMENTS) for end in MOMENTS[number:] if end - start >= 2 * HOUR
]


@pytest.fixture
async def filled(engine: Any) -> ClickHouseStore:
    store = engine.store()
    await store.write(engine.batch(with_rates(made_up(engine, 1))))
    return store


@pytest.fixture
def no_small_flags(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fast, "RAW_EVENTS", 0)


def counts_of(summary: Any) -> Any:
    return attrs.evolve(
        summary, unique_users=0, percentiles={}, variant_users={}, crossover_users=0, accuracy=EXACT, groups={}
    )


def check(found: Any, wanted: Any, what: Any) -> None:
    assert counts_of(found) == counts_of(wanted), what
    bounds = found.accuracy.bounds
    assert found.accuracy.complete_since is None
    # Of so few users a sketch is as good as exact.
    assert found.unique_users == pytest.approx(wanted.unique_users, rel=3 * bounds.get("users", 0)), what
    assert found.percentiles.keys() == wanted.percentiles.keys()
    for percent, value in wanted.percentiles.items():
        assert found.percentiles[percent] == pytest.approx(value, rel=bounds.get("latency", 0)), (what, percent)


@pytest.mark.usefixtures("no_small_flags")
async def test_a_fast_summary_counts_every_event_and_keeps_its_bounds(filled):
    for window in WINDOWS:
        wanted = await filled.summarise(FLAGS, window, percentiles=PERCENTILES)
        found = await filled.summarise(FLAGS, window, percentiles=PERCENTILES, accuracy="fast")
        assert found.keys() == wanted.keys()
        for key, summary in found.items():
            check(summary, wanted[key], (key, window))
            assert summary.accuracy.missing == {"variant_users", "crossover_users"}
            assert ("users" in summary.accuracy.bounds) == (key != "sampled")


@pytest.mark.usefixtures("no_small_flags")
@pytest.mark.parametrize(
    "where",
    [
        EventFilter(variant="default"),
        EventFilter(variant={"on", ""}, reasons="ERROR"),
        EventFilter(environment="production"),
        EventFilter(environment="1"),
        EventFilter(context={"environment": {"production", 1}}),
        EventFilter(targeting_key="user-3"),
        EventFilter(kinds="exposure"),
        EventFilter(kinds=()),
    ],
)
async def test_a_filter_of_a_fast_answer_lets_the_same_through(filled, where):
    for window in (Window(None, MOMENTS[7]), Window(MOMENTS[2], MOMENTS[8]), Window(MOMENTS[5], MOMENTS[9])):
        wanted = await filled.summarise(FLAGS, window, percentiles=PERCENTILES, where=where)
        found = await filled.summarise(FLAGS, window, percentiles=PERCENTILES, where=where, accuracy="fast")
        assert found.keys() == wanted.keys()
        for key, summary in found.items():
            check(summary, wanted[key], (key, window))
        wanted_flags = await filled.list_flags(window, where=where)
        assert await filled.list_flags(window, where=where, accuracy="fast") == wanted_flags


@pytest.mark.usefixtures("no_small_flags")
@pytest.mark.parametrize("by", ["variant", "reason", "environment", "context.environment", "flag_version"])
async def test_groups_of_a_fast_answer_are_the_same(filled, by):
    for most in (1, 2, 50):
        for window in (Window(None, MOMENTS[7]), Window(MOMENTS[2], MOMENTS[8])):
            asked: dict[str, Any] = {"percentiles": (50.0,), "group_by": Grouping(by, most)}
            wanted = await filled.summarise(FLAGS, window, **asked)
            found = await filled.summarise(FLAGS, window, **asked, accuracy="fast")
            assert found.keys() == wanted.keys()
            for key, summary in found.items():
                assert summary.groups.keys() == wanted[key].groups.keys()
                for name, group in summary.groups.items():
                    check(group, wanted[key].groups[name], (key, name, window))


async def test_flags_are_listed_fast(filled):
    for window in WINDOWS:
        assert await filled.list_flags(window, accuracy="fast") == await filled.list_flags(window)


@pytest.mark.parametrize("by", [None, "variant", "environment"])
@pytest.mark.parametrize("hours", [1, 3, 24])
async def test_steps_of_whole_hours_are_counted_fast_without_users(filled, by, hours):
    for start in (START, START + HOUR, START + 5 * HOUR, START + timedelta(minutes=30)):
        for end in (MOMENTS[6], MOMENTS[7], MOMENTS[8], MOMENTS[9]):
            group_by = None if by is None else Grouping(by, 2)
            asked: tuple[Any, ...] = ("checkout", Window(start, end), hours * 3_600.0)
            wanted = await filled.count_steps(*asked, group_by=group_by)
            found = await filled.count_steps(*asked, group_by=group_by, accuracy="fast")
            assert [*found] == [*wanted]
            for number, step in found.items():
                pairs = [(step, wanted[number])]
                if by is not None:
                    assert step.groups.keys() == wanted[number].groups.keys()
                    pairs = [(step.groups[name], wanted[number].groups[name]) for name in step.groups]
                for one, other in pairs:
                    if start.minute:
                        assert one == other
                    else:
                        assert one.accuracy.missing == {"users"}
                        assert one == attrs.evolve(other, unique_users=0, accuracy=one.accuracy)


async def test_a_small_flag_is_answered_by_its_events(filled):
    window = Window(START + timedelta(minutes=10), MOMENTS[8])
    wanted = await filled.summarise(FLAGS, window, percentiles=PERCENTILES)
    assert await filled.summarise(FLAGS, window, percentiles=PERCENTILES, accuracy="fast") == wanted


@pytest.mark.usefixtures("no_small_flags")
async def test_users_and_percentiles_are_within_their_bounds_of_the_truth(engine):
    """Many users in three days, so that a sketch has to estimate; the events are made by the server."""
    store = engine.store()
    await store.open()
    users, step = 150_000, 3 * 86_400_000_000 // 400_000
    first = int(START.timestamp()) * 1_000_000
    await store.ask(
        f"INSERT INTO {store.tables.events} (event_id, batch_id, timestamp, kind, flag_key, reason, variant, "
        "targeting_key, evaluation_duration_ms, value, context_attributes, environment, sample_rate) "
        f"SELECT generateUUIDv4(number), 'made up', {first} + number * {step}, 'evaluation', 'hot', 'SPLIT', 'on', "
        f"toString(cityHash64(number) % {users}), exp(randCanonical(number) * 9 - 4), 'true', '{{}}', '__none__', 1.0 "
        "FROM numbers(400000)"
    )
    for window in (Window(None, START + 3 * DAY), Window(START + 5 * HOUR, START + 2 * DAY + 13 * HOUR)):
        wanted = (await store.summarise(["hot"], window, percentiles=PERCENTILES))["hot"]
        found = (await store.summarise(["hot"], window, percentiles=PERCENTILES, accuracy="fast"))["hot"]
        assert wanted.unique_users > 100_000
        assert found.accuracy.bounds == {"users": fast.USERS_BOUND, "latency": fast.LATENCY_BOUND}
        assert abs(found.unique_users / wanted.unique_users - 1) <= fast.USERS_BOUND
        check(found, wanted, window)


@pytest.mark.usefixtures("no_small_flags")
async def test_what_was_removed_is_answered_by_rollups_and_the_answer_says_so(engine):
    store = engine.store()
    await store.write(engine.batch(made_up(engine, 2)))
    kept = START + 2 * DAY
    windows = [window for window in WINDOWS if window.start is None or window.start < kept]
    before = {window: await store.summarise(FLAGS, window, percentiles=PERCENTILES) for window in windows}
    flags = {window: await store.list_flags(window) for window in windows}
    assert await store.prune(kept)
    store._kept = (float("-inf"), None)
    for window in windows:
        found = await store.summarise(FLAGS, window, percentiles=PERCENTILES)
        assert found.keys() >= before[window].keys()
        for key, summary in found.items():
            wanted, accuracy = before[window].get(key, FlagSummary()), summary.accuracy
            beyond = accuracy.bounds.get("count", 0)
            assert abs(summary.total - wanted.total) <= beyond * summary.total or accuracy.complete_since
            if accuracy.complete_since is None and not beyond:
                assert counts_of(summary) == counts_of(wanted), (key, window)
            if accuracy.complete_since is not None:
                later = Window(accuracy.complete_since, window.end)
                if later in before and not beyond:
                    assert counts_of(summary) == counts_of(before[later].get(key, FlagSummary()))
            if accuracy.complete_since is None and "users" not in accuracy.missing:
                assert summary.unique_users == pytest.approx(wanted.unique_users, rel=0.02)
        listed = {flag.flag_key: flag for flag in await store.list_flags(window)}
        for flag in flags[window]:
            one = listed[flag.flag_key]
            assert one == flag or one.accuracy != EXACT, "a figure is smaller, and the answer does not say so"
    whole = await store.summarise(FLAGS, Window(None, MOMENTS[-1]), percentiles=PERCENTILES)
    for key, summary in whole.items():
        check(summary, before[Window(None, MOMENTS[-1])][key], key)
        assert summary.accuracy.bounds.keys() == {"users", "latency"}


async def test_figures_that_only_events_tell_say_since_when_they_are_complete(engine):
    store = engine.store()
    await store.write(engine.batch(made_up(engine, 3)))
    await store.prune(START + 2 * DAY)
    store._kept = (float("-inf"), None)
    found = await store.summarise(FLAGS, Window(None, MOMENTS[-1]), where=EventFilter(targeting_key="user-3"))
    assert {summary.accuracy.complete_since for summary in found.values()} == {START + 2 * DAY}
    exposures = await store.get_exposures(FLAGS[0], Window(None, MOMENTS[-1]))
    outcomes = await store.get_outcomes(FLAGS[0], "buy", Window(None, MOMENTS[-1]))
    assert {exposures.accuracy.complete_since, outcomes.accuracy.complete_since} == {START + 2 * DAY}
    later = await store.summarise(FLAGS, Window(START + 2 * DAY, MOMENTS[-1]))
    assert all(summary.accuracy == EXACT for summary in later.values())


def test_a_window_without_any_count_has_no_cut():
    assert Cut.of(Window(None, START), None, [], by_day=True).spans == ()
    assert Cut.of(Window(START, START + DAY), None, [], by_day=True).day_spans == ()
