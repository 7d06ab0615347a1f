"""What the store keeps, and that it keeps it once."""

from __future__ import annotations

import asyncio
import threading
import time
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from flag_analytics.errors import BadBatch, SinkUnavailable
from flag_analytics.events import FlagEvaluationEvent
from flag_analytics.protocols import BatchSink
from flag_analytics.reports import DeadLetter
from flag_analytics.sources import EventFilter, EventSource, Window
from flag_analytics_database import DatabaseStore
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

EVERYTHING = Window(None, datetime(9000, 1, 1, tzinfo=UTC))


def test_the_store_is_a_sink_and_an_event_source(sqlite: Any) -> None:
    store = sqlite.store()
    assert isinstance(store, BatchSink)
    assert isinstance(store, EventSource)


async def test_every_field_comes_back_as_it_was_stored(store: DatabaseStore, make_event: Any, batch_of: Any) -> None:
    full = make_event(
        1,
        value={"a": [1, 2.5, None, {"b": "ü"}]},
        error_type="TYPE_MISMATCH",
        error_message="expected a number",
        flag_version="v7",
        flag_set_id="shop",
        provider_name="flagd",
        kind="exposure",
        sample_rate=0.25,
    )
    plain = make_event(2, variant=None, targeting_key=None, context_attributes={}, value=None)
    await store.write(batch_of(full, plain))
    assert await store.get_events() == [full, plain]


@pytest.mark.parametrize(
    "value",
    [
        None, True, False, 0, -1, 2**63 - 1, -(2**63), 0.1, 1e300, -0.0,
        "", "text", "null", "🎏\t\n\x1f'\"\\%", [], [None], {}, {"value": None},
    ],
)  # fmt: skip
async def test_every_value_comes_back_as_it_was_stored(
    store: DatabaseStore, make_event: Any, batch_of: Any, value: Any
) -> None:
    await store.write(batch_of(make_event(value=value, context_attributes={"it": value})))
    (event,) = await store.get_events()
    assert repr(event.value) == repr(value)
    assert repr(event.context_attributes) == repr({"it": value})


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)

times = st.datetimes().map(lambda moment: moment.replace(fold=0))


@given(text=st.text(), value=json_values, context=st.dictionaries(st.text(), json_values, max_size=4), when=times)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
async def test_whatever_is_recorded_comes_back_in_canonical_form(
    store: DatabaseStore, batch_of: Any, text: str, value: Any, context: dict[str, Any], when: datetime
) -> None:
    given_event = FlagEvaluationEvent(
        when, text, value, text or "R", text, text, context, 1.0, error_message=text, provider_name=text
    )
    batch = batch_of(given_event)
    await store.write(batch)
    found = await store.get_events(text)
    assert repr(batch.events[0].thaw()) in [repr(event) for event in found]
    # The bytes are the same too, on every database.
    stored = {event.event_id: event for event in found}[given_event.event_id]
    assert batch_of(stored).events[0].value_json == batch.events[0].value_json


async def test_a_batch_written_twice_is_stored_once(store: DatabaseStore, make_event: Any, batch_of: Any) -> None:
    batch = batch_of(*(make_event(number) for number in range(50)))
    await store.write(batch)
    await store.write(batch)
    assert len(await store.get_events()) == 50


async def test_a_batch_of_known_and_new_events_adds_the_new_ones(
    store: DatabaseStore, make_event: Any, batch_of: Any
) -> None:
    events = [make_event(number) for number in range(20)]
    await store.write(batch_of(*events[:10]))
    await store.write(batch_of(*events))
    assert await store.get_events() == events


async def test_an_id_twice_in_a_batch_is_stored_once(store: DatabaseStore, make_event: Any, batch_of: Any) -> None:
    event = make_event()
    await store.write(batch_of(event, make_event(1), event))
    assert len(await store.get_events()) == 2


@pytest.mark.parametrize("count", [1, 2, 3, 500, 1_024, 1_025, 2_500])
async def test_a_batch_of_any_size_is_stored_once(
    store: DatabaseStore, database: Any, make_event: Any, batch_of: Any, count: int
) -> None:
    plain = batch_of(*(make_event(number) for number in range(count)))
    named = batch_of(*(make_event(number, provider_name="flagd") for number in range(count)))
    for batch in (plain, named, plain):
        await store.write(batch)
    assert await database.run("SELECT count(*), count(provider_name) FROM analytics_events") == [(2 * count, count)]


@pytest.mark.parametrize("count", [700, 2_500])
async def test_a_batch_is_stored_as_a_whole_or_not_at_all(
    sqlite: Any, make_event: Any, batch_of: Any, count: int
) -> None:
    store = sqlite.store()
    await store.open()
    await sqlite.run(
        "CREATE TRIGGER no_poison BEFORE INSERT ON analytics_events WHEN NEW.flag_key = 'poison' "
        "BEGIN SELECT RAISE(ABORT, 'no'); END"
    )
    good = [make_event(number) for number in range(count)]
    with pytest.raises(BadBatch):
        await store.write(batch_of(*good, make_event(flag_key="poison")))
    assert await sqlite.count() == 0
    await store.write(batch_of(*good))
    assert await sqlite.count() == count


async def test_a_sqlite_batch_is_stored_at_once_beside_a_thread_that_computes(
    sqlite: Any, make_event: Any, batch_of: Any
) -> None:
    """The interpreter is asked for a few times for each batch (5 ms each time), not once for each row."""
    store = sqlite.store()
    await store.open()
    batch = batch_of(*(make_event(number) for number in range(1_000)))
    done = threading.Event()

    def compute() -> None:
        while not done.is_set():
            sum(range(1_000))

    thread = threading.Thread(target=compute)
    thread.start()
    try:
        started = time.perf_counter()
        await store.write(batch)
        took = time.perf_counter() - started
    finally:
        done.set()
        thread.join()
    assert took < 2.0  # one statement for each row takes 5 s and more
    assert await sqlite.count() == 1_000


async def test_case_and_accents_are_told_apart(store: DatabaseStore, make_event: Any, batch_of: Any) -> None:
    keys = ["flag", "Flag", "flàg", "flag ", "FLAG"]
    await store.write(batch_of(*(make_event(flag_key=key, variant=key, targeting_key=key) for key in keys)))
    assert [flag.flag_key for flag in await store.list_flags(EVERYTHING)] == sorted(keys)
    summaries = await store.summarise(keys, EVERYTHING)
    assert {key: summary.total for key, summary in summaries.items()} == dict.fromkeys(keys, 1)
    one_flag = [make_event(flag_key="one", variant=key, targeting_key=key, reason=key) for key in keys]
    await store.write(batch_of(*one_flag))
    summary = (await store.summarise(["one"], EVERYTHING))["one"]
    assert summary.variants == summary.reasons == dict.fromkeys(keys, 1)
    assert summary.unique_users == len(keys)


async def test_times_are_kept_to_the_microsecond_and_beyond_the_epoch(
    store: DatabaseStore, make_event: Any, batch_of: Any
) -> None:
    times = [
        datetime(1969, 12, 31, 23, 59, 59, 999999, tzinfo=UTC),
        datetime(2026, 3, 29, 1, 30, 0, 1, tzinfo=UTC),  # within a change to summer time
        datetime(9999, 12, 31, 23, 59, 59, 999999, tzinfo=UTC),
    ]
    await store.write(batch_of(*(make_event(timestamp=when) for when in reversed(times))))
    assert [event.timestamp for event in await store.get_events()] == times


@pytest.mark.parametrize(
    "text",
    ["'); DROP TABLE analytics_events; --", '" OR 1=1 --', "%s %(a)s {0} :name $1 ?", "\\'; --", "\x1a", "a\rb"],
)
async def test_no_text_is_taken_for_sql(store: DatabaseStore, make_event: Any, batch_of: Any, text: str) -> None:
    hostile = make_event(
        flag_key=text, variant=text, targeting_key=text, reason=text, value=text, context_attributes={text: text},
        provider_name=text, error_message=text, error_type=text, flag_version=text, flag_set_id=text,
    )  # fmt: skip
    await store.write(batch_of(hostile, make_event()))
    assert await store.get_events(text) == [hostile]
    where = EventFilter(variant=text, provider_name=text, context={text: text})
    assert (await store.summarise([text], EVERYTHING, where=where))[text].total == 1
    assert len(await store.get_events()) == 2


async def test_reading_goes_by_time_and_then_by_id_in_pages(
    store: DatabaseStore, make_event: Any, batch_of: Any
) -> None:
    same_time = [make_event(timestamp=datetime(2026, 1, 1, tzinfo=UTC), value=number) for number in range(2_300)]
    later = make_event(timestamp=datetime(2026, 1, 2, tzinfo=UTC))
    await store.write(batch_of(later, *same_time))
    seen = [event async for event in store.get_events()]
    assert seen == [*sorted(same_time, key=lambda event: event.event_id), later]
    assert await store.get_events(limit=3) == seen[-3:]
    assert await store.get_events(limit=1_500) == seen[-1_500:]
    assert await store.get_events(limit=5_000) == seen
    assert await store.get_events(limit=0) == []


async def test_reading_takes_a_flag_a_window_and_a_filter(store: DatabaseStore, make_event: Any, batch_of: Any) -> None:
    events = [make_event(number, flag_key="ab"[number % 2]) for number in range(10)]
    events[4] = make_event(4, flag_key="a", kind="outcome")
    await store.write(batch_of(*events))
    window = Window(events[2].timestamp, events[6].timestamp)
    assert await store.get_events("a", window=window) == [events[2], events[4], events[6]]
    assert await store.get_events("a", window=window, where=EventFilter()) == [events[2], events[6]]
    assert await store.get_events(where=EventFilter(context={"n": 3})) == [events[3]]
    assert await store.get_events("nobody") == []


async def test_dead_letters_are_kept_in_a_table_of_their_own(
    store: DatabaseStore, database: Any, make_event: Any, batch_of: Any
) -> None:
    event = batch_of(make_event(error_message="\x85 🎏")).events[0]
    letter = DeadLetter("database", event, "BadBatch", "22021", "batch-1", 1_700_000_000.5)
    await store.write_dead_letters([letter])
    await store.write_dead_letters([letter])
    ((code, text),) = await database.run("SELECT code, event FROM analytics_events_dead_letters")
    assert code == "22021"
    assert text.isascii()
    assert event.event_id in text


async def test_one_bad_id_refuses_the_batch_and_no_row_is_stored(
    store: DatabaseStore, make_event: Any, batch_of: Any
) -> None:
    batch = batch_of(make_event(), make_event(1))
    import msgspec

    bad = msgspec.structs.replace(batch.events[1], event_id="x" * 36)
    with pytest.raises(BadBatch):
        await store.write(type(batch)("b", (batch.events[0], bad)))
    assert await store.get_events() == []


async def test_names_of_table_and_schema_can_be_chosen(postgresql: Any, make_event: Any, batch_of: Any) -> None:
    await postgresql.run("CREATE SCHEMA audit")
    store = postgresql.store(table="Flag_Events", schema="audit")
    await store.write(batch_of(make_event()))
    await store.write(batch_of(make_event()))
    assert await postgresql.count('audit."Flag_Events"') == 2
    assert (await store.summarise(["checkout"], EVERYTHING))["checkout"].total == 2
    await store.close()


async def test_the_longest_table_name_has_distinct_names_beside_it(
    database: Any, make_event: Any, batch_of: Any
) -> None:
    store = database.store(table="t" * 63)
    await store.write(batch_of(make_event()))
    assert len(await store.get_events()) == 1
    await store.close()


async def test_without_create_tables_a_missing_table_is_waited_for(
    database: Any, make_event: Any, batch_of: Any
) -> None:
    store = database.store(create_tables=False)
    with pytest.raises(SinkUnavailable, match="does not exist") as caught:
        await store.write(batch_of(make_event()))
    assert caught.value.code == "schema"
    operator = database.store()
    await operator.upgrade()
    await operator.close()
    await store.write(batch_of(make_event()))
    assert await database.count() == 1
    await store.close()


async def test_a_foreign_table_of_that_name_is_left_alone(database: Any, make_event: Any, batch_of: Any) -> None:
    await database.run("CREATE TABLE analytics_events (page VARCHAR(20))")
    store = database.store(upgrade=True)
    with pytest.raises(SinkUnavailable, match="not one of flag-analytics"):
        await store.write(batch_of(make_event()))
    assert await database.count() == 0
    await store.close()


@pytest.mark.parametrize(
    ("workers", "rounds"),
    [pytest.param(12, 3, id="short"), pytest.param(20, 20, id="long", marks=pytest.mark.chaos)],
)
async def test_many_workers_may_create_the_tables_at_once(
    database: Any, make_event: Any, batch_of: Any, workers: int, rounds: int
) -> None:
    for round_number in range(rounds):
        stores = [database.store(table=f"events_{round_number}") for _ in range(workers)]
        await asyncio.gather(*(store.write(batch_of(make_event())) for store in stores))
        assert len(await stores[0].get_events()) == workers
        await asyncio.gather(*(store.close() for store in stores))
    assert await _table_names(database) == {
        f"events_{number}{suffix}"
        for number in range(rounds)
        for suffix in ("", "_dead_letters", "_imports", "_counts", "_sketches", "_rollup_state", "_version")
    }


async def _table_names(database: Any) -> set[str]:
    query = {
        "sqlite": "SELECT name FROM sqlite_master WHERE type = 'table'",
        "postgresql": "SELECT tablename FROM pg_tables WHERE schemaname = 'public'",
        "mysql": "SELECT table_name FROM information_schema.tables "
        "WHERE table_schema = database() AND table_type = 'BASE TABLE'",
    }[database.family]
    return {row[0] for row in await database.run(query)}


async def test_questions_can_be_asked_from_any_number_of_loops(
    store: DatabaseStore, make_event: Any, batch_of: Any
) -> None:
    await store.write(batch_of(make_event()))

    def ask() -> int:
        return asyncio.run(_total(store))

    answers = await asyncio.gather(*(asyncio.to_thread(ask) for _ in range(6)))
    assert answers == [1] * 6


async def _total(store: DatabaseStore) -> int:
    return (await store.summarise(["checkout"], EVERYTHING))["checkout"].total


async def test_an_index_answers_for_a_flag_without_touching_the_table(sqlite: Any) -> None:
    store = sqlite.store()
    await store.summarise(["a"], EVERYTHING)
    from flag_analytics.sources import PARTS
    from flag_analytics_database.queries import summary_query

    query = summary_query(store.tables, "sqlite", ["a"], EVERYTHING, PARTS, (50.0,), EventFilter())
    from sqlalchemy.dialects import sqlite as dialect

    compiled = query.compile(dialect=dialect.dialect(), compile_kwargs={"literal_binds": True})
    plan = await sqlite.run("EXPLAIN QUERY PLAN " + str(compiled))
    searches = [row[3] for row in plan if "analytics_events" in row[3]]
    assert searches
    assert all("USING COVERING INDEX analytics_events_figures" in line for line in searches)
    await store.close()


async def test_future_events_are_counted_apart(store: DatabaseStore, make_event: Any, batch_of: Any) -> None:
    now = datetime.now(UTC)
    await store.write(batch_of(make_event(timestamp=now), make_event(timestamp=now + timedelta(microseconds=1))))
    assert await store.count_future(now) == 1


async def test_dead_letters_are_read_back_as_they_were_written(database: Any, make_event: Any, batch_of: Any) -> None:
    store = database.store()
    assert await store.read_dead_letters() == []
    events = batch_of(
        *(
            make_event(
                number,
                value={"text": "\N{SNOWMAN}\u2028", "list": [None, 1.5, True]},
                context_attributes={"\N{PILE OF POO}": number},
                error_type="Refused",
                sample_rate=0.5,
                kind="outcome",
            )
            for number in range(5)
        )
    ).events
    letters = [
        DeadLetter("database", event, "BadBatch", "22001", f"batch-{number}", 1_700_000_000.25 + number)
        for number, event in enumerate(events)
    ]
    await store.write_dead_letters(letters[3:])
    await store.write_dead_letters(letters[:3])
    await store.write_dead_letters(letters)
    assert await store.read_dead_letters() == letters
    assert await store.read_dead_letters(limit=2) == letters[3:]
