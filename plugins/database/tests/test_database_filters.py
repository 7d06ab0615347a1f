"""Whatever a filter asks for or a percentile is, every database gives the answer of events in memory."""

from __future__ import annotations

import math
import struct
from datetime import UTC, datetime
from random import Random
from typing import Any

import pytest
from flag_analytics import metrics
from flag_analytics.protocols import Batch
from flag_analytics.sources import EventFilter, Grouping, Window
from flag_analytics_database import DatabaseStore

ALWAYS = Window(None, datetime(2100, 1, 1, tzinfo=UTC))

_MARKS = ["-", "--", "-a", "a-b", "a-", "- ;", "-- ;", "-1", "-0.5", "->", "->>", "-\\", '-"', "-%", "-_", "-é", "-🎏"]
_PLAIN = ["", " ", "a", "A", "á", "a\u0301", "a ", " a", "b", "0", "1a", "10", "é", "E", "ß", "ss", "last-1", "to"]
_SIGNS = [
    '"',
    "'",
    "\\",
    "\\\\",
    "$",
    "$.a",
    "$[0]",
    "[0]",
    "[*]",
    ".",
    "a.b",
    "*",
    "**",
    "%",
    "_",
    "a_",
    "@",
    "#",
    "?",
]
_CONTROLS = ["\x01", "\t", "\r\n", "\x1f", "\x7f", "\u2028", "-\t", "-\x01", "\\u002da", "-\\u0061", "\U0010ffff"]
_TEXTS = [
    ":x",
    "%s",
    "%(x)s",
    "{{",
    "null",
    "true",
    "{}",
    "🎏",
    "🎏\ufe0f",
    "x" * 5_000,
    "-" + "x" * 5_000,
    "-🎏" * 900,
]
NAMES = _MARKS + _PLAIN + _SIGNS + _CONTROLS + _TEXTS

_WHOLE = [0, 1, -1, 10**15, 10**16, 10**17, 2**53 - 1, 2**53, 2**53 + 1, 2**53 + 2, 2**60 - 1, 2**60, 2**60 + 1]
_DIGITS = [1152921504606847000, 2**62 + 2**9, 2**63 - 1024, 2**63 - 1, 1 - 2**63, -(2**63), 123456789012345680]
_FRACTIONS = [0.5, 1.5, 0.1, 0.1 + 0.2, 1 / 3, 1e-7, 5e-324, 2.2250738585072014e-308, 1e22, 1e23, 1e300, 1e308]
_NUMBERS = [*_WHOLE, *_DIGITS, -(2**53) - 1, *_FRACTIONS, 1.7976931348623157e308]
NUMBERS = [*_NUMBERS, *map(float, _WHOLE + _DIGITS), float(2**63), -0.0, True, False, None, "1", "0", "", 2**63, 10**30]


async def _assert_found_as_in_memory(store: DatabaseStore, batch: Batch, contexts: list[dict[str, Any]]) -> None:
    """Every event has a flag of its own, so that the flags found are the events found."""
    await store.write(batch)
    for context in contexts:
        where = EventFilter(context=context)
        found = await store.list_flags(ALWAYS, where=where)
        wanted = metrics.select(batch.events, ALWAYS, metrics.canonical_filter(where))
        assert {flag.flag_key for flag in found} == {event.flag_key for event in wanted}, context


async def test_an_attribute_of_any_name_is_found(store: DatabaseStore, make_event: Any, batch_of: Any) -> None:
    documents = [{f"z{name}": 2, name: 1, f"{name}z": 2} for name in NAMES]
    documents += [{name: 1} for name in NAMES]
    documents.append({name: 1 for name in reversed(NAMES) if len(name) < 100})
    events = [make_event(flag_key=str(number), context_attributes=each) for number, each in enumerate(documents)]
    await _assert_found_as_in_memory(store, batch_of(*events), [{name: 1} for name in NAMES])


@pytest.mark.parametrize("name", ["n", "-n"])
async def test_a_number_matches_what_equals_it_in_python(
    store: DatabaseStore, make_event: Any, batch_of: Any, name: str
) -> None:
    values = [*NUMBERS, [1], {"1": 1}, [2**60], {name: 2**60}]
    contexts = [{"a": 2**60, name: value, "z": None} for value in values]
    events = [make_event(flag_key=str(number), context_attributes=each) for number, each in enumerate(contexts)]
    await _assert_found_as_in_memory(store, batch_of(*events), [{name: number} for number in NUMBERS])


async def test_any_float_is_found_by_itself(store: DatabaseStore, make_event: Any, batch_of: Any) -> None:
    random = Random(20260301)
    bits = [struct.unpack("d", random.randbytes(8))[0] for _ in range(60)]
    floats = [number for number in bits if math.isfinite(number)]
    floats += [random.random() * 10.0 ** random.randrange(-5, 25) for _ in range(60)]
    floats += [math.nextafter(number, math.inf) for number in floats]
    contexts = [{"n": number} for number in floats]
    events = [make_event(flag_key=str(number), context_attributes=each) for number, each in enumerate(contexts)]
    await _assert_found_as_in_memory(store, batch_of(*events), contexts)


@pytest.mark.parametrize("name", ["plan", 'q"u', '"', '\\"', 'é"', '\t"', "a.b", "$[0]", "-a", ""])
async def test_a_group_of_any_name_is_the_number_as_it_was_written(
    store: DatabaseStore, make_event: Any, batch_of: Any, name: str
) -> None:
    numbers = [float(2**53), 0.1, 1e16, 1e300, 5e-324, 1 / 3, -0.0, 2**53 + 1, "1", True]
    contexts = [{"z": {name: 7}, name: number, "y": f'{name}":'} for number in numbers]
    batch = batch_of(*(make_event(flag_key="f", context_attributes=each) for each in contexts))
    await store.write(batch)
    grouping = Grouping(f"context.{name}")
    found = await store.summarise(["f"], ALWAYS, group_by=grouping)
    assert found["f"].groups == metrics.summarise(batch.events, [], grouping).groups


@pytest.mark.parametrize("value", [None, True, "text", "-", "é\t🎏", '"', "", 1, 1.5, -0.0, 1e300])
async def test_an_attribute_with_a_hyphen_is_compared_as_any_other(
    store: DatabaseStore, make_event: Any, batch_of: Any, value: Any
) -> None:
    others = [None, False, True, "text ", "Text", "-a", "", 0, 1, 1.5, 1e300, 10**18, [value], {"-a": value}, value]
    contexts = [{"-b": value, "-a": other, "A": value, "user-id": value} for other in others]
    contexts += [{"-": value}, {"-A": value}, {"b": {"-a": value}}, {}]
    events = [make_event(flag_key=str(number), context_attributes=each) for number, each in enumerate(contexts)]
    wanted = [{name: value} for name in ("-a", "-b", "user-id")]
    await _assert_found_as_in_memory(store, batch_of(*events), wanted)


@pytest.mark.parametrize("flag_keys", [["checkout"], ["checkout", "search", "nobody"]])
async def test_thousands_of_percentiles_are_those_of_memory(
    store: DatabaseStore, make_event: Any, batch_of: Any, flag_keys: list[str]
) -> None:
    durations = {"checkout": [number * 7919 % 1009 / 7 for number in range(1_009)], "search": [0.25]}
    events = [make_event(flag_key=key, evaluation_duration_ms=each) for key in durations for each in durations[key]]
    await store.write(batch_of(*events))
    percents = [number / 30 for number in range(3_001)]
    found = await store.summarise(flag_keys, ALWAYS, percentiles=percents)
    assert set(found) == set(durations) & set(flag_keys)
    for key, summary in found.items():
        measured = sorted(duration for duration in durations[key] if duration > 0)
        assert summary.percentiles == {percent: metrics.percentile(measured, percent) for percent in percents}


async def test_thousands_of_flags_have_their_percentiles(store: DatabaseStore, make_event: Any, batch_of: Any) -> None:
    keys = [f"flag-{number}" for number in range(2_500)]
    await store.write(batch_of(*(make_event(number, flag_key=key) for number, key in enumerate(keys))))
    where = EventFilter(environment=None, variant="a", context={"plan": "pro"})
    found = await store.summarise(keys, ALWAYS, percentiles=(0.0, 50.0, 99.9), where=where)
    wanted = {key: 0.5 + number for number, key in enumerate(keys) if number % 2 == 0}
    assert {key: summary.percentiles for key, summary in found.items()} == {
        key: dict.fromkeys((0.0, 50.0, 99.9), duration) for key, duration in wanted.items()
    }
