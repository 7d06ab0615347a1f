"""JSON Lines, ours and GO Feature Flag's."""

from __future__ import annotations

import io
import json
from datetime import UTC, datetime
from typing import Any

import pytest
from flag_analytics.events import EvaluationReason, FlagEvaluationEvent
from flag_analytics_cli.reading import BadLine, ColumnError, EventReader, FileError, ReadOptions, Skipped
from flag_analytics_cli.reading.source import Source
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

NOON = datetime(2026, 1, 31, 12, tzinfo=UTC)
FORMS = [None, "jsonl", "goff", "launchdarkly", "otlp", "posthog", "segment", "datadog", "flagsmith"]
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


def read(text: str | bytes, form: Any = "jsonl", flag_key: str | None = None, **options: Any) -> list[Any]:
    return list(reader_of(text, form=form, flag_key=flag_key, **options))


def reader_of(text: str | bytes, name: str = "noname", **options: Any) -> EventReader:
    stream = io.BufferedReader(io.BytesIO(text.encode() if isinstance(text, str) else text))  # type: ignore[type-var]
    return EventReader(Source(name, stream, "utf-8", None, stream), ReadOptions(**options))


def told(bad: BadLine) -> str:
    return f"line {bad.first}: {bad.problem}"


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


def test_missing_fields_have_their_defaults_and_the_id_is_of_the_line():
    text = '{"timestamp": "2026-01-31T12:00:00", "flag_key": "f"}\n'
    [event] = read(text)
    assert (event.timestamp, event.value, event.reason, event.kind) == (NOON, None, "UNKNOWN", "evaluation")
    assert event.event_id == read(text)[0].event_id != read("\n" + text)[0].event_id


def test_a_flag_key_can_be_given_for_those_without():
    text = '{"timestamp": 1769860800}\n{"timestamp": 1769860800, "flag_key": "own"}\n'
    assert [event.flag_key for event in read(text, flag_key="given")] == ["given", "own"]


AT = '"timestamp": "2026-01-31"'


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("{", "is not JSON"),
        ("[" * 100_000, "is not JSON"),
        ("[]", "is not a JSON object"),
        ("7", "is not a JSON object"),
        ('{"flag_key": "f", "timestamp": null}', "timestamp is neither ISO 8601 nor a number of seconds since 1970"),
        ('{"flag_key": "f", "timestamp": true}', "timestamp is neither ISO 8601 nor a number of seconds since 1970"),
        ('{"flag_key": "f", "timestamp": 7}', "timestamp is a number that is no time between 2000 and tomorrow"),
        ('{"flag_key": "f", "timestamp": 46027.5}', "timestamp is a number around 46,000, as a spreadsheet counts"),
        ('{"flag_key": "f", "timestamp": 1712011500123456789012}', "timestamp is out of range"),
        (f'{{"flag_key": null, {AT}}}', "flag_key is missing or empty"),
        (f'{{"flag_key": [7], {AT}}}', "flag_key is not text"),
        (f'{{"flag_key": "f", {AT}, "variant": {{}}}}', "variant is not text"),
        (f'{{"flag_key": "f", {AT}, "reason": []}}', "reason is not text"),
        (f'{{"flag_key": "f", {AT}, "context_attributes": [1]}}', "context_attributes is not a JSON object"),
        (f'{{"flag_key": "f", {AT}, "kind": "view"}}', "kind is none of evaluation, exposure, outcome"),
        (f'{{"flag_key": "f", {AT}, "kind": [1]}}', "kind is none of evaluation, exposure, outcome"),
        (f'{{"flag_key": "f", {AT}, "sample_rate": 2}}', "sample_rate is not a ratio above 0 and at most 1"),
        (f'{{"flag_key": "f", {AT}, "evaluation_duration_ms": "x"}}', "evaluation_duration_ms is not a number of"),
    ],
)
def test_a_line_that_is_no_event_is_named_and_the_next_is_read(line, problem):
    good, bad, after = read(f'{{"flag_key": "e", {AT}}}\n{line}\n{{"flag_key": "g", {AT}}}')
    assert told(bad).startswith(f"line 2: {problem}")
    assert (good.flag_key, after.flag_key) == ("e", "g")


def test_numbers_and_booleans_are_keys():
    [event] = read(f'{{"flag_key": 7, {AT}, "variant": false, "targeting_key": 0, "flag_version": 1.5}}')
    assert (event.flag_key, event.variant, event.targeting_key, event.flag_version) == ("7", "false", "0", "1.5")


def test_a_value_over_several_lines_is_read():
    formatted = json.dumps({"flag_key": "f", "timestamp": "2026-01-31", "context_attributes": {"a": [1]}}, indent=2)
    first, second = read(f"{formatted}\n\n{formatted}\n")
    assert first.context_attributes == second.context_attributes == {"a": [1]}
    assert first.event_id != second.event_id


def test_a_value_that_does_not_end_loses_no_other():
    results = read(f'{{\n  "flag_key": "f",\n{{"flag_key": "g", {AT}}}\n{{"flag_key": "h", {AT}}}')
    assert [getattr(result, "flag_key", result) for result in results] == [BadLine(1, 2, "is not JSON"), "g", "h"]


@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize("count", [1, 3, 3_000])
def test_an_array_is_read_element_by_element(count, indent):
    elements = [{"flag_key": "f", "timestamp": "2026-01-31", "targeting_key": number} for number in range(count)]
    events = read(json.dumps(elements, indent=indent), None)
    assert [event.targeting_key for event in events] == [str(number) for number in range(count)]
    assert len({event.event_id for event in events}) == count


def test_an_array_that_is_cut_off_is_read_until_there():
    first, bad = read(f'[{{"flag_key": "f", {AT}}}, {{"flag_key": "g", ', None)
    assert first.flag_key == "f"
    assert bad == BadLine(2, 2, "is not JSON, and so the rest of the array cannot be read")


def test_objects_are_mapped_by_dotted_paths():
    text = json.dumps({"at": {"time": "2026-01-31T12:00"}, "exp": {"id": "f", "arm": 1}, "who": {"a.b": "u"}, "x": {}})
    columns = {"timestamp": "at.time", "flag_key": "exp.id", "variant": "exp.arm", "targeting_key": "who.a.b"}
    [event] = read(text, None, columns=columns)
    assert (event.timestamp, event.flag_key, event.variant, event.targeting_key) == (NOON, "f", "1", "u")
    with pytest.raises(ColumnError, match=r"key 'exp.amr' is not in the file: did you mean 'exp.arm'\?"):
        read(text, None, columns={**columns, "variant": "exp.amr"})


def test_a_member_that_may_be_the_user_is_not_left_out_silently():
    with pytest.raises(ColumnError, match="--map targeting_key=client_ref"):
        read(f'{{"flag_key": "f", {AT}, "client_ref": "u"}}')
    first, second = read(f'{{"flag_key": "f", {AT}}}\n{{"flag_key": "f", {AT}, "client_ref": "u"}}')
    assert first.flag_key == "f"
    assert "--map targeting_key=client_ref" in second.problem


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
        ({"key": []}, "flag_key is not text"),
        ({"key": None}, "flag_key is missing or empty"),
        ({"creationDate": "soon"}, "timestamp is neither ISO 8601 nor a number of seconds since 1970"),
        ({"creationDate": None}, "timestamp is neither ISO 8601 nor a number of seconds since 1970"),
        ({"variation": []}, "variant is not text"),
        ({"metadata": "x"}, "metadata is not a JSON object"),
    ],
)
def test_a_line_of_go_feature_flag_that_is_no_event_is_named(change, problem):
    [bad] = read(json.dumps(GOFF | change), "goff")
    assert told(bad).startswith(f"line 1: {problem}")


@pytest.mark.parametrize(
    ("name", "text", "key"),
    [
        ("data.csv", "flag,timestamp", "csv"),
        ("data.TSV", "flag\ttimestamp", "csv"),
        ("export.json", json.dumps(GOFF), "goff"),
        ("export.json", json.dumps([GOFF]), "goff"),
        ("events.jsonl", f'{{"flag_key": "f", {AT}}}', "jsonl"),
        ("noname", "timestamp,flag", "csv"),
        ("noname", '{broken\n\n{"timestamp": "2026-01-31", "flag_key": "f"}', "jsonl"),
    ],
)
def test_the_shape_is_told_by_the_name_or_the_content(name, text, key):
    reader = reader_of(text, name)
    list(reader)
    assert reader.shape is not None
    assert reader.shape.key == key


@settings(max_examples=150, suppress_health_check=[HealthCheck.too_slow])
@given(st.binary(max_size=200), st.sampled_from(FORMS))
def test_any_bytes_are_read_or_counted(data, form):
    assert_read_or_counted(data, form)


def assert_read_or_counted(content: str | bytes, form: Any) -> None:
    try:
        results = read(content, form)
    except FileError:
        return  # nothing of it was read
    for result in results:
        assert isinstance(result, FlagEvaluationEvent | BadLine | Skipped)


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=4,
)
_names = st.sampled_from([*FlagEvaluationEvent.__struct_fields__, *GOFF, "metadata"])


@settings(max_examples=150, suppress_health_check=[HealthCheck.too_slow])
@given(st.dictionaries(_names, _json), st.sampled_from(FORMS))
def test_any_object_is_read_or_counted(fields, form):
    assert_read_or_counted(json.dumps(fields), form)
