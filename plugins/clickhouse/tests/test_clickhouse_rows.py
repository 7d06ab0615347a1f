"""Events as columns, and what is refused because no row can be made of it."""

from __future__ import annotations

from datetime import UTC, datetime

import msgspec
import pytest
from flag_analytics import FlagEvaluationEvent
from flag_analytics.errors import BadBatch
from flag_analytics.freezer import Freezer
from flag_analytics.metrics import Grouping
from flag_analytics.sources import NO_VALUE
from flag_analytics_clickhouse.rows import (
    as_columns,
    by_partition,
    environment_of,
    event_from,
    from_micros,
    micros,
    unfit,
)
from flag_analytics_clickhouse.schema import ALL_COLUMNS
from hypothesis import given
from hypothesis import strategies as st


def frozen(number=0, **fields):
    given = {
        "timestamp": datetime(2026, 11, 30, tzinfo=UTC),
        "flag_key": f"flag-{number}",
        "value": True,
        "reason": "STATIC",
        "context_attributes": {},
    }
    return Freezer().freeze(FlagEvaluationEvent(**{**given, **fields}))


@given(st.datetimes(timezones=st.just(UTC)))
def test_a_time_is_kept_to_the_microsecond(moment):
    assert from_micros(micros(moment)) == moment


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@given(st.dictionaries(st.sampled_from(["environment", "Environment", 'a"environment"']), json_values))
def test_an_environment_is_named_as_in_groups(context):
    event = frozen(context_attributes=context)
    value = event.context_attributes.get("environment")
    wanted = NO_VALUE if value is None else value if isinstance(value, str) else msgspec.json.encode(value).decode()
    assert environment_of(event.context_json) == wanted
    assert Grouping("environment").attribute == "environment"


def test_a_row_has_each_column_once_and_gives_the_event_back():
    event = frozen(
        variant="",
        targeting_key="anna",
        kind="outcome",
        sample_rate=0.5,
        error_type="E",
        error_message="m",
        flag_version="1",
        flag_set_id="s",
        provider_name="p",
        evaluation_duration_ms=3,
        value={"a": [1, 2.0, None]},
    )
    columns = as_columns([event], "b")
    assert tuple(columns) == ALL_COLUMNS
    row = {name: column[0] for name, column in columns.items()}
    row["event_id"], row["kind"] = event.event_id, event.kind
    for name in ("batch_id", "received_at", "environment"):
        row.pop(name)
    assert event_from(row.values()) == event.thaw()


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("event_id", "not-a-uuid"),
        ("event_id", "é" * 32),
        ("flag_key", 7),
        ("variant", b"x"),
        ("kind", "unknown"),
        ("context_json", b"\xff"),
        ("value_json", b"\xff"),
        ("targeting_key", "\ud800"),
        ("evaluation_duration_ms", "1"),
        ("received_at", float("inf")),
    ],
)
def test_the_event_that_no_row_can_be_made_of_is_named_and_not_quoted(field, value):
    bad = msgspec.structs.replace(frozen(1), **{field: value})
    assert [*unfit([frozen(), bad, frozen(2)]).refused] == [bad.event_id]
    if value != "\ud800":  # which the client refuses when it encodes it
        with pytest.raises(BadBatch) as raised:
            as_columns([frozen(), bad, frozen(2)], "b")
        assert [*raised.value.refused] == [bad.event_id]


def test_events_are_divided_by_the_month_they_are_in():
    moments = [datetime(2026, 2, 28, 23, 59, 59, 999_999, UTC), datetime(2026, 3, 1, tzinfo=UTC)]
    moments += [datetime(1999, 12, 31, tzinfo=UTC), datetime(2100, 1, 1, tzinfo=UTC), datetime.max.replace(tzinfo=UTC)]
    divided = by_partition([frozen(timestamp=moment) for moment in moments])
    assert {month: len(events) for month, events in divided.items()} == {"0": 3, "202602": 1, "202603": 1}
