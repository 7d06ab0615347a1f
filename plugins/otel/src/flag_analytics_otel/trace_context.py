"""The trace that was current when an event was recorded: kept as W3C text, given back as a span context."""

from __future__ import annotations

from opentelemetry.context import Context
from opentelemetry.trace import (
    INVALID_SPAN,
    NonRecordingSpan,
    SpanContext,
    TraceFlags,
    get_current_span,
    set_span_in_context,
)

__all__ = ["CallerTrace", "RecordedTrace"]


class CallerTrace:
    """Writes the caller's trace context as ``traceparent`` (W3C Trace Context, level 1, section 3.2)."""

    def __init__(self) -> None:
        self._last: tuple[SpanContext | None, str | None] = (None, None)

    def traceparent(self) -> str | None:
        """Return the current span's context, or None without a span.

        Several evaluations in one span are the rule, so the latest text is kept; it is swapped as one tuple and
        needs no lock.
        """
        try:
            span = get_current_span()
            if span is INVALID_SPAN:
                return None
            context = span.get_span_context()
            known, text = self._last
            if context is known:
                return text
            if not context.is_valid:
                return None
            text = f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"
        except Exception:
            return None  # a span of another library: the event matters more than its trace
        self._last = (context, text)
        return text


class RecordedTrace:
    """Reads ``traceparent`` back; the latest answer is kept, since events of one span follow each other."""

    def __init__(self) -> None:
        self._last: tuple[str | None, SpanContext | None, Context] = (None, None, Context())

    def read(self, traceparent: str | None) -> tuple[SpanContext | None, Context]:
        """Return the span context and a context that holds it; (None, the root context) without a valid one."""
        if traceparent is None:
            return None, Context()
        known, span_context, context = self._last
        if traceparent != known:
            span_context = _parse(traceparent)
            context = (
                Context() if span_context is None else set_span_in_context(NonRecordingSpan(span_context), Context())
            )
            self._last = (traceparent, span_context, context)
        return span_context, context


def _parse(traceparent: str) -> SpanContext | None:
    parts = traceparent.split("-")
    if [len(part) for part in parts] != [2, 32, 16, 2]:
        return None
    try:
        trace_id, span_id, flags = (int(part, 16) for part in parts[1:])
    except ValueError:
        return None
    span_context = SpanContext(trace_id, span_id, is_remote=False, trace_flags=TraceFlags(flags))
    return span_context if span_context.is_valid else None
