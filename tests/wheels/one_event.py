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

role = "collectors" if name in {"memory", "database", "clickhouse", "files"} else "exporters"
options = {"database": {"connection_string": "sqlite+aiosqlite:///events.db"}, "files": {"location": "events"}}.get(
    name, {}
)
if name == "clickhouse":
    options = {"url": "http://127.0.0.1:9"}  # its engine has 500 MB: what is tested here is that nothing is missing
received = []
if name == "webhook":
    import json
    import threading
    from http.server import BaseHTTPRequestHandler, HTTPServer

    class Receiver(BaseHTTPRequestHandler):
        def do_POST(self):
            received.extend(json.loads(self.rfile.read(int(self.headers["Content-Length"])))["events"])
            self.send_response(204)
            self.end_headers()

    server = HTTPServer(("127.0.0.1", 0), Receiver)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    options = {"url": f"http://127.0.0.1:{server.server_port}/events"}
event = FlagEvaluationEvent(datetime.now(UTC), "checkout", True, EvaluationReason.SPLIT, "treatment", "user-1", {}, 1.5)

with open_pipeline({role: {name: options}}) as pipeline:
    assert pipeline.record_nowait(event)
    report = pipeline.flush_sync(1.0) if name == "clickhouse" else pipeline.flush_sync()
    # The API of OpenTelemetry alone exports nothing: without an SDK the event is refused, and counted.
    stored = name not in {"otel", "clickhouse"}
    assert report.complete is stored, report
    assert report.sinks[name].delivered == stored, report
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
if name == "files":
    from pathlib import Path

    (path,) = Path("events").glob("date=*/*.jsonl")
    assert b'"flag_key":"checkout"' in path.read_bytes()
if name == "webhook":
    assert [event["flag_key"] for event in received] == ["checkout"], received
    server.shutdown()
    server.server_close()
if name == "prometheus":
    from prometheus_client import generate_latest

    assert b'feature_flag_evaluations_total{flag_key="checkout"' in generate_latest()
