"""The end of a process: events reach the SDK before its own exit handlers, in any order of imports and set-up."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from itertools import product

import pytest

SDK = """
from opentelemetry import trace, _logs
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs.export import BatchLogRecordProcessor
from opentelemetry.sdk._logs import export as logs_export

LogExporter = getattr(logs_export, "LogRecordExporter", None) or logs_export.LogExporter
Success = getattr(logs_export, "LogRecordExportResult", None) or logs_export.LogExportResult

class Spans(SpanExporter):
    def export(self, spans):
        for span in spans:
            print("span", span.attributes["feature_flag.key"], flush=True)
        return SpanExportResult.SUCCESS

class Logs(LogExporter):
    def export(self, batch):
        for record in batch:
            print("log", record.log_record.attributes["feature_flag.key"], flush=True)
        return Success.SUCCESS
    def shutdown(self):
        pass
    def force_flush(self, timeout_millis=30_000):
        return True

def set_up_sdk():
    tracers, loggers = TracerProvider(), LoggerProvider()
    tracers.add_span_processor(BatchSpanProcessor(Spans()))
    loggers.add_log_record_processor(BatchLogRecordProcessor(Logs()))
    trace.set_tracer_provider(tracers)
    _logs.set_logger_provider(loggers)
"""

STEPS = {
    "sdk": "set_up_sdk()",
    "import": "import flag_analytics_otel; from flag_analytics import FlagEvaluationEvent, open_pipeline",
    "pipeline": "pipeline = open_pipeline({'exporters': {'otel': {'semconv': SEMCONV}}})",
    "event": "pipeline.record_nowait(FlagEvaluationEvent.now('first', True, 'STATIC', 'on'))",
}
ORDERS = [
    ("sdk", "import", "pipeline", "event"),
    ("import", "sdk", "pipeline", "event"),
    ("import", "pipeline", "sdk", "event"),
    ("import", "pipeline", "event", "sdk"),
]
ENDS = {"return": "pass", "exception": "raise LookupError", "sys.exit": "import sys; sys.exit(3)"}
LAST = "[pipeline.record_nowait(FlagEvaluationEvent.now('last', True, 'STATIC', 'on')) for _ in range(200)]"


def exported(order: tuple[str, ...], end: str, semconv: str) -> dict[str, int]:
    """Run a process, and return how many events of each key its SDK exported."""
    code = "\n".join([f"SEMCONV = {semconv!r}", SDK, *(STEPS[step] for step in order), LAST, ENDS[end]])
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == {"return": 0, "exception": 1, "sys.exit": 3}[end], done.stderr
    kind = "span" if semconv == "legacy" else "log"
    lines = done.stdout.split("\n")
    return {key: lines.count(f"{kind} {key}") for key in ("first", "last")}


def check(cases: list[tuple[tuple[str, ...], str, str]]) -> None:
    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(lambda case: exported(*case), cases))
    assert found == [{"first": 1, "last": 200}] * len(cases), dict(zip(cases, found, strict=True))


def test_every_event_is_exported_in_any_order_of_sdk_import_pipeline_and_first_event():
    ends = [*ENDS, "return"]
    check([(order, end, semconv) for order, end in zip(ORDERS, ends, strict=True) for semconv in ("legacy", "stable")])


@pytest.mark.chaos
def test_every_event_is_exported_with_every_order_and_every_end():
    check(list(product(ORDERS, ENDS, ("legacy", "stable"))))
