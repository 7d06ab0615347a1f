"""Over the wire: OTLP into a receiver that decodes it with the protocol's own messages."""

import gzip
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from flag_analytics.events import EvaluationReason, FlagEvaluationEvent
from flag_analytics_otel import OTelAnalyticsExporter
from opentelemetry.exporter.otlp.proto.http._log_exporter import OTLPLogExporter
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs.export import BatchLogRecordProcessor
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

REQUESTS = {
    "/v1/traces": ExportTraceServiceRequest,
    "/v1/metrics": ExportMetricsServiceRequest,
    "/v1/logs": ExportLogsServiceRequest,
}


class Receiver(ThreadingHTTPServer):
    """Keeps every request it gets, decoded, by path."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.got: dict[str, list[Any]] = {path: [] for path in REQUESTS}

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}{path}"


class Handler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        if self.headers.get("content-encoding") == "gzip":
            body = gzip.decompress(body)
        server: Any = self.server
        server.got[self.path].append(REQUESTS[self.path].FromString(body))
        self.send_response(200)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_arguments: Any) -> None:
        pass


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def plain(value: Any) -> Any:
    kind = value.WhichOneof("value")
    if kind == "kvlist_value":
        return {pair.key: plain(pair.value) for pair in value.kvlist_value.values}
    if kind == "array_value":
        return [plain(item) for item in value.array_value.values]
    return None if kind is None else getattr(value, kind)


def attributes(record: Any) -> dict[str, Any]:
    return {pair.key: plain(pair.value) for pair in record.attributes}


async def test_spans_log_records_and_metrics_arrive_over_otlp(receiver):
    tracers = TracerProvider(shutdown_on_exit=False)
    tracers.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(receiver.url("/v1/traces"))))
    loggers = LoggerProvider(shutdown_on_exit=False)
    loggers.add_log_record_processor(BatchLogRecordProcessor(OTLPLogExporter(receiver.url("/v1/logs"))))
    reader = PeriodicExportingMetricReader(OTLPMetricExporter(receiver.url("/v1/metrics")), 3_600_000)
    meters = MeterProvider([reader], shutdown_on_exit=False)
    exporter = OTelAnalyticsExporter(
        tracers.get_tracer("t"), meters.get_meter("t"), logger=loggers.get_logger("t"), semconv="both"
    )
    moment = datetime(2026, 1, 31, 12, 0, 0, 123_457, UTC)
    await exporter.record(
        FlagEvaluationEvent(
            moment,
            "limits",
            {"max": [1, 2], "on": True, "none": None},
            EvaluationReason.ERROR,
            targeting_key="user-1",
            evaluation_duration_ms=2.0,
            error_type="PARSE_ERROR",
            error_message="line 1",
        )
    )
    await exporter.record(FlagEvaluationEvent(datetime.max.replace(tzinfo=UTC), "\0\ud800 odd", "x", "MY_REASON"))
    await exporter.close()
    for provider in (tracers, loggers, meters):
        provider.shutdown()

    spans = [
        span for request in receiver.got["/v1/traces"] for group in request.resource_spans
        for scope in group.scope_spans for span in scope.spans
    ]  # fmt: skip
    assert [span.name for span in spans] == ["feature_flag.analytics.event"] * 2
    assert spans[0].end_time_unix_nano == 1_769_860_800_123_457_000
    assert spans[0].end_time_unix_nano - spans[0].start_time_unix_nano == 2_000_000
    assert spans[0].status.code == 2
    assert attributes(spans[0])["feature_flag.reason"] == "ERROR"
    assert attributes(spans[1])["feature_flag.key"] == "\ufffd\ufffd odd"

    logs = [
        log for request in receiver.got["/v1/logs"] for group in request.resource_logs
        for scope in group.scope_logs for log in scope.log_records
    ]  # fmt: skip
    assert [log.event_name for log in logs] == ["feature_flag.evaluation"] * 2
    assert logs[0].time_unix_nano == 1_769_860_800_123_457_000
    assert attributes(logs[0]) == {
        "feature_flag.key": "limits",
        "feature_flag.result.reason": "error",
        "feature_flag.result.value": {"max": [1, 2], "on": True, "none": None},
        "feature_flag.context.id": "user-1",
        "error.type": "parse_error",
        "feature_flag.error.message": "line 1",
    }

    metrics = {
        metric.name: metric for request in receiver.got["/v1/metrics"] for group in request.resource_metrics
        for scope in group.scope_metrics for metric in scope.metrics
    }  # fmt: skip
    assert sum(point.as_int for point in metrics["feature_flag.evaluations"].sum.data_points) == 2
    (duration,) = metrics["feature_flag.evaluation.duration"].histogram.data_points
    assert (duration.count, duration.sum) == (1, 0.002)
    assert "user-1" not in str(metrics)
