"""One event end to end through the one backend that is installed: ``one_event.py NAME``."""

import importlib
import importlib.metadata
import sys
from datetime import UTC, datetime

from flag_analytics import EvaluationReason, FlagEvaluationEvent, open_pipeline

name = sys.argv[1]
importlib.import_module(f"flag_analytics_{name}")
installed = [point.name for point in importlib.metadata.entry_points(group="flag_analytics")]
assert installed == [name], installed

role = {"memory": "collectors", "database": "collectors"}.get(name, "exporters")
options = {"connection_string": "sqlite+aiosqlite:///events.db"} if name == "database" else {}
event = FlagEvaluationEvent(datetime.now(UTC), "checkout", True, EvaluationReason.SPLIT, "treatment", "user-1", {}, 1.5)

with open_pipeline({role: {name: options}}) as pipeline:
    assert pipeline.record_nowait(event)
    report = pipeline.flush_sync()
    # The API of OpenTelemetry alone exports nothing: without an SDK the event is refused, and counted.
    assert report.complete is (name != "otel"), report
    assert report.sinks[name].delivered == (name != "otel"), report
    if name == "memory":
        import asyncio

        (kept,) = asyncio.run(pipeline.collectors[name].get_events())
        assert kept.flag_key == "checkout"
assert pipeline.stats().balanced()

if name == "database":
    import sqlite3

    with sqlite3.connect("events.db") as connection:
        rows = connection.execute("SELECT flag_key, variant FROM analytics_events").fetchall()
    connection.close()
    assert rows == [("checkout", "treatment")], rows
if name == "prometheus":
    from prometheus_client import generate_latest

    assert b'feature_flag_evaluations_total{flag_key="checkout"' in generate_latest()
