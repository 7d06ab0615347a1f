"""``OTelAnalyticsExporter``: the exporter applications hold, one delivery engine over one ``OTelSink``."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Protocol, Self

from flag_analytics.events import FlagEvaluationEvent
from flag_analytics.protocols import RecordResult
from flag_analytics.reports import DeliveryOptions, DeliveryReport, DeliveryStats
from flag_analytics_delivery import Delivery
from opentelemetry._logs import Logger
from opentelemetry.metrics import Counter, Histogram, Meter
from opentelemetry.trace import Tracer

from .options import OTelOptions, Parent, Semconv
from .shaping import AttributeMapper, EventMutator
from .sink import OTelSink

__all__ = ["Instrumented", "OTelAnalyticsExporter", "create_exporter_from_hook"]

_SINK = "otel"


class Instrumented(Protocol):
    """A hook whose tracer and meter an exporter can share: our ``OTelHook``, litestar-flags' own, or one like them."""

    @property
    def tracer(self) -> Tracer: ...

    @property
    def meter(self) -> Meter: ...


class OTelAnalyticsExporter:
    """Exports evaluation events as OpenTelemetry spans, log records and metrics.

    ``record`` costs the caller one queue; the SDK's work is done on a thread of its own. Without an SDK nothing is
    queued: such events are counted as ``filtered``, and one warning is logged. ``async with`` closes it.

    Args:
        tracer: A tracer; by default the global provider's, by ``tracer_name``, whenever that provider is set.
        meter: A meter; by default likewise.
        otel_hook: A hook whose tracer and meter are used instead of the two above.
        logger: A logger of OpenTelemetry's logs API for ``semconv="stable"``; by default likewise.
        batch_size: The most events in one batch; 0 for each event on its own, at once.
        flush_interval: Seconds an event waits at most for its batch to fill; 0 for no timer.
        delivery: Further settings of the delivery engine.

    The others are those of ``OTelOptions``.

    Raises:
        ValueError: an option is outside its range.
        TypeError: ``exclude_attributes`` is a single string.
    """

    def __init__(
        self,
        tracer: Tracer | None = None,
        meter: Meter | None = None,
        otel_hook: Instrumented | None = None,
        tracer_name: str = "flag_analytics",
        meter_name: str = "flag_analytics",
        batch_size: int = 100,
        flush_interval: float = 30.0,
        record_values: bool = False,
        create_spans: bool = True,
        semconv: Semconv = "legacy",
        *,
        logger: Logger | None = None,
        logger_name: str = "flag_analytics",
        parent: Parent = "link",
        attribute_mapper: AttributeMapper | None = None,
        exclude_attributes: Iterable[str] = (),
        event_mutator: EventMutator | None = None,
        max_flags: int = 1_000,
        max_variants: int = 50,
        max_attribute_sets: int = 2_000,
        delivery: DeliveryOptions | None = None,
    ) -> None:
        options = OTelOptions(
            tracer_name=tracer_name,
            meter_name=meter_name,
            logger_name=logger_name,
            batch_size=batch_size,
            flush_interval=flush_interval,
            record_values=record_values,
            create_spans=create_spans,
            semconv=semconv,
            parent=parent,
            attribute_mapper=attribute_mapper,
            exclude_attributes=exclude_attributes,
            event_mutator=event_mutator,
            max_flags=max_flags,
            max_variants=max_variants,
            max_attribute_sets=max_attribute_sets,
        )
        if otel_hook is not None:
            tracer, meter = otel_hook.tracer, otel_hook.meter
        self._sink = OTelSink(options, tracer=tracer, meter=meter, logger=logger)
        self._delivery = Delivery({_SINK: self._sink}, options.engine_options(delivery), name="otel")
        self._taken = False
        self._closed = False

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.close()

    def __repr__(self) -> str:
        return f"OTelAnalyticsExporter({self._sink!r})"

    @property
    def tracer(self) -> Tracer:
        return self._sink.tracer

    @property
    def meter(self) -> Meter:
        return self._sink.meter

    @property
    def logger(self) -> Logger:
        return self._sink.logger

    @property
    def events_recorded_counter(self) -> Counter:
        return self._sink.instruments.events_recorded

    @property
    def batch_size_histogram(self) -> Histogram:
        return self._sink.instruments.batch_size

    @property
    def buffer_size(self) -> int:
        """Events that wait to be emitted."""
        return self._delivery.stats().sinks[_SINK].pending

    def record_nowait(self, event: Any) -> RecordResult:
        """Take one event, ours or one with the same attributes; never raises, never waits."""
        if self._taken or self._closed:
            return self._delivery.record_nowait(event)
        if self._sink.listening():  # a provider that is set stays set
            self._taken = True
            return self._delivery.record_nowait(event)
        self._sink.warn_of_no_sdk()
        return self._delivery.refuse(RecordResult.FILTERED)

    async def record(self, event: FlagEvaluationEvent) -> None:
        """Take one event; never waits for OpenTelemetry."""
        self.record_nowait(event)

    def record_sync(self, event: FlagEvaluationEvent) -> None:
        """Take one event and return when it is emitted, with all that waited before it; for up to 5 seconds."""
        if self.record_nowait(event):
            self._delivery.flush_sync(5.0)

    async def record_batch(self, events: Iterable[FlagEvaluationEvent]) -> None:
        """Take several events and return when they are emitted."""
        for event in events:
            self.record_nowait(event)
        await self.flush()

    async def flush(self, timeout: float = 30.0) -> DeliveryReport:
        """Wait, at most ``timeout`` seconds, until OpenTelemetry has all earlier events; true if it does.

        Flushing the providers is left to the application.
        """
        return await self._delivery.flush(timeout)

    def flush_sync(self, timeout: float = 30.0) -> DeliveryReport:
        """``flush`` for callers without an event loop."""
        return self._delivery.flush_sync(timeout)

    async def close(self, timeout: float | None = None) -> DeliveryReport:
        """Flush within ``timeout`` seconds and release the thread; further events are refused and counted.

        Every caller gets the same report. Providers stay open.
        """
        self._closed = True
        return await self._delivery.close(timeout)

    def close_sync(self, timeout: float | None = None) -> DeliveryReport:
        """``close`` for callers without an event loop."""
        self._closed = True
        return self._delivery.close_sync(timeout)

    def stats(self) -> DeliveryStats:
        """Return the ledger; events that came without an SDK are refused as ``filtered``."""
        return self._delivery.stats()

    def failures(self) -> dict[str, int]:
        """Return the counts of dropped, changed and failed telemetry, by kind."""
        return self._sink.failures()

    def health(self) -> dict[str, Any]:
        """Return the state of the delivery, whether there is an SDK, and the failures; does no I/O."""
        return {**self._delivery.health(), "listening": self._sink.listening(), "failures": self.failures()}


def create_exporter_from_hook(
    otel_hook: Instrumented,
    batch_size: int = 100,
    flush_interval: float = 30.0,
    record_values: bool = False,
    create_spans: bool = True,
    **options: Any,
) -> OTelAnalyticsExporter:
    """Return an exporter that shares the hook's tracer and meter; ``options`` are the exporter's own."""
    return OTelAnalyticsExporter(
        otel_hook=otel_hook,
        batch_size=batch_size,
        flush_interval=flush_interval,
        record_values=record_values,
        create_spans=create_spans,
        **options,
    )
