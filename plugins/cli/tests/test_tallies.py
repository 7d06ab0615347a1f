"""A file that is counted while it is read answers as its events in memory would, in memory that stays flat."""

from __future__ import annotations

import asyncio
import io
import json
import os
import sys
import threading
import tracemalloc
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from flag_analytics.events import FlagEvaluationEvent
from flag_analytics.freezer import Freezer
from flag_analytics.metrics import EventsSource
from flag_analytics.sources import EventFilter, Grouping, Window
from flag_analytics_cli import tallies
from flag_analytics_cli.file_errors import FileError
from flag_analytics_cli.main import main
from flag_analytics_cli.tallies import Needs, TallySource
from hypothesis import given, settings
from hypothesis import strategies as st

BASE = datetime(2026, 1, 5, 8, tzinfo=UTC)
WINDOW = Window(BASE - timedelta(hours=1), BASE + timedelta(hours=1))
DIMENSIONS = ("variant", "reason", "flag_version", "environment", "context.plan")
ALL = Needs(exposures=True, groups=frozenset(DIMENSIONS), steps=True)


def source_of(events: list[FlagEvaluationEvent], needs: Needs = ALL, **scope: Any) -> TallySource:
    def read(record: Callable[[FlagEvaluationEvent], object]) -> None:
        for event in events:
            record(event)

    source = TallySource(WINDOW, scope.get("where"), needs, read)
    read(source.record)
    return source


events_of_two_flags = st.lists(
    st.builds(
        FlagEvaluationEvent,
        st.integers(-5_000, 5_000).map(lambda seconds: BASE + timedelta(seconds=seconds)),
        st.sampled_from(["a", "b", "a\0"]),
        st.just(True),
        st.sampled_from(["SPLIT", "ERROR"]),
        st.sampled_from([None, "", "on", "off"]),
        st.sampled_from([None, "u1", "u2", "u3"]),
        st.dictionaries(st.sampled_from(["plan", "environment"]), st.sampled_from(["pro", 1, None])),
        st.sampled_from([0.0, 1.5, 2.5]),
        flag_version=st.sampled_from([None, "1", "2"]),
        kind=st.sampled_from(["evaluation", "exposure", "outcome"]),
        sample_rate=st.sampled_from([1.0, 1.0, 0.5]),
    ),
    max_size=40,
)


@given(
    events_of_two_flags,
    st.sampled_from(DIMENSIONS),
    st.sampled_from([1, 2, 50]),
    st.none() | st.just(EventFilter(context={"plan": "pro"})),
)
@settings(deadline=None)
async def test_every_answer_is_that_of_the_events_in_memory(
    events: list[FlagEvaluationEvent], dimension: str, most: int, where: EventFilter | None
) -> None:
    frozen = [Freezer().freeze(event) for event in events]
    counted, kept = source_of(events, where=where), EventsSource(lambda: frozen)
    group_by = Grouping(dimension, most)
    keys = ["a", "b", "c"]
    for groups in (None, group_by):
        asked: dict[str, Any] = {"percentiles": (50.0,), "where": where, "group_by": groups}
        assert await counted.summarise(keys, WINDOW, **asked) == await kept.summarise(keys, WINDOW, **asked)
    narrow = Window(BASE, BASE + timedelta(minutes=30))
    for key in keys:
        found = await counted.get_exposures(key, WINDOW, where=where)
        assert found == await kept.get_exposures(key, WINDOW, where=where)
        assert await counted.count_steps(key, narrow, 600.0, where=where) == await kept.count_steps(
            key, narrow, 600.0, where=where
        )
        for groups in (None, group_by):
            steps = await counted.count_steps(key, WINDOW, 600.0, where=where, group_by=groups)
            assert steps == await kept.count_steps(key, WINDOW, 600.0, where=where, group_by=groups)


async def test_steps_that_are_asked_for_at_the_same_time_take_one_more_reading() -> None:
    readings = 0

    def read(record: Callable[[FlagEvaluationEvent], object]) -> None:
        nonlocal readings
        readings += 1
        for number in range(10):
            record(FlagEvaluationEvent(BASE, f"flag-{number}", True, "SPLIT"))

    source = TallySource(WINDOW, None, Needs(steps=True), read)
    read(source.record)
    found = await asyncio.gather(*(source.count_steps(f"flag-{number}", WINDOW, 60.0) for number in range(10)))
    assert [[step.count for step in steps.values()] for steps in found] == [[1]] * 10
    assert readings == 2


async def test_what_was_not_kept_is_refused() -> None:
    source = source_of([FlagEvaluationEvent(BASE, "a", True, "SPLIT")], Needs())
    with pytest.raises(ValueError, match="before the file is read"):
        await source.get_exposures("a", WINDOW)
    with pytest.raises(ValueError, match="before the file is read"):
        await source.count_steps("a", WINDOW, 60.0)
    with pytest.raises(ValueError, match="before the file is read"):
        await source.summarise(["a"], WINDOW, group_by=Grouping("variant"))


def test_groups_without_end_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tallies, "_MOST_GROUPS", 1_000)
    with pytest.raises(FileError, match=r"more than 1,000 groups by context\.plan: expected a dimension of few values"):
        source_of(
            [
                FlagEvaluationEvent(BASE, "a", True, "SPLIT", context_attributes={"plan": str(number)})
                for number in range(2_000)
            ]
        )


def _peak(count: int) -> int:
    """Return the most memory that all answers about so many events of 50 users take."""

    def read(record: Callable[[FlagEvaluationEvent], object]) -> None:
        for n in range(count):
            moment = BASE + timedelta(seconds=n % 3_000)
            user, context = f"user-{n % 50}", {"plan": f"plan-{n % 5}"}
            record(FlagEvaluationEvent(moment, f"f{n % 3}", True, "SPLIT", f"v{n % 2}", user, context))

    async def answers() -> None:
        source = TallySource(WINDOW, None, ALL, read)
        read(source.record)
        keys = ["f0", "f1", "f2"]
        by_plan = Grouping("context.plan")
        found = await source.summarise(keys, WINDOW, group_by=by_plan)
        assert sum(plan.total for flag in found.values() for plan in flag.groups.values()) == count
        await asyncio.gather(*(source.count_steps(key, WINDOW, 60.0, group_by=by_plan) for key in keys))
        await source.get_exposures("f0", WINDOW)

    tracemalloc.start()
    try:
        asyncio.run(answers())
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_memory_stays_flat_whatever_is_asked() -> None:
    _peak(100)  # what is made once
    few, many = _peak(2_000), _peak(6_000)
    assert many < 1.5 * few, f"{few:,} bytes, then {many:,}"


# --- the command


def lines(count: int) -> str:
    return "".join(
        json.dumps({
            "timestamp": (BASE + timedelta(minutes=number)).isoformat(),
            "flag_key": "checkout",
            "variant": ("on", "off")[number % 2],
            "targeting_key": f"u{number % 7}",
        }) + "\n"
        for number in range(count)
    )  # fmt: skip


UNTIL = ["--until", "2026-01-06"]
ASKED = [
    ["report", "--group-by", "variant", "--format", "json", *UNTIL],
    ["report", "--expect", "on=50,off=50", "--format", "json", *UNTIL],
    ["series", "checkout", "--step", "1h", "--format", "json"],
    ["series", "checkout", "--group-by", "variant", "--format", "csv"],
]


@pytest.mark.parametrize("asked", ASKED, ids=" ".join)
def test_standard_input_is_read_twice_where_it_must_be(asked, capsys, monkeypatch, tmp_path):
    text = lines(100)
    file = tmp_path / "events.jsonl"
    file.write_text(text)
    code = main([*asked, "--file", str(file)])
    expected = capsys.readouterr().out
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text.encode())))
    assert main([*asked, "--file", "-"]) == code
    printed = capsys.readouterr()
    assert printed.out == expected
    assert "standard input: read as" in printed.err


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_a_named_pipe_is_read_twice_where_it_must_be(capsys, tmp_path):
    pipe = tmp_path / "events"
    os.mkfifo(pipe)
    writer = threading.Thread(target=pipe.write_text, args=(lines(100),))
    writer.start()
    assert main(["report", "--group-by", "variant", "--format", "json", "--file", str(pipe)]) == 0
    writer.join()
    flags = json.loads(capsys.readouterr().out)["flags"]
    assert [(flag["group"], flag["total_evaluations"]) for flag in flags] == [("off", 50), ("on", 50)]


def test_a_file_that_changes_between_two_readings_is_refused(capsys, monkeypatch, tmp_path):
    file = tmp_path / "events.jsonl"
    file.write_text(lines(100))
    fill = TallySource._fill

    async def changed(self: TallySource, *dealt: Any) -> None:
        file.write_text(lines(101))
        await fill(self, *dealt)

    monkeypatch.setattr(TallySource, "_fill", changed)
    assert main(["series", "checkout", "--file", str(file)]) != 0
    assert "the file changed while it was read: make a copy" in capsys.readouterr().err


def test_a_dimension_that_does_not_exist_is_refused_before_a_file_is_read(capsys):
    assert main(["report", "--group-by", "colour", "--file", "missing.csv"]) == 2
    assert "--group-by 'colour'" in capsys.readouterr().err


def test_a_summary_of_no_events_is_missing() -> None:
    assert asyncio.run(source_of([]).summarise(["a"], WINDOW, group_by=Grouping("variant"))) == {}
