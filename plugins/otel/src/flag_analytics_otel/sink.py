"""The sink that turns batches into spans, log records and metrics."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

from flag_analytics.errors import BadBatch, SinkUnavailable
from flag_analytics.frozen import FrozenEvent
from flag_analytics.logs import get_logger, warn
from flag_analytics.protocols import Batch
from flag_analytics.reports import DeliveryOptions
from opentelemetry import _logs, metrics, trace
from opentelemetry.context import Context
from opentelemetry.trace import Link, SpanContext, SpanKind, Status, StatusCode, Tracer

from .attributes import EVENT_NAME, error_type, evaluation_times, legacy_attributes, stable_attributes
from .instruments import Instruments
from .options import OTelOptions
from .providers import log_signal, metric_signal, trace_signal
from .shaping import Shape, Telemetry
from .tally import Tally
from .trace_context import CallerTrace, RecordedTrace

__all__ = ["OTelSink"]

SPAN_NAME = "feature_flag.analytics.event"

_SLICE_SECONDS = 0.0005
_PAUSE_SECONDS = 0.00005

logger = get_logger(__name__)


class _Pauses:
    """Leaves time for the host's event loop while much is emitted: called often, it pauses each half millisecond.

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

    An event that cannot be turned into telemetry is refused, and does not stop the others. Without an SDK all events
    are refused; after the SDK's shutdown every write fails.
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
        self._spans = trace_signal(self.tracer, is_global=tracer is None) if options.spans else None
        self._metrics = metric_signal(self.meter, is_global=meter is None)
        self._logs = log_signal(self.logger, is_global=logger is None) if options.logs else None
        self._signals = [signal for signal in (self._metrics, self._spans, self._logs) if signal is not None]
        self._warned = False

    def __repr__(self) -> str:
        options = self.options
        return f"OTelSink(semconv={options.semconv!r}, create_spans={options.create_spans}, parent={options.parent!r})"

    def listening(self) -> bool:
        """Return whether an SDK takes anything of this sink; about 100 ns for each signal that it does not take."""
        return any(signal.taken() for signal in self._signals)

    def failures(self) -> dict[str, int]:
        """Return the counts of dropped, changed and failed telemetry since the start, by kind."""
        return self.tally.counts()

    def warn_of_no_sdk(self) -> None:
        """Log once that events are dropped."""
        if not self._warned:
            self._warned = True
            warn(
                logger,
                "no OpenTelemetry SDK is set up: events for otel are dropped until the application sets a provider",
            )

    async def write(self, batch: Batch) -> None:
        """Emit every event.

        Raises:
            BadBatch: there is no SDK, or these events cannot be turned into telemetry; the others are emitted.
            SinkUnavailable: the SDK was shut down.
        """
        if not self.listening():
            self.tally.add("no_sdk", len(batch))
            self.warn_of_no_sdk()
            raise BadBatch("no OpenTelemetry SDK is set up", refused={event.event_id: "no_sdk" for event in batch})
        self._check_that_none_was_shut_down()
        spans = self._spans is not None and self._spans.taken()
        logs = self._logs is not None and self._logs.taken()
        measured: list[tuple[FrozenEvent, Context]] = []
        refused: dict[str, str] = {}
        pause = _Pauses()
        for event in batch:
            span_context, context = self._recorded_trace.read(event.traceparent)
            emissions: list[Callable[[], None]] = []
            try:
                if spans:
                    emissions += self._span(event, span_context, context)
                if logs and event.kind == "evaluation":
                    emissions += self._log(event, context)
            except Exception as error:  # nothing was emitted yet: it is the fault of the event
                self.tally.add("refused")
                refused[event.event_id] = type(error).__name__
                continue
            measured.append((event, context))
            for emit in emissions:
                try:
                    emit()
                except Exception:  # of the SDK, or of a processor in it
                    self.tally.add("emit_failed")
            pause()
        self._record_metrics(measured, pause)
        self._check_that_none_was_shut_down()
        if refused:
            stored = [event.event_id for event, _ in measured]
            raise BadBatch("some events cannot be turned into telemetry", refused=refused, stored=stored)

    def _record_metrics(self, measured: list[tuple[FrozenEvent, Context]], pause: _Pauses) -> None:
        if self._metrics.taken():
            try:
                self.instruments.record(measured, pause)
            except Exception:
                self.tally.add("metric_failed", len(measured))

    def _check_that_none_was_shut_down(self) -> None:
        if any(signal.shut_down() for signal in self._signals):
            raise SinkUnavailable("the OpenTelemetry SDK was shut down", code="sdk_shut_down")

    async def close(self) -> None:
        """Do nothing: providers belong to the application, which flushes and shuts them down."""

    def _span(
        self, event: FrozenEvent, span_context: SpanContext | None, context: Context
    ) -> Iterator[Callable[[], None]]:
        """Build the span of an event; yield the call that emits it, if there is anything to emit."""
        attributes = legacy_attributes(event, record_values=self.options.record_values)
        shaped = self._shape(Telemetry("span", SPAN_NAME, attributes, event))
        if shaped is None:
            return
        linked = span_context is not None and self.options.parent == "link"
        start, end = evaluation_times(event)
        error = error_type(event)
        status = None if error is None else Status(StatusCode.ERROR, event.error_message or error)

        def emit() -> None:
            span = self.tracer.start_span(
                shaped.name,
                context=Context() if linked else context,
                kind=SpanKind.INTERNAL,
                attributes=shaped.attributes,
                links=[Link(span_context)] if linked and span_context is not None else None,
                start_time=start,
            )
            if status is not None:
                span.set_status(status)
            span.end(end)

        yield emit

    def _log(self, event: FrozenEvent, context: Context) -> Iterator[Callable[[], None]]:
        """Build the log record of an event; yield the call that emits it, if there is anything to emit."""
        attributes = stable_attributes(event, record_values=self.options.record_values)
        shaped = self._shape(Telemetry("log", EVENT_NAME, attributes, event))
        if shaped is None:
            return
        record = _logs.LogRecord(
            timestamp=evaluation_times(event)[1],
            # A float of seconds is exact to the microsecond, not to the nanosecond.
            observed_timestamp=round(event.received_at * 1_000_000) * 1_000,
            context=context,
            event_name=shaped.name,
            attributes=shaped.attributes,
        )
        yield lambda: self.logger.emit(record)
