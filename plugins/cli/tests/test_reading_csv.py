"""CSV rows become events; what cannot is named by its lines."""

from __future__ import annotations

import csv
import io
from datetime import UTC, datetime
from typing import Any

import pytest
from flag_analytics.events import FlagEvaluationEvent
from flag_analytics_cli.reading import BadLine, EventReader, FileError, ReadOptions, parse_zone
from flag_analytics_cli.reading.source import Source
from hypothesis import given, settings
from hypothesis import strategies as st

NOON = datetime(2026, 1, 31, 12, tzinfo=UTC)


def read(text: str | bytes, columns: dict[str, str] | None = None, flag_key: str | None = None) -> list[Any]:
    return list(reader_of(text, columns=columns or {}, flag_key=flag_key))


def reader_of(text: str | bytes, **options: Any) -> EventReader:
    stream = io.BufferedReader(io.BytesIO(text.encode() if isinstance(text, str) else text))  # type: ignore[type-var]
    return EventReader(Source("file.csv", stream, "utf-8", None, stream), ReadOptions(form="csv", **options))


def told(bad: BadLine) -> str:
    return f"line {bad.first}: {bad.problem}"


def test_usual_names_of_columns_need_no_mapping():
    [event] = read(
        "user_id,timestamp,group,page_design,subscribed\n829015,2021-01-05 00:31:25.931433,control,Design_A,0\n",
        flag_key="page_redesign",
    )
    assert event.timestamp == datetime(2021, 1, 5, 0, 31, 25, 931433, tzinfo=UTC)
    assert (event.flag_key, event.variant, event.targeting_key) == ("page_redesign", "control", "829015")
    assert (event.value, event.reason, event.kind, event.context_attributes) == (None, "UNKNOWN", "exposure", {})


def test_columns_are_mapped_as_told_before_anything_is_guessed():
    [event] = read(
        "when,who,group,arm,page_design\n2026-01-31T13:00:00+01:00,u1,beta-testers,B,Design_B\n",
        {
            "timestamp": "when",
            "targeting_key": "who",
            "variant": "arm",
            "flag_key": "group",
            "context.design": "page_design",
        },
    )
    assert (event.timestamp, event.flag_key, event.variant) == (NOON, "beta-testers", "B")
    assert (event.targeting_key, event.context_attributes) == ("u1", {"design": "Design_B"})


def test_every_field_can_come_from_a_column():
    fields = {
        "timestamp": "2026-01-31T12:00:00+00:00",
        "flag_key": "f",
        "value": '{"rows": [1, 2]}',
        "reason": "SPLIT",
        "variant": "v",
        "targeting_key": "u",
        "context_attributes": '{"plan": "team"}',
        "evaluation_duration_ms": "1.5",
        "event_id": "0195e2a0-0000-7000-8000-000000000000",
        "error_type": "GENERAL",
        "error_message": "no answer",
        "flag_version": "3",
        "flag_set_id": "shop",
        "provider_name": "flagd",
        "kind": "outcome",
        "sample_rate": "0.5",
        "context.country": "GB",
    }
    file = io.StringIO()
    writer = csv.DictWriter(file, fields)
    writer.writeheader()
    writer.writerow(fields)
    [event] = read(file.getvalue())
    assert event.to_dict() == {
        **{name: text for name, text in fields.items() if name != "context.country"},
        "value": {"rows": [1, 2]},
        "context_attributes": {"plan": "team", "country": "GB"},
        "evaluation_duration_ms": 1.5,
        "sample_rate": 0.5,
    }


def test_columns_that_are_left_out_are_named():
    assert reader_of("timestamp,flag,page_design,subscribed\n").unused == ["page_design", "subscribed"]


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_the_delimiter_is_found_in_the_header(delimiter):
    [event] = read(f"flag{delimiter}timestamp{delimiter}variant\nf{delimiter}2026-01-31{delimiter}on\n")
    assert (event.flag_key, event.variant) == ("f", "on")


def test_a_byte_order_mark_crlf_and_quoted_line_ends_are_read():
    text = (
        '\ufeff"flag","timestamp","value"\r\n"f","2026-01-31T12:00Z","one\r\ntwo, ""three"""\r\n\r\nf,2026-01-31,on\r\n'
    )
    first, second = read(text)
    assert first.value == 'one\ntwo, "three"'
    assert second.value == "on"


@pytest.mark.parametrize(
    ("cell", "value"),
    [
        ("", None),
        ("true", True),
        ("FALSE", False),
        ("12", 12),
        ("-1.5", -1.5),
        ("007", "007"),
        ("on", "on"),
        ("[1", "[1"),
        ("=1+1", "=1+1"),
        (" 5", " 5"),
    ],
)
def test_a_value_has_the_type_of_its_text(cell, value):
    [event] = read(f"flag,timestamp,value\nf,2026-01-31,{cell}\n")
    assert event.value == value
    assert type(event.value) is type(value)


@pytest.mark.parametrize(
    "cell",
    [
        "2026-01-31T12:00:00+00:00",
        "2026-01-31 12:00",
        "2026-01-31T12:00:00Z",
        "2026-01-31T14:00:00+02:00",
        "20260131T120000",
        " 2026-01-31 12:00:00 ",
        "1769860800",
        "1769860800.0",
        "1769860800000",
        "1769860800000000",
        "1769860800000000000",
        "2026-01-31 12:00:00 UTC",
        "2026-01-31 12:00:00.000000 GMT",
    ],
)
def test_a_time_is_read_in_every_common_form_and_is_utc_without_a_zone(cell):
    [event] = read(f"flag,timestamp\nf,{cell}\n")
    assert event.timestamp == NOON
    assert event.timestamp.tzinfo is UTC


def test_milliseconds_that_look_like_a_compact_date_are_milliseconds():
    [event] = read("flag,timestamp\nf,1712011500123\n")
    assert event.timestamp == datetime(2024, 4, 1, 22, 45, 0, 123_000, tzinfo=UTC)


@pytest.mark.parametrize(
    ("cell", "options"),
    [
        ("31.01.2026 13:00", {"time_format": "%d.%m.%Y %H:%M", "zone": parse_zone("Europe/Berlin")}),
        ("2026-01-31T12:00Z", {"zone": parse_zone("Europe/Berlin")}),
        ("2026-01-31 17:30", {"zone": parse_zone("Asia/Kolkata")}),
        ("46053.5", {"time_format": "excel"}),
        ("46053,5", {"time_format": "excel"}),
        ("46053.54166667", {"time_format": "excel", "zone": parse_zone("Europe/Berlin")}),
        ("never", {"time": NOON}),
    ],
)
def test_a_time_is_read_as_the_options_say(cell, options):
    [event] = reader_of(f'flag,timestamp\nf,"{cell}"\n', **options)
    assert event.timestamp == NOON


def test_times_without_a_zone_that_would_be_in_the_future_are_counted():
    reader = reader_of("flag,timestamp\nf,2999-01-01 00:00\nf,2999-01-01T00:00Z\nf,2026-01-31\n")
    assert len(list(reader)) == 3
    assert reader.times.naive_future == 1


def test_a_format_that_makes_no_sense_is_refused():
    with pytest.raises(FileError, match="--timestamp-format '%q' is not understood"):
        reader_of("flag,timestamp\n", time_format="%q")


@pytest.mark.parametrize(
    ("text", "milliseconds"), [("1,50", 1.5), ("1.234,5", 1234.5), ("1,234.5", 1234.5), ("2.5", 2.5)]
)
def test_a_decimal_comma_is_read(text, milliseconds):
    [event] = read(f"flag;timestamp;latency_ms\nf;2026-01-31;{text}\n")
    assert event.evaluation_duration_ms == milliseconds


def test_the_separator_that_a_spreadsheet_is_told_is_used():
    [event] = read('sep=|\n\nflag|timestamp|"a;b;c;d"\nf|2026-01-31|x\n')
    assert event.flag_key == "f"


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        (
            "f,yesterday,,,",
            "line 2: timestamp is neither ISO 8601 nor a number of seconds since 1970: describe it with --timestamp-",
        ),
        (
            "f,,,,",
            "line 2: timestamp is neither ISO 8601 nor a number of seconds since 1970: describe it with --timestamp-",
        ),
        ("f,nan,,,", "line 2: timestamp is neither ISO 8601 nor a number"),
        ("f,-1,,,", "line 2: timestamp is a number that is no time between 2000 and tomorrow"),
        ("f,3,,,", "line 2: timestamp is a number that is no time between 2000 and tomorrow"),
        ("f,46027.33333333,,,", "line 2: timestamp is a number around 46,000, as a spreadsheet counts days"),
        ("f,05/01/2026 08:00,,,", "line 2: timestamp has day and month in an order that the file does not tell"),
        ("f,2026-01-05 08:00 PM,,,", "line 2: timestamp ends in AM or PM"),
        ("f,2026-01-05 08:00 CET,,,", "line 2: timestamp ends in the abbreviation of a time zone"),
        ("f,1e300,,,", "line 2: timestamp is out of range"),
        ("f,0001-01-01T00:00+10:00,,,", "line 2: timestamp is out of range"),
        (",2026-01-31,,,", "line 2: flag_key is missing or empty"),
        ("f", "line 2: has 1 columns, fewer than the header"),
        ("f,2026-01-31,view,,", "line 2: kind is none of evaluation, exposure, outcome"),
        ("f,2026-01-31,,-1,", "line 2: evaluation_duration_ms is not a number of milliseconds, 0 or more"),
        ("f,2026-01-31,,soon,", "line 2: evaluation_duration_ms is not a number of milliseconds, 0 or more"),
        ("f,2026-01-31,,,0", "line 2: sample_rate is not a ratio above 0 and at most 1"),
    ],
)
def test_a_row_that_is_no_event_is_named_and_the_next_is_read(row, problem):
    bad, good = read(f"flag,timestamp,kind,evaluation_duration_ms,sample_rate\n{row}\ng,2026-01-31,,,\n")
    assert told(bad).startswith(problem)
    assert good.flag_key == "g"


def test_a_context_that_is_no_object_is_a_bad_line():
    [bad] = read('flag,timestamp,context_attributes\nf,2026-01-31,"[1]"\n')
    assert told(bad) == "line 2: context_attributes is not a JSON object"


def test_a_quote_that_does_not_end_loses_no_more_than_it_must():
    rows = "".join(f"f,2026-01-31,v{number}\n" for number in range(20_000))
    results = read(f'flag,timestamp,variant\nf,2026-01-31,"open\n{rows}')
    bad = [result for result in results if isinstance(result, BadLine)]
    good = [result for result in results if isinstance(result, FlagEvaluationEvent)]
    assert len(bad) == 1
    assert bad[0].first == 2
    assert bad[0].line_count + len(good) == 20_001, "every line is either read or counted"
    assert good[-1].variant == "v19999"


def test_a_row_of_many_quoted_lines_is_bounded_too():
    rows = '"' + 'x","y\n' * 400_000
    results = read(f"flag,timestamp,variant\n{rows}")
    assert all(isinstance(result, BadLine) for result in results)
    assert "a quoted field does not end" in told(results[0])


def test_a_line_that_cannot_be_decoded_ends_the_row_it_is_in():
    bad, good = read(b'flag,timestamp,variant\nf,2026-01-31,"a\n\xff\xfe"\nf,2026-01-31,b\n')
    assert (bad.first, bad.last) == (2, 3)
    assert good.variant == "b"


@pytest.mark.parametrize(
    ("text", "columns", "flag_key", "words"),
    [
        ("", {}, None, "the file is empty"),
        ("a,b\n1,2\n", {}, "f", "no column has the time of an event: .*'a', 'b'"),
        ("timestamp,b\n1,2\n", {}, None, "no column has the key of the flag: give it with --flag-key KEY"),
        (
            "timestamp,group\n1,2\n",
            {"variant": "grup"},
            "f",
            "column 'grup' is not in the file: did you mean 'gr",
        ),
        ("timestamp,a,a\n1,2,3\n", {"variant": "a"}, "f", "column 'a' is there 2 times"),
    ],
)
def test_a_problem_of_the_whole_file_is_said_before_the_first_event(text, columns, flag_key, words):
    with pytest.raises(FileError, match=words):
        read(text, columns, flag_key)


def test_a_name_that_stands_twice_is_not_guessed():
    with pytest.raises(FileError, match="no column has the time"):
        read("timestamp,timestamp,flag\n1,2,f\n")


def test_the_same_line_always_has_the_same_id_and_every_line_its_own():
    text = "flag,timestamp,variant\nf,2026-01-31,a\nf,2026-01-31,a\nf,2026-01-31,b\n"
    ids = [event.event_id for event in read(text)]
    assert ids == [event.event_id for event in read(text)]
    assert len(set(ids)) == 3
    assert [event.event_id for event in read(text, flag_key="g")] != ids, "another flag has events of its own"


def test_ids_sort_by_time_and_are_of_version_8():
    ids = [event.event_id for event in read("flag,timestamp\nf,2021-01-01\nf,2026-01-31\nf,1960-01-01\n")]
    assert ids[0] < ids[1]
    assert {identifier[14] for identifier in ids} == {"8"}
    assert all(identifier[19] in "89ab" for identifier in ids)


_cells = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=12)


@settings(max_examples=60)
@given(st.lists(st.tuples(_cells, _cells), max_size=6))
def test_a_row_that_the_csv_module_writes_comes_back(rows):
    file = io.StringIO(newline="")
    writer = csv.writer(file, quoting=csv.QUOTE_ALL)
    writer.writerow(["flag", "timestamp", "variant", "user_id"])
    for variant, user in rows:
        writer.writerow(["f", "2026-01-31", variant, user])
    events = read(file.getvalue())
    expected = [(variant.replace("\r\n", "\n") or None, user.replace("\r\n", "\n") or None) for variant, user in rows]
    assert [(event.variant, event.targeting_key) for event in events] == expected


@settings(max_examples=150)
@given(st.binary(max_size=300))
def test_any_bytes_are_read_or_counted_line_by_line(data):
    header = b"flag,timestamp,variant\n"
    for result in read(header + data):
        assert isinstance(result, FlagEvaluationEvent | BadLine)
