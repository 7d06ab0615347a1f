"""Shapes of exports as their tools document them: each is recognised, and its fields are found."""

from __future__ import annotations

import gzip
import io
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from flag_analytics.events import FlagEvaluationEvent
from flag_analytics_cli.importing import EventFile, ImportReport, read_file
from flag_analytics_cli.reading import ColumnError, FileError, ReadOptions

NOON = datetime(2026, 1, 31, 12, tzinfo=UTC)
SECONDS = 1_769_860_800


def read(path: Path, **options: Any) -> tuple[list[FlagEvaluationEvent], ImportReport]:
    events: list[FlagEvaluationEvent] = []
    report = ImportReport()
    read_file(EventFile(str(path), ReadOptions(**options)), events.append, report)
    return events, report


def fields(event: FlagEvaluationEvent) -> tuple[Any, ...]:
    return event.timestamp, event.flag_key, event.variant, event.targeting_key


EXPOSURE = (NOON, "checkout", "treatment", "u1")
RUDDERSTACK = {
    "anonymousId": "anon-1",
    "channel": "web",
    "context": {"library": {"name": "RudderLabs JavaScript SDK", "version": "2.5.2"}},
    "event": "Experiment Viewed",
    "messageId": "3c2e0d5a",
    "originalTimestamp": "2026-01-31T12:00:00.000Z",
    "properties": {"experiment_id": "checkout", "variation_id": "treatment"},
    "rudderId": "f7a2",
    "sentAt": "2026-01-31T12:00:01.000Z",
    "type": "track",
    "userId": "u1",
}
FLAGSMITH = {
    "environment_key": "env",
    "event": "$flag_exposure",
    "feature_name": "checkout",
    "identifier": "u1",
    "value": "treatment",
    "timestamp": SECONDS * 1_000,
    "traits": {"plan": "team"},
    "metadata": {},
}
STREAMED = {
    "kind": "feature",
    "creationDate": SECONDS * 1_000,
    "key": "checkout",
    "contextKeys": {"user": "u1", "device": "d7"},
    "variation": 1,
    "value": True,
    "version": 12,
    "reason": {"kind": "FALLTHROUGH", "inExperiment": True},
}
POSTHOG_BATCH = {
    "uuid": "0195e2a0-0000-7000-8000-000000000000",
    "event": "$feature_flag_called",
    "properties": '{"$feature_flag": "checkout", "$feature_flag_response": true}',
    "distinct_id": "u1",
    "timestamp": "2026-01-31 12:00:00",
}


@pytest.mark.parametrize(
    ("record", "name", "variant"),
    [
        (RUDDERSTACK, "RudderStack track calls", "treatment"),
        (RUDDERSTACK | {"userId": None, "anonymousId": "u1"}, "RudderStack track calls", "treatment"),
        (FLAGSMITH, "Flagsmith events", "treatment"),
        (STREAMED, "LaunchDarkly events", "1"),
        (
            {**STREAMED, "contextKeys": None, "context": {"kind": "multi", "org": {"key": "o"}, "user": {"key": "u1"}}},
            "LaunchDarkly events",
            "1",
        ),
        (POSTHOG_BATCH, "PostHog events", "true"),
    ],
)
def test_an_object_of_a_tool_is_recognised(record, name, variant, tmp_path: Path):
    file = tmp_path / "export.json"
    file.write_text(json.dumps(record))
    [event], report = read(file)
    assert report.read_as == name
    assert fields(event) == (NOON, "checkout", variant, "u1")


@pytest.mark.parametrize(
    ("header", "row", "name"),
    [
        (
            "user_id,name,rule,experiment_group,first_exposure_utc,first_exposure_pst_date,as_of_pst_date",
            "u1,checkout,,treatment,2026-01-31 12:00:00.000 UTC,2026-01-31,2026-02-01",
            "Statsig exposures",
        ),
        (
            "USER_ID,EXPERIMENT_ID,GROUP_ID,TIMESTAMP",
            "u1,checkout,treatment,2026-01-31 12:00:00",
            "Statsig exposures",
        ),
        (
            "event_id,flag_key,context_key,context_kind,variation_id,variation_value,reason_kind,received_time",
            "67,checkout,u1,user,treatment,true,FALLTHROUGH,2026-01-31T12:00:00Z",
            "LaunchDarkly evaluations from a warehouse",
        ),
        (
            "id,received_at,event,event_text,user_id,anonymous_id,original_timestamp,experiment_id,variation_id",
            "m1,2026-01-31 12:00:09,experiment_viewed,Experiment Viewed,u1,a1,2026-01-31 12:00:00,checkout,treatment",
            "Segment track calls",
        ),
        (
            "distinct_id,event,timestamp,properties",
            'u1,$feature_flag_called,2026-01-31T12:00:00Z,"{""$feature_flag"": ""checkout"", ""$feature_flag_response"": ""treatment""}"',  # noqa: E501
            "PostHog events",
        ),
        ("SUBJECT,VARIATION,FEATURE_FLAG,TIMESTAMP", "u1,treatment,checkout,2026-01-31T12:00:00Z", "Eppo assignments"),
    ],
)
def test_a_table_of_a_tool_is_recognised(header, row, name, tmp_path: Path):
    file = tmp_path / "export.csv"
    file.write_text(f"{header}\n{row}\n")
    [event], report = read(file)
    assert report.read_as == name
    assert fields(event) == EXPOSURE


PUBLIC = [
    (
        "user_id,timestamp,group,landing_page,converted",
        "u1,2026-01-31 12:00:00.000000,treatment,new_page,0",
        {"flag_key": "checkout"},
    ),
    (",user id,test group,converted,time", "0,u1,treatment,False,2026-01-31T12:00", {"flag_key": "checkout"}),
    (
        "userid,version,sum_gamerounds,retention_1",
        "u1,treatment,3,FALSE",
        {"flag_key": "checkout", "time": NOON, "columns": {"variant": "version"}},
    ),
    (
        "auction_id,experiment,date,hour,yes,no",
        "u1,treatment,2026-01-31T12,8,0,0",
        {"flag_key": "checkout", "columns": {"variant": "experiment", "targeting_key": "auction_id"}},
    ),
]


@pytest.mark.parametrize(("header", "row", "options"), PUBLIC)
def test_a_public_data_set_is_read_as_it_is_found(header, row, options, tmp_path: Path):
    file = tmp_path / "ab_data.csv"
    file.write_text(f"{header}\n{row}\n")
    [event], _ = read(file, **options)
    assert fields(event) == EXPOSURE


@pytest.mark.parametrize(("header", "row", "options"), PUBLIC[2:])
def test_a_public_data_set_with_other_columns_asks_for_them(header, row, options, tmp_path: Path):
    file = tmp_path / "ab_data.csv"
    file.write_text(f"{header}\n{row}\n")
    with pytest.raises(ColumnError, match="--map"):
        read(file, **{**options, "columns": {}})


def test_an_outcome_is_no_evaluation(tmp_path: Path):
    file = tmp_path / "export.jsonl"
    custom = {**STREAMED, "kind": "custom", "key": "purchase", "metricValue": 9.5}
    file.write_text(f"{json.dumps(STREAMED)}\n{json.dumps(custom)}\n")
    (feature, outcome), _ = read(file)
    assert (feature.kind, feature.reason, feature.flag_version) == ("evaluation", "SPLIT", "12")
    assert (outcome.kind, outcome.flag_key, outcome.value) == ("outcome", "purchase", 9.5)


def test_events_about_no_flag_are_skipped_and_counted_by_kind(tmp_path: Path):
    file = tmp_path / "export.jsonl"
    others = [{**FLAGSMITH, "event": "purchase"}] * 3 + [{**FLAGSMITH, "event": None}]
    file.write_text("\n".join(map(json.dumps, [*others, FLAGSMITH])))
    events, report = read(file)
    assert len(events) == 1
    assert report.skipped == {"purchase event": 3, "other record": 1}


def goff_rows() -> dict[str, list[Any]]:
    return {
        "kind": ["feature", "feature"],
        "contextKind": ["user", "user"],
        "userKey": ["u1", "u2"],
        "creationDate": [SECONDS, SECONDS],
        "key": ["checkout", "checkout"],
        "variation": ["treatment", "SdkDefault"],
        "value": ['"on"', "false"],
        "default": [False, True],
        "version": ["", "v1"],
        "source": ["SERVER", "SERVER"],
        "metadata": [[("sdk", "go")], []],
    }


def test_parquet_of_go_feature_flag_is_read(tmp_path: Path):
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    columns = goff_rows()
    texts = pyarrow.map_(pyarrow.string(), pyarrow.string())
    arrays = {name: pyarrow.array(values, texts if name == "metadata" else None) for name, values in columns.items()}
    file = tmp_path / "export.parquet"
    parquet.write_table(pyarrow.table(arrays), file)
    (event, failed), report = read(file)
    assert report.read_as == "GO Feature Flag events"
    assert (*fields(event), event.value) == (*EXPOSURE, "on")
    assert event.context_attributes == {"sdk": "go", "contextKind": "user", "source": "SERVER"}
    assert (failed.reason, failed.value, failed.flag_version) == ("ERROR", False, "v1")


def test_parquet_keeps_the_types_of_its_columns(tmp_path: Path):
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    table = pyarrow.table(
        {
            "timestamp": pyarrow.array([NOON.replace(tzinfo=None)], pyarrow.timestamp("us")),
            "flag_key": ["checkout"],
            "variant": [1],
            "user_id": [b"u1"],
            "plan": ["team"],
        }
    )
    file = tmp_path / "export"
    parquet.write_table(table, file)
    [event], report = read(file, columns={"context.plan": "plan"})
    assert report.read_as == "a table of exposures"
    assert fields(event) == (NOON, "checkout", "1", "u1")
    assert event.context_attributes == {"plan": "team"}


def test_a_damaged_parquet_file_is_refused(tmp_path: Path):
    pytest.importorskip("pyarrow")
    file = tmp_path / "export.parquet"
    file.write_bytes(b"PAR1" + b"\0" * 100)
    with pytest.raises(FileError, match="damaged"):
        read(file)


LINE = b'{"timestamp": "2026-01-31T12:00", "flag_key": "checkout", "variant": "treatment", "targeting_key": "u1"}\n'


@pytest.mark.parametrize(
    "content",
    [
        gzip.compress(LINE),
        b"\xef\xbb\xbf" + LINE,
        LINE.decode().encode("utf-16"),
        LINE.decode().encode("utf-32"),
        gzip.compress(LINE.decode().encode("utf-16")),
        b"\n \n" + LINE,
        b"[" + LINE + b"]",
    ],
)
def test_a_file_is_unpacked_and_decoded(content, tmp_path: Path):
    file = tmp_path / "events"
    file.write_bytes(content)
    [event], _ = read(file)
    assert fields(event) == EXPOSURE


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"PK\x03\x04....", "save the sheet as CSV"),
        (b"SQLite format 3\0", "an SQLite database"),
        (b"BZh9", "bzip2"),
        (gzip.compress(LINE * 1_000)[:-20], "damaged or cut off"),
        (LINE.decode().encode("utf-16") + b"\x00", "is not UTF-16 throughout"),
    ],
)
def test_a_file_of_another_kind_is_named(content, words, tmp_path: Path):
    file = tmp_path / "events"
    file.write_bytes(content)
    with pytest.raises(FileError, match=words):
        read(file)


@pytest.mark.parametrize("encoding", ["klingon", "rot13"])
def test_an_encoding_that_does_not_exist_is_refused(encoding, tmp_path: Path):
    file = tmp_path / "events"
    file.write_bytes(LINE)
    with pytest.raises(FileError, match="encoding"):
        read_file(EventFile(str(file), ReadOptions(), encoding), print, ImportReport())


def test_an_encoding_that_is_no_extension_of_ascii_is_read(tmp_path: Path):
    file = tmp_path / "events"
    file.write_bytes(LINE.decode().encode("utf-16-le"))
    events: list[FlagEvaluationEvent] = []
    read_file(EventFile(str(file), ReadOptions(), "utf-16-le"), events.append, ImportReport())
    assert fields(events[0]) == EXPOSURE


def test_standard_input_is_unpacked_too(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(gzip.compress(LINE))))
    events: list[FlagEvaluationEvent] = []
    read_file(EventFile("-"), events.append, ImportReport())
    assert fields(events[0]) == EXPOSURE
