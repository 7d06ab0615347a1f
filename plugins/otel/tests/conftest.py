"""A real OpenTelemetry SDK that keeps its telemetry, never set as the process's own."""

from collections.abc import Callable, Iterator
from typing import Any

import attrs
import pytest
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs.export import SimpleLogRecordProcessor
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

try:
    from opentelemetry.sdk._logs.export import InMemoryLogRecordExporter
except ImportError:  # its name before version 1.39
    from opentelemetry.sdk._logs.export import (  # type: ignore[attr-defined,no-redef]
        InMemoryLogExporter as InMemoryLogRecordExporter,
    )


@attrs.define
class Sdk:
    """Tracer, meter and logger, and the telemetry they produced."""

    tracer_provider: TracerProvider
    meter_provider: MeterProvider
    logger_provider: LoggerProvider
    _spans: InMemorySpanExporter
    _metrics: InMemoryMetricReader
    _logs: InMemoryLogRecordExporter

    def emitters(self) -> dict[str, Any]:
        return {
            "tracer": self.tracer_provider.get_tracer("test"),
            "meter": self.meter_provider.get_meter("test"),
            "logger": self.logger_provider.get_logger("test"),
        }

    def spans(self) -> list[Any]:
        return list(self._spans.get_finished_spans())

    def logs(self) -> list[Any]:
        return [record.log_record for record in self._logs.get_finished_logs()]

    def metrics(self) -> dict[str, Any]:
        data = self._metrics.get_metrics_data()
        if data is None:
            return {}
        return {
            metric.name: metric
            for resource in data.resource_metrics
            for scope in resource.scope_metrics
            for metric in scope.metrics
        }

    def points(self, name: str) -> list[Any]:
        metric = self.metrics().get(name)
        return [] if metric is None else list(metric.data.data_points)

    def shutdown(self) -> None:
        self.tracer_provider.shutdown()
        self.meter_provider.shutdown()
        self.logger_provider.shutdown()


@pytest.fixture
def make_sdk() -> Iterator[Callable[[], Sdk]]:
    """Make SDKs: some read environment variables when they are made."""
    made: list[Sdk] = []

    def make() -> Sdk:
        spans, metrics, logs = InMemorySpanExporter(), InMemoryMetricReader(), InMemoryLogRecordExporter()
        tracer_provider = TracerProvider(shutdown_on_exit=False)
        tracer_provider.add_span_processor(SimpleSpanProcessor(spans))
        logger_provider = LoggerProvider(shutdown_on_exit=False)
        logger_provider.add_log_record_processor(SimpleLogRecordProcessor(logs))
        meter_provider = MeterProvider([metrics], shutdown_on_exit=False)
        made.append(Sdk(tracer_provider, meter_provider, logger_provider, spans, metrics, logs))
        return made[-1]

    yield make
    for one in made:
        one.shutdown()


@pytest.fixture
def sdk(make_sdk: Callable[[], Sdk]) -> Sdk:
    return make_sdk()
