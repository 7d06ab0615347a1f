"""``OTelHook``: a span, a log record and metrics for each evaluation, at the moment it happens."""

from __future__ import annotations

import contextlib
import functools
import time
from collections.abc import Callable, Mapping, MutableMapping
from datetime import UTC, datetime
from typing import Any, ParamSpec, TypeVar

import attrs
from flag_analytics.canonical import canonical_key
from flag_analytics.events import FlagEvaluationEvent
from flag_analytics.freezer import Freezer
from flag_analytics.frozen import FrozenEvent
from flag_analytics.processes import renew_after_fork
from opentelemetry import _logs, metrics, trace
from opentelemetry.trace import NonRecordingSpan, Span, SpanKind, Status, StatusCode

from .attributes import EVENT_NAME, KEY, MAX_LEGACY_VALUE_CHARS, exception_attributes, stable_attributes
from .cardinality import AttributeSets, Labels
from .client import ObservedClient
from .options import Semconv
from .providers import log_signal, metric_signal, trace_signal
from .tally import Tally

__all__ = ["OTelHook"]

SPAN_NAME = EVENT_NAME
FLAG_TYPE = "feature_flag.type"
VARIANT = "feature_flag.variant"
REASON = "feature_flag.reason"
VALUE = "feature_flag.value"
ERROR_CODE = "feature_flag.error_code"
ERROR_MESSAGE = "feature_flag.error_message"
TARGETING_KEY = "feature_flag.targeting_key"
EVALUATION_COUNT = "feature_flag.evaluation.count"
EVALUATION_LATENCY = "feature_flag.evaluation.latency"

_STARTED = "_flag_analytics_started"
_SPAN = "flag_analytics.otel.span"
_EXCEPTION = "flag_analytics.otel.exception"

P = ParamSpec("P")
T = TypeVar("T")


@attrs.frozen
class _Started:
    """The facts about an evaluation that are known when it starts; the span carries them."""

    at_ns: int | None
    """On the monotonic clock; None for an evaluation that was over when the hook was called."""
    targeting_key: str | None
    provider_name: str | None


def _never_raises(default: Callable[[], T]) -> Callable[[Callable[P, T]], Callable[P, T]]:
    """Make a method of the hook answer ``default()`` instead of raising, and count it.

    OpenFeature answers with the caller's default value when a hook raises, so an error here would change the behaviour
    of the application.
    """

    def decorate(method: Callable[P, T]) -> Callable[P, T]:
        @functools.wraps(method)
        def guarded(*args: P.args, **kwargs: P.kwargs) -> T:
            try:
                return method(*args, **kwargs)
            except Exception:
                hook: Any = args[0]
                hook._tally.add(f"{method.__name__}_failed")  # noqa: SLF001 - the method's own object
                return default()

        return guarded

    return decorate


def _invalid_span() -> Span:
    return trace.INVALID_SPAN


def _nothing() -> None:
    return None


class OTelHook:
    """Observes evaluations of the litestar-flags client, of OpenFeature, or of your own code.

    - OpenFeature: ``api.add_hooks([OTelHook()])``. It is a hook by its methods, without needing the SDK.
    - litestar-flags, whose client calls no hooks: ``client = hook.observe(client)``, or the reference's
      ``before_evaluation`` and ``after_evaluation`` around a call.
    - Anything else: ``start_evaluation_span`` and ``end_evaluation_span``, or ``record_evaluation``.

    No method raises: failures are counted in ``failures()``.

    Args:
        tracer: A tracer; by default the global provider's, by ``tracer_name``.
        meter: A meter; by default the global provider's, by ``meter_name``.
        record_values: Whether spans show the value, as text of at most 256 characters. In ``stable``, a value without
            a variant is always recorded, as the convention requires.
        semconv: ``legacy`` (a span for each evaluation), ``stable`` (a log record as in the semantic conventions), or
            ``both``.
        logger: A logger of OpenTelemetry's logs API for ``stable``; by default the global provider's.
        max_flags: The most flag keys on metrics; further ones are ``__other__``.
        max_variants: The most variants of one flag on metrics; further ones are ``__other__``.
        max_attribute_sets: The most attribute sets of one metric; the last one is ``otel.metric.overflow``.

    Raises:
        ValueError: ``semconv`` is none of the three.
    """

    def __init__(
        self,
        tracer: trace.Tracer | None = None,
        meter: metrics.Meter | None = None,
        tracer_name: str = "flag_analytics",
        meter_name: str = "flag_analytics",
        record_values: bool = False,
        *,
        semconv: Semconv = "legacy",
        logger: _logs.Logger | None = None,
        logger_name: str = "flag_analytics",
        max_flags: int = 1_000,
        max_variants: int = 50,
        max_attribute_sets: int = 2_000,
    ) -> None:
        if semconv not in {"legacy", "stable", "both"}:
            raise ValueError("semconv of OTelHook is unknown: expected 'legacy', 'stable' or 'both'")
        self._tracer = tracer or trace.get_tracer(tracer_name)
        self._meter = meter or metrics.get_meter(meter_name)
        self._logger = logger or _logs.get_logger(logger_name)
        self._record_values = record_values
        self._spans = trace_signal(self._tracer) if semconv != "stable" else None
        self._metrics = metric_signal(self._meter)
        self._logs = log_signal(self._logger) if semconv != "legacy" else None
        self._evaluation_counter = self._meter.create_counter(EVALUATION_COUNT, "1", "Feature flag evaluations.")
        self._latency_histogram = self._meter.create_histogram(
            EVALUATION_LATENCY, "ms", "How long feature flag evaluations took."
        )
        self._tally = Tally()
        self._labels = Labels(max_flags, max_variants, self._tally)
        self._metric_sets = AttributeSets(max_attribute_sets, frozenset(), self._tally)
        self._freezer = Freezer()
        renew_after_fork(self._freezer.after_fork_in_child)

    @property
    def tracer(self) -> trace.Tracer:
        return self._tracer

    @property
    def meter(self) -> metrics.Meter:
        return self._meter

    @property
    def evaluation_counter(self) -> metrics.Counter:
        return self._evaluation_counter

    @property
    def latency_histogram(self) -> metrics.Histogram:
        return self._latency_histogram

    def failures(self) -> dict[str, int]:
        """Return the counts of failures, and of labels over a limit, since the start, by kind."""
        return self._tally.counts()

    def observe(self, client: Any) -> Any:
        """Return the litestar-flags client with every evaluation observed; everything else is the client's own."""
        return ObservedClient(client, self)

    # The reference's way: a span in hand between start and end.

    @_never_raises(_invalid_span)
    def start_evaluation_span(self, flag_key: str, context: Any = None, flag_type: str | None = None) -> Span:
        """Return a started span, to be given to ``end_evaluation_span`` or ``on_error``; it is not made current."""
        return self._start(flag_key, context, flag_type, None)

    @_never_raises(_nothing)
    def end_evaluation_span(self, span: Span, result: Any) -> None:
        """End the span with a result of litestar-flags or OpenFeature (``EvaluationDetails``), and record metrics."""
        self._end(span, result)

    async def before_evaluation(self, flag_key: str, context: Any = None, flag_type: str | None = None) -> Span:
        """``start_evaluation_span`` for callers that await."""
        return self.start_evaluation_span(flag_key, context, flag_type)

    async def after_evaluation(self, span: Span, result: Any) -> None:
        """``end_evaluation_span`` for callers that await."""
        self.end_evaluation_span(span, result)

    async def on_error(self, span: Span, error: Exception, flag_key: str) -> None:
        """End the span of an evaluation that raised."""
        self.end_with_error(span, error, flag_key)

    @_never_raises(_nothing)
    def end_with_error(self, span: Span, error: Exception, flag_key: str) -> None:
        """End the span of an evaluation that raised: error status, the exception, reason ``ERROR``."""
        if not self._listening():
            return
        started = _started(span)
        event = self._freeze(flag_key, None, "ERROR", None, started, "GENERAL", type(error).__name__, {})
        try:
            span.record_exception(error)
        finally:
            self._finish(span, event, started, with_value=False, error_code="GENERAL_ERROR", exception=error)

    def record_evaluation(self, flag_key: str, result: Any, context: Any = None, flag_type: str | None = None) -> None:
        """Record an evaluation that is already over; its duration is not known and not recorded."""
        self._record_over(flag_key, result, context, flag_type)

    @_never_raises(_nothing)
    def _record_over(self, flag_key: str, result: Any, context: Any, flag_type: str | None) -> None:
        self._end(self._start(flag_key, context, flag_type, None, timed=False), result)

    # OpenFeature's hook interface, with the names and the keyword arguments its SDK calls.

    def supports_flag_value_type(self, flag_type: Any) -> bool:  # noqa: ARG002 - the SDK's signature
        return True

    @_never_raises(_nothing)
    def before(self, hook_context: Any, hints: Any) -> None:  # noqa: ARG002 - the SDK's signature
        """Start a span."""
        if self._listening():
            _notes(hook_context)[_SPAN] = self._start_of(hook_context, timed=True)

    def after(self, hook_context: Any, details: Any, hints: Any) -> None:
        """Do nothing: ``finally_after`` sees the same details."""

    @_never_raises(_nothing)
    def error(self, hook_context: Any, exception: Exception, hints: Any) -> None:  # noqa: ARG002 - the SDK's signature
        """Note the exception on the span, and for the log record; ``finally_after`` ends the span."""
        if not self._listening():
            return
        notes = _notes(hook_context)
        notes[_EXCEPTION] = exception
        span = notes.get(_SPAN)
        if span is not None:
            span.record_exception(exception)

    @_never_raises(_nothing)
    def finally_after(self, hook_context: Any, details: Any, hints: Any) -> None:  # noqa: ARG002 - the SDK's signature
        """End the span, emit the log record and record metrics."""
        if self._listening():
            # Without a span the evaluation was over before it began: a provider not ready.
            notes = _notes(hook_context)
            span = notes.pop(_SPAN, None) or self._start_of(hook_context, timed=False)
            self._end(span, details, notes.pop(_EXCEPTION, None))

    # Both ways end here.

    def _listening(self) -> bool:
        return any(signal is not None and signal.taken() for signal in (self._metrics, self._spans, self._logs))

    def _start_of(self, hook_context: Any, *, timed: bool) -> Span:
        flag_type = getattr(hook_context, "flag_type", None)
        return self._start(
            hook_context.flag_key,
            getattr(hook_context, "evaluation_context", None),
            _text(flag_type).lower() if flag_type is not None else None,
            getattr(getattr(hook_context, "provider_metadata", None), "name", None),
            timed=timed,
        )

    def _start(
        self, flag_key: Any, context: Any, flag_type: str | None, provider_name: Any, *, timed: bool = True
    ) -> Span:
        if not self._listening():
            return trace.INVALID_SPAN
        flag_key = canonical_key(flag_key)
        targeting_key = getattr(context, "targeting_key", None)
        started = _Started(
            time.perf_counter_ns() if timed else None,
            canonical_key(targeting_key) if targeting_key else None,
            canonical_key(provider_name) if provider_name else None,
        )
        span: Span | None = None
        if self._spans is not None:
            attributes: dict[str, Any] = {KEY: flag_key}
            if flag_type:
                attributes[FLAG_TYPE] = canonical_key(flag_type)
            if started.targeting_key:
                attributes[TARGETING_KEY] = started.targeting_key
            span = self._tracer.start_span(SPAN_NAME, kind=SpanKind.INTERNAL, attributes=attributes)
        if span is None or not span.is_recording():
            # The span of a tracer without an SDK is shared; this one carries notes of its own.
            shared = trace.get_current_span() if span is None else span
            span = NonRecordingSpan(shared.get_span_context())
        with contextlib.suppress(AttributeError):  # a span with slots: the duration is then not known
            setattr(span, _STARTED, started)
        return span

    def _end(self, span: Span, result: Any, exception: Exception | None = None) -> None:
        if not self._listening():
            return
        try:
            self._end_with(span, result, exception)
        finally:
            if span.is_recording():  # even if the result raised: a span that never ends is never exported
                span.end()

    def _end_with(self, span: Span, result: Any, exception: Exception | None) -> None:
        started = _started(span)
        code = getattr(result, "error_code", None)
        event = self._freeze(
            result.flag_key,
            getattr(result, "value", None),
            getattr(result, "reason", None),
            getattr(result, "variant", None),
            started,
            None if code is None else _text(code),
            getattr(result, "error_message", None),
            getattr(result, "flag_metadata", None),
        )
        self._finish(
            span, event, started, with_value=self._record_values, error_code=event.error_type, exception=exception
        )

    def _freeze(
        self,
        flag_key: Any,
        value: Any,
        reason: Any,
        variant: Any,
        started: _Started | None,
        error_code: str | None,
        error_message: Any,
        flag_metadata: Any,
    ) -> FrozenEvent:
        """Return the evaluation in canonical form: bounded, and safe to hand to any SDK."""
        metadata = flag_metadata if isinstance(flag_metadata, Mapping) else {}
        return self._freezer.freeze(
            FlagEvaluationEvent(
                datetime.now(UTC),
                flag_key,
                value,
                "UNKNOWN" if reason is None else _text(reason),
                variant,
                metadata.get("contextId") or (started.targeting_key if started else None),
                {},
                _milliseconds_since(started),
                error_type=error_code,
                error_message=error_message,
                flag_version=metadata.get("version"),
                flag_set_id=metadata.get("flagSetId"),
                provider_name=started.provider_name if started else None,
            )
        )

    def _finish(
        self,
        span: Span,
        event: FrozenEvent,
        started: _Started | None,
        *,
        with_value: bool,
        error_code: str | None,
        exception: Exception | None,
    ) -> None:
        # Those that matter most come last: an SDK with a limit on their number evicts the oldest.
        if with_value:
            text = str(event.value)
            if len(text) <= MAX_LEGACY_VALUE_CHARS:
                span.set_attribute(VALUE, text)
        if event.error_message:
            span.set_attribute(ERROR_MESSAGE, event.error_message)
        if error_code:
            span.set_attribute(ERROR_CODE, error_code)
        if event.variant:
            span.set_attribute(VARIANT, event.variant)
        span.set_attribute(REASON, event.reason)
        span.set_attribute(KEY, event.flag_key)
        if error_code or event.reason == "ERROR":
            span.set_status(Status(StatusCode.ERROR, event.error_message or "Evaluation error"))
        span.end()
        context = trace.set_span_in_context(span)
        if self._logs is not None and self._logs.taken():
            attributes = {} if exception is None else exception_attributes(exception)
            attributes.update(stable_attributes(event, record_values=self._record_values))
            self._logger.emit(
                _logs.LogRecord(timestamp=time.time_ns(), context=context, event_name=EVENT_NAME, attributes=attributes)
            )
        labels = self._metric_attributes(event, error_code)
        self._evaluation_counter.add(1, labels, context)
        if started is not None and started.at_ns is not None:
            self._latency_histogram.record(event.evaluation_duration_ms, labels, context)

    def _metric_attributes(self, event: FrozenEvent, error_code: str | None) -> dict[str, Any]:
        flag_key, variant, reason, error = self._labels.of(event)
        written = reason if reason.startswith("_") else reason.upper()

        def make() -> dict[str, Any]:
            attributes: dict[str, Any] = {KEY: flag_key, REASON: written}
            if variant:
                attributes[VARIANT] = variant
            if error_code:
                attributes[ERROR_CODE] = error if error.startswith("_") else error_code
            return attributes

        return self._metric_sets.get((flag_key, variant, reason, error), make)


def _started(span: Span) -> _Started | None:
    started = getattr(span, _STARTED, None)
    return started if isinstance(started, _Started) else None


def _milliseconds_since(started: _Started | None) -> float:
    if started is None or started.at_ns is None:
        return 0.0
    return (time.perf_counter_ns() - started.at_ns) / 1e6


def _notes(hook_context: Any) -> MutableMapping[str, Any]:
    """Return where to keep things from one stage to the next: ``hook_data``, or the context object itself."""
    notes = getattr(hook_context, "hook_data", None)
    if isinstance(notes, MutableMapping):
        return notes
    own: MutableMapping[str, Any] = vars(hook_context).setdefault("_flag_analytics_notes", {})
    return own


def _text(code: Any) -> str:
    """Return an enumeration's value, or anything else, as text."""
    return str(getattr(code, "value", code))
