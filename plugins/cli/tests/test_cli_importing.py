"""No event of a file is lost on its way to a backend, however it behaves."""

from __future__ import annotations

import io
import logging
import sys
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import attrs
import pytest
from flag_analytics.config.plan import Plan, PlannedSink
from flag_analytics.errors import SinkUnavailable
from flag_analytics.events import FlagEvaluationEvent
from flag_analytics.pipeline import Pipeline, open_pipeline
from flag_analytics.protocols import Backend, Batch
from flag_analytics.reports import DeliveryOptions
from flag_analytics_cli import storing
from flag_analytics_cli.importing import (
    EventFile,
    ImportReport,
    MapError,
    parse_map,
    read_file,
    say_left_out,
)
from flag_analytics_cli.main import main
from flag_analytics_cli.reading import EventReader, ReadOptions
from flag_analytics_cli.reading.source import Source
from flag_analytics_cli.settings import keeps_events, patient
from flag_analytics_cli.storing import NotStoredError, flush_all, patient_recorder
from flag_analytics_cli.terminal import hush_the_library
from flag_analytics_delivery import Delivery


class Stored:
    """A sink that keeps ids, and can be held up or broken."""

    def __init__(self, **options: Any) -> None:
        self.ids: list[str] = []
        self.delivery = DeliveryOptions(**options)
        self.hold = threading.Event()
        self.hold.set()
        self.breaks_after: int | None = None

    async def write(self, batch: Batch) -> None:
        self.hold.wait(10)
        if self.breaks_after is not None and len(self.ids) >= self.breaks_after:
            raise SinkUnavailable(code="ECONNREFUSED")
        self.ids += [event.event_id for event in batch]

    async def close(self) -> None:
        pass


@attrs.frozen
class NoOptions:
    pass


def plan_of(**sinks: Stored) -> Plan:
    return Plan(
        "test",
        tuple(
            PlannedSink(name, "collector", Backend(name, NoOptions, lambda _, sink=sink: sink), NoOptions())
            for name, sink in sinks.items()
        ),
    )


def lines_of(count: int) -> str:
    return "flag,timestamp,user_id\n" + "".join(f"f,2026-01-31,u{number}\n" for number in range(count))


def test_map_names_fields_and_columns():
    assert parse_map(["variant=group", " context.plan = the plan ", "value=a=b"]) == {
        "variant": "group",
        "context.plan": "the plan",
        "value": "a=b",
    }


@pytest.mark.parametrize(
    ("mapping", "words"),
    [
        ("variant", "is not field=column: expected for example --map variant=group"),
        ("variant=", "is not field=column"),
        ("varant=group", "events have no field 'varant': did you mean 'variant'"),
        ("=group", "events have no field ''"),
        ("context.=group", "events have no field 'context.'"),
    ],
)
def test_a_map_that_makes_no_sense_is_refused(mapping, words):
    with pytest.raises(MapError, match=words):
        parse_map([mapping])


def test_a_field_has_one_column():
    with pytest.raises(MapError, match="names the field 'variant' twice"):
        parse_map(["variant=a", "variant=b"])


def test_a_file_much_larger_than_the_queue_is_stored_whole(tmp_path: Path):
    file = tmp_path / "events.csv"
    file.write_text(lines_of(3_000))
    sink = Stored(max_events=50, batch_size=20, flush_interval_seconds=0.001)
    report = ImportReport()
    with open_pipeline(patient(plan_of(slow=sink))) as pipeline:
        read_file(EventFile(str(file)), patient_recorder(pipeline), report)
        assert flush_all(pipeline).complete
    assert report.events == len(sink.ids) == len(set(sink.ids)) == 3_000


def test_a_backend_that_takes_nothing_stops_the_import_before_anything_is_lost(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("flag_analytics_cli.settings.IMPORT_BLOCK_SECONDS", 0.05)
    sink = Stored(max_events=10, batch_size=5, retry_initial_seconds=0.001, retry_max_seconds=0.001)
    sink.breaks_after = 1
    pipeline = open_pipeline(patient(plan_of(down=sink)))
    coming = iter(events(100))
    with pytest.raises(NotStoredError, match=r"take no more events .*: a backend that stores each id once"):
        record_all(coming, patient_recorder(pipeline))
    assert len(list(coming)) == 100 - 1 - 10 - 1
    pipeline.close_sync(0.0)


def test_one_backend_of_two_that_takes_nothing_stops_the_import_too(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("flag_analytics_cli.settings.IMPORT_BLOCK_SECONDS", 0.05)
    monkeypatch.setattr(storing, "IMPORT_BLOCK_SECONDS", 0.05)
    well, down = Stored(), Stored(max_events=10, retry_initial_seconds=0.001, retry_max_seconds=0.001)
    down.breaks_after = 1
    pipeline = open_pipeline(patient(plan_of(well=well, down=down)))
    with pytest.raises(NotStoredError, match="take no more events"):
        record_all(events(100), patient_recorder(pipeline))
    pipeline.close_sync(0.0)


def test_a_backend_that_is_down_from_the_start_is_given_up_soon_and_said(monkeypatch: pytest.MonkeyPatch, capsys):
    monkeypatch.setattr(storing, "FIRST_SUCCESS_SECONDS", 0.3)
    monkeypatch.setattr(storing, "_FLUSH_STEP_SECONDS", 0.1)
    monkeypatch.setattr(storing, "_QUIET_SECONDS", 0.03)
    monkeypatch.setattr(storing, "_GIVE_UP_SECONDS", 0.0)
    well, down = Stored(), Stored(retry_initial_seconds=0.001, retry_max_seconds=0.001)
    down.breaks_after = 0
    coming = iter(events(100))
    with (
        pytest.raises(NotStoredError, match=r"^1 event still waits \(down: SinkUnavailable.*import the file again"),
        storing.open_patiently(plan_of(well=well, down=down)) as pipeline,
    ):
        record_all(coming, patient_recorder(pipeline))
    assert len(list(coming)) == 99, "the rest of the file is not even read"
    said = capsys.readouterr().err
    assert said.startswith("waiting for down (SinkUnavailable")
    assert said.count("\n") == 1, "once, not every second"


def test_events_that_wait_for_a_dead_backend_at_the_end_are_counted(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(storing, "IMPORT_BLOCK_SECONDS", 0.1)
    monkeypatch.setattr(storing, "_FLUSH_STEP_SECONDS", 0.05)
    sink = Stored(retry_initial_seconds=0.001, retry_max_seconds=0.001, flush_interval_seconds=0.0)
    sink.breaks_after = 1
    pipeline = open_pipeline(patient(plan_of(down=sink)))
    record = patient_recorder(pipeline)
    for event in events(7):
        record(event)
    with pytest.raises(
        NotStoredError, match=r"^6 events still wait \(down: SinkUnavailable.*ECONNREFUSED.*import the file again"
    ):
        flush_all(pipeline)
    pipeline.close_sync(0.0)


def test_events_that_a_processor_filters_out_are_not_lost():
    sink = Stored()
    pipeline = Pipeline(
        Delivery({"kept": sink}), collectors={"kept": sink}, exporters={}, processors=[("none", lambda event: None)]
    )
    record_all(events(5), patient_recorder(pipeline))
    assert flush_all(pipeline).complete
    assert sink.ids == []
    pipeline.close_sync()


def events(count: int) -> list[FlagEvaluationEvent]:
    stream = io.BufferedReader(io.BytesIO(lines_of(count).encode()))  # type: ignore[type-var]
    rows = EventReader(Source("file.csv", stream, "utf-8", None, stream), ReadOptions())
    return [row for row in rows if isinstance(row, FlagEvaluationEvent)]


def record_all(coming: Iterable[FlagEvaluationEvent], record: Callable[[FlagEvaluationEvent], None]) -> None:
    for event in coming:
        record(event)


def test_bad_lines_are_grouped_by_cause_with_the_first_three(tmp_path: Path, capsys):
    file = tmp_path / "events.jsonl"
    good = '{"timestamp": 1769860800, "flag_key": "f"}'
    bad = ["{", "[]", '{"flag_key": "f", "timestamp": true}', "{"]
    file.write_text("\n".join(line for _ in range(10) for line in (good, *bad)))
    event_file, report, recorded = EventFile(str(file)), ImportReport(), []
    read_file(event_file, recorded.append, report)
    assert (report.events, report.bad_lines, len(recorded)) == (10, 40, 10)
    say_left_out(event_file, report)
    output = capsys.readouterr()
    assert output.out == ""
    _, lines, *causes = output.err.splitlines()
    assert lines.endswith("events.jsonl: 40 lines are no events")
    assert causes[0] == "  20 lines (2, 5, 7, …): is not JSON"
    assert causes[1] == "  10 lines (3, 8, 13, …): is not a JSON object"
    assert causes[2].startswith("  10 lines (4, 9, 14, …): timestamp is neither ISO 8601")
    assert len(causes) == 3


def test_causes_are_bounded_in_number(tmp_path: Path, capsys):
    file = tmp_path / "events.csv"
    rows = "".join("f" + "," * number + "\n" for number in range(30))
    file.write_text("flag,timestamp" + ",more" * 40 + "\nf,2026-01-31\n" + rows)
    event_file, report = EventFile(str(file)), ImportReport()
    read_file(event_file, print, report)
    assert report.bad_lines > 20
    assert len(report.causes) <= 20
    say_left_out(event_file, report)


def test_strict_stops_at_the_first_bad_line(tmp_path: Path):
    file = tmp_path / "events.csv"
    file.write_text("flag,timestamp\nf,2026-01-31\nf,soon\nf,2026-01-31\n")
    report, recorded = ImportReport(), []
    read_file(EventFile(str(file)), recorded.append, report, strict=True)
    assert (len(recorded), report.bad_lines) == (1, 1)


def test_standard_input_can_be_imported(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b'{"timestamp": 1769860800, "flag_key": "f"}\n')))
    report, recorded = ImportReport(), []
    read_file(EventFile("-"), recorded.append, report)
    assert [event.flag_key for event in recorded] == ["f"]


def test_memory_alone_keeps_nothing_after_a_command():
    assert not keeps_events(plan_of(memory=Stored()))
    assert keeps_events(plan_of(memory=Stored(), database=Stored()))


def unconfigure_logging(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take away what pytest configures: Python writes warnings to standard error by default."""
    monkeypatch.setattr(logging.root, "handlers", [])


def test_a_command_says_in_its_own_words_which_events_were_not_stored(
    tmp_path: Path, capsys, monkeypatch: pytest.MonkeyPatch
):
    pytest.importorskip("flag_analytics_database")
    unconfigure_logging(monkeypatch)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(storing, "FIRST_SUCCESS_SECONDS", 0.2)
    monkeypatch.setattr(storing, "_GIVE_UP_SECONDS", 0.0)
    monkeypatch.setenv("FLAG_ANALYTICS__COLLECTORS__DATABASE__CONNECTION_STRING", "sqlite:///nowhere/flags.db")
    (tmp_path / "events.csv").write_text(lines_of(3))
    assert main(["import", "events.csv"]) == 1
    *_, line = capsys.readouterr().err.splitlines()
    assert line == "flag-analytics: the database refuses (SQLITE_CANTOPEN: the file cannot be opened)"


def test_errors_and_other_libraries_logs_still_reach_standard_error(capsys, monkeypatch: pytest.MonkeyPatch):
    unconfigure_logging(monkeypatch)
    hush_the_library()
    for name in ("flag_analytics.delivery", "flag_analytics_plugin.store"):
        logging.getLogger(name).warning("advice for a program")
        logging.getLogger(name).error("something is broken")
    logging.getLogger("flag_analytics.registry").warning("a plugin failed")
    logging.getLogger("driver").warning("a driver's word")
    assert capsys.readouterr().err.splitlines() == [
        "something is broken",
        "something is broken",
        "a plugin failed",
        "a driver's word",
    ]


def test_an_application_that_configures_logging_gets_everything(caplog: pytest.LogCaptureFixture):
    hush_the_library()
    logging.getLogger("flag_analytics.delivery").warning("advice for a program")
    assert caplog.messages == ["advice for a program"]
