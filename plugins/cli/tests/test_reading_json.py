"""JSON Lines, ours and GO Feature Flag's."""

from __future__ import annotations

import io
import json
from datetime import UTC, datetime
from typing import Any

import pytest
from flag_analytics.events import EvaluationReason, FlagEvaluationEvent
from flag_analytics_cli.reading import BadLine, FileError, LineReader, guess_format, read_events
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

NOON = datetime(2026, 1, 31, 12, tzinfo=UTC)
GOFF = {
    "kind": "feature",
    "contextKind": "anonymousUser",
    "userKey": "ABCD",
    "creationDate": 1617970547,
    "key": "random-key",
    "variation": "Default",
    "value": "YO",
    "default": False,
    "version": "",
    "source": "SERVER",
}


def read(text: str | bytes, form: Any = "jsonl", flag_key: str | None = None) -> list[Any]:
    data = text.encode() if isinstance(text, str) else text
    return list(read_events(LineReader(io.BytesIO(data)), form, {}, flag_key))


def test_an_event_written_with_to_dict_is_read_back_whole():
    event = FlagEvaluationEvent(
        NOON,
        "f",
        {"rows": [1, None]},
        EvaluationReason.SPLIT,
        "v",
        "u",
        {"plan": "team"},
        1.25,
        error_type="GENERAL",
        error_message="no answer",
        flag_version="3",
        flag_set_id="shop",
        provider_name="flagd",
        kind="exposure",
        sample_rate=0.5,
    )
    assert read(json.dumps(event.to_dict())) == [event]


def test_what_is_left_out_has_its_default_and_the_id_is_the_line_s():
    text = '{"timestamp": "2026-01-31T12:00:00", "flag_key": "f"}\n'
    [event] = read(text)
    assert (event.timestamp, event.value, event.reason, event.kind) == (NOON, None, "UNKNOWN", "evaluation")
    assert event.event_id == read(text)[0].event_id != read("\n" + text)[0].event_id


def test_a_flag_key_can_be_given_for_those_without():
    text = '{"timestamp": 0}\n{"timestamp": 0, "flag_key": "own"}\n'
    assert [event.flag_key for event in read(text, flag_key="given")] == ["given", "own"]


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("{", "is not JSON"),
        ("[" * 100_000, "is not JSON"),
        ("[]", "is not a JSON object"),
        ("7", "is not a JSON object"),
        ('{"flag_key": "f"}', "timestamp is neither ISO 8601 nor a number of seconds since 1970"),
        ('{"flag_key": "f", "timestamp": true}', "timestamp is neither ISO 8601 nor a number of seconds since 1970"),
        ('{"timestamp": 0}', "flag_key is missing or not text"),
        ('{"timestamp": 0, "flag_key": 7}', "flag_key is missing or not text"),
        ('{"timestamp": 0, "flag_key": "f", "variant": {}}', "variant is not text"),
        ('{"timestamp": 0, "flag_key": "f", "reason": 7}', "reason is not text"),
        ('{"timestamp": 0, "flag_key": "f", "context_attributes": []}', "context_attributes is not a JSON object"),
        ('{"timestamp": 0, "flag_key": "f", "kind": "view"}', "kind is none of evaluation, exposure, outcome"),
        ('{"timestamp": 0, "flag_key": "f", "kind": []}', "kind is none of evaluation, exposure, outcome"),
        ('{"timestamp": 0, "flag_key": "f", "sample_rate": 2}', "sample_rate is not a ratio above 0 and at most 1"),
        (
            '{"timestamp": 0, "flag_key": "f", "evaluation_duration_ms": "x"}',
            "evaluation_duration_ms is not a number of milliseconds, 0 or more",
        ),
    ],
)
def test_a_line_that_is_no_event_is_named_and_the_next_is_read(line, problem):
    bad, good = read(f'{line}\n\n{{"timestamp": 0, "flag_key": "g"}}')
    assert str(bad) == f"line 1: {problem}"
    assert good.flag_key == "g"


def test_a_feature_event_of_go_feature_flag_is_an_evaluation():
    [event] = read(json.dumps(GOFF | {"version": "v1.0.0", "metadata": {"sdk": "java"}}), "goff")
    assert event.timestamp == datetime(2021, 4, 9, 12, 15, 47, tzinfo=UTC)
    assert (event.flag_key, event.variant, event.value) == ("random-key", "Default", "YO")
    assert (event.targeting_key, event.flag_version, event.reason) == ("ABCD", "v1.0.0", EvaluationReason.UNKNOWN)
    assert event.context_attributes == {"sdk": "java", "contextKind": "anonymousUser", "source": "SERVER"}
    assert (event.kind, event.error_type, event.provider_name) == ("evaluation", None, "GO Feature Flag")


def test_creation_dates_in_milliseconds_are_told_by_their_size():
    [event] = read(json.dumps(GOFF | {"creationDate": 1680246000011}), "goff")
    assert event.timestamp == datetime(2023, 3, 31, 7, 0, 0, 11_000, tzinfo=UTC)


def test_a_default_is_an_error_and_an_answer_from_the_cache_is_cached():
    failed, cached = read(
        json.dumps(GOFF | {"default": True, "variation": "SdkDefault"})
        + "\n"
        + json.dumps(GOFF | {"source": "PROVIDER_CACHE"}),
        "goff",
    )
    assert (failed.reason, failed.error_type, failed.variant) == ("ERROR", "GENERAL", "SdkDefault")
    assert (cached.reason, cached.error_type, cached.flag_version) == ("CACHED", None, None)


def test_a_tracking_event_of_go_feature_flag_is_an_outcome():
    line = {
        "kind": "tracking",
        "contextKind": "user",
        "userKey": "u",
        "creationDate": 1617970547,
        "key": "bought",
        "evaluationContext": {"plan": "team"},
        "trackingEventDetails": {"value": 12.5},
    }
    [event] = read(json.dumps(line), "goff")
    assert (event.kind, event.flag_key, event.value) == ("outcome", "bought", {"value": 12.5})
    assert event.context_attributes == {"plan": "team", "contextKind": "user"}


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"key": 7}, "key is missing or not text"),
        ({"key": None}, "key is missing or not text"),
        ({"creationDate": "soon"}, "timestamp is neither ISO 8601 nor a number of seconds since 1970"),
        ({"variation": []}, "variation is not text"),
        ({"metadata": "x"}, "metadata is not a JSON object"),
    ],
)
def test_a_line_of_go_feature_flag_that_is_no_event_is_named(change, problem):
    assert [str(line) for line in read(json.dumps(GOFF | change), "goff")] == [f"line 1: {problem}"]


@pytest.mark.parametrize(
    ("name", "first", "form"),
    [
        ("data.csv", "{", "csv"),
        ("data.TSV", "a\tb", "csv"),
        ("export.json", json.dumps(GOFF), "goff"),
        ("events.jsonl", '{"timestamp": 0}', "jsonl"),
        ("noname", "timestamp,flag", "csv"),
        ("noname", "{broken", "jsonl"),
        ("noname", "", "jsonl"),
    ],
)
def test_the_format_is_told_from_the_name_or_the_first_line(name, first, form):
    lines = LineReader(io.BytesIO(first.encode()))
    assert guess_format(name, lines) == form
    assert "".join(getattr(line, "text", "") for line in lines) == first, "nothing of it is lost"


def test_columns_are_for_csv_only():
    with pytest.raises(FileError, match="--map names columns, which a file of format jsonl does not have"):
        read_events(LineReader(io.BytesIO(b"")), "jsonl", {"variant": "group"})


@settings(max_examples=150, suppress_health_check=[HealthCheck.too_slow])
@given(st.binary(max_size=200), st.sampled_from(["jsonl", "goff"]))
def test_any_bytes_are_read_or_counted(data, form):
    for result in read(data, form):
        assert isinstance(result, FlagEvaluationEvent | BadLine)


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=4,
)
_names = st.sampled_from([*FlagEvaluationEvent.__struct_fields__, *GOFF, "metadata"])


@settings(max_examples=150, suppress_health_check=[HealthCheck.too_slow])
@given(st.dictionaries(_names, _json), st.sampled_from(["jsonl", "goff"]))
def test_any_object_is_read_or_counted(fields, form):
    for result in read(json.dumps(fields), form):
        assert isinstance(result, FlagEvaluationEvent | BadLine)
