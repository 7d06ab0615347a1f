"""The sink that turns batches into spans, log records and metrics."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from flag_analytics.frozen import FrozenEvent
from flag_analytics.protocols import Batch
from flag_analytics.reports import DeliveryOptions
from opentelemetry import _logs, metrics, trace
from opentelemetry.context import Context
from opentelemetry.trace import Link, SpanContext, SpanKind, Status, StatusCode, Tracer

from .attributes import EVENT_NAME, error_type, evaluation_times, legacy_attributes, stable_attributes
from .instruments import Instruments
from .listening import logger_ear, meter_ear, tracer_ear
from .options import OTelOptions
from .shaping import Shape, Telemetry
from .tally import Tally
from .trace_context import CallerTrace, RecordedTrace

__all__ = ["OTelSink"]

SPAN_NAME = "feature_flag.analytics.event"

_SLICE_SECONDS = 0.0005
_PAUSE_SECONDS = 0.00005


class _Breath:
    """Leaves room for the host's event loop while much is emitted: called often, it pauses each half millisecond.

    The SDK holds the interpreter lock for tens of microseconds for each span. A pause has to be long enough for a
    waiting thread to wake up: after a mere release of the lock this thread would have it back first, and the event
    loop would wait out the interpreter's switch interval, 5 ms, each time. It blocks this thread on purpose: the
    sink's own event loop has nothing else to do.
    """

    def __init__(
        self, clock: Callable[[], float] = time.perf_counter, sleep: Callable[[float], None] = time.sleep
    ) -> None:
        self._clock = clock
        self._sleep = sleep
        self._pause_at = clock() + _SLICE_SECONDS

    def __call__(self) -> None:
        if self._clock() >= self._pause_at:
            self._sleep(_PAUSE_SECONDS)
            self._pause_at = self._clock() + _SLICE_SECONDS


class OTelSink:
    """Emits each event of a batch through OpenTelemetry's API, with the times and the trace of its evaluation.

    What the SDK raises for one event is counted (``failures``) and does not hold up the others: to try the batch again
    would emit the others twice.
    """

    def __init__(
        self,
        options: OTelOptions,
        *,
        tracer: Tracer | None = None,
        meter: metrics.Meter | None = None,
        logger: _logs.Logger | None = None,
    ) -> None:
        self.options = options
        self.tracer = trace.get_tracer(options.tracer_name) if tracer is None else tracer
        self.meter = metrics.get_meter(options.meter_name) if meter is None else meter
        self.logger = _logs.get_logger(options.logger_name) if logger is None else logger
        self.delivery: DeliveryOptions = options.engine_options()
        self.tally = Tally()
        self.instruments = Instruments(
            self.meter,
            exclude=options.exclude_attributes,
            max_flags=options.max_flags,
            max_variants=options.max_variants,
            max_attribute_sets=options.max_attribute_sets,
            tally=self.tally,
        )
        self.traceparent = CallerTrace().traceparent
        self._recorded_trace = RecordedTrace()
        self._shape = Shape(options.attribute_mapper, options.exclude_attributes, options.event_mutator, self.tally)
        self._spans_taken = tracer_ear(self.tracer)
        self._metrics_taken = meter_ear(self.meter)
        self._logs_taken = logger_ear(self.logger)
        self._spans = options.spans
        self._logs = options.logs

    def __repr__(self) -> str:
        options = self.options
        return f"OTelSink(semconv={options.semconv!r}, create_spans={options.create_spans}, parent={options.parent!r})"

    def listening(self) -> bool:
        """Return whether anyone takes what this sink would emit; about 100 ns for each signal nobody takes."""
        return self._metrics_taken() or (self._spans and self._spans_taken()) or (self._logs and self._logs_taken())

    def failures(self) -> dict[str, int]:
        """Return what was dropped, changed or went wrong here since the start, by kind."""
        return self.tally.counts()

    async def write(self, batch: Batch) -> None:
        """Emit every event. Never raises for an event, so no batch comes twice."""
        if not self.listening():
            self.tally.add("unheard", len(batch))
            return
        spans = self._spans and self._spans_taken()
        logs = self._logs and self._logs_taken()
        measured: list[tuple[FrozenEvent, Context]] = []
        breathe = _Breath()
        for event in batch:
            span_context, context = self._recorded_trace.read(event.traceparent)
            measured.append((event, context))
            if spans:
                self._guarded(self._emit_span, event, span_context, context)
            if logs and event.kind == "evaluation":
                self._guarded(self._emit_log, event, span_context, context)
            breathe()
        if self._metrics_taken():
            try:
                self.instruments.record(measured, breathe)
            except Exception:
                self.tally.add("metric_failed", len(measured))

    async def close(self) -> None:
        """Do nothing: providers belong to the application, which flushes and shuts them down."""

    def _guarded(self, emit: Any, event: FrozenEvent, span_context: SpanContext | None, context: Context) -> None:
        try:
            emit(event, span_context, context)
        except Exception:
            self.tally.add("emit_failed")

    def _emit_span(self, event: FrozenEvent, span_context: SpanContext | None, context: Context) -> None:
        attributes = legacy_attributes(event, record_values=self.options.record_values)
        shaped = self._shape(Telemetry("span", SPAN_NAME, attributes, event))
        if shaped is None:
            return
        linked = span_context is not None and self.options.parent == "link"
        start, end = evaluation_times(event)
        span = self.tracer.start_span(
            shaped.name,
            context=Context() if linked else context,
            kind=SpanKind.INTERNAL,
            attributes=shaped.attributes,
            links=[Link(span_context)] if linked and span_context is not None else None,
            start_time=start,
        )
        error = error_type(event)
        if error is not None:
            span.set_status(Status(StatusCode.ERROR, event.error_message or error))
        span.end(end)

    def _emit_log(self, event: FrozenEvent, _span_context: SpanContext | None, context: Context) -> None:
        attributes = stable_attributes(event, record_values=self.options.record_values)
        shaped = self._shape(Telemetry("log", EVENT_NAME, attributes, event))
        if shaped is None:
            return
        self.logger.emit(
            _logs.LogRecord(
                timestamp=evaluation_times(event)[1],
                # A float of seconds is exact to the microsecond, not to the nanosecond.
                observed_timestamp=round(event.received_at * 1_000_000) * 1_000,
                context=context,
                event_name=shaped.name,
                attributes=shaped.attributes,
            )
        )
