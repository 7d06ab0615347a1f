"""Turns an event into OpenTelemetry attributes and times, in both conventions.

``LEGACY_*`` are the names of litestar-flags' spans; the others are those of the semantic conventions for feature flags
(https://opentelemetry.io/docs/specs/semconv/feature-flags/feature-flags-events/, version 1.44, release candidate).
They are written out here so that only ``opentelemetry-api`` is needed; a test compares them with the constants of
``opentelemetry-semantic-conventions``.
"""

from __future__ import annotations

import traceback
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
from flag_analytics.frozen import FrozenEvent

__all__ = [
    "any_value",
    "error_type",
    "evaluation_times",
    "exception_attributes",
    "legacy_attributes",
    "reason_code",
    "required_last",
    "stable_attributes",
]

EVENT_NAME = "feature_flag.evaluation"
KEY = "feature_flag.key"
RESULT_VARIANT = "feature_flag.result.variant"
RESULT_VALUE = "feature_flag.result.value"
RESULT_REASON = "feature_flag.result.reason"
ERROR_TYPE = "error.type"
ERROR_MESSAGE = "feature_flag.error.message"
CONTEXT_ID = "feature_flag.context.id"
PROVIDER_NAME = "feature_flag.provider.name"
SET_ID = "feature_flag.set.id"
VERSION = "feature_flag.version"

LEGACY_REASON = "feature_flag.reason"
LEGACY_VARIANT = "feature_flag.variant"
LEGACY_TARGETING_KEY = "feature_flag.targeting_key"
LEGACY_TIMESTAMP = "feature_flag.event_timestamp"
LEGACY_DURATION_MS = "feature_flag.evaluation_duration_ms"
LEGACY_VALUE = "feature_flag.value"
LEGACY_KIND = "feature_flag.event_kind"

EXCEPTION_TYPE = "exception.type"
EXCEPTION_MESSAGE = "exception.message"
EXCEPTION_STACKTRACE = "exception.stacktrace"

_LEGACY_WEIGHT = (LEGACY_TIMESTAMP, LEGACY_VARIANT, LEGACY_REASON)
_BY_WEIGHT = (*_LEGACY_WEIGHT, RESULT_VALUE, RESULT_REASON, ERROR_TYPE, RESULT_VARIANT, KEY)
_BY_WEIGHT_WITHOUT_VARIANT = (*_LEGACY_WEIGHT, RESULT_REASON, RESULT_VALUE, ERROR_TYPE, KEY)

MAX_EXCEPTION_CHARS = 16_384
"""A longer stack trace loses its beginning, a longer message its end."""
MAX_LEGACY_VALUE_CHARS = 256
"""A longer value is left out of a span, as litestar-flags does."""
MAX_VALUE_BYTES = 4_096
"""A value whose JSON is longer is left out of a log record: values can be whole configurations."""

_ERROR_TYPES = {"general_error": "general"}
"""litestar-flags' own error code, in OpenFeature's words; its other codes are OpenFeature's."""
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_MAX_NANOSECONDS = 2**63 - 1
"""OTLP counts nanoseconds since 1970 without a sign, and many backends in 63 bits: the year 2262."""


def evaluation_times(event: FrozenEvent) -> tuple[int, int]:
    """Return (start, end) of the evaluation in nanoseconds since the Unix epoch, in whole numbers throughout.

    The timestamp is the end: every SDK takes it after the evaluation. Times that OTLP cannot express are moved to the
    nearest one it can.
    """
    end = (event.timestamp - _EPOCH) // _MICROSECOND * 1_000
    end = min(max(end, 0), _MAX_NANOSECONDS)
    # A float holds milliseconds to the nanosecond up to 104 days; durations beyond the clamp need not be exact.
    duration = round(min(max(event.evaluation_duration_ms, 0.0), 1e12) * 1_000_000)
    return max(end - duration, 0), end


def legacy_attributes(event: FrozenEvent, *, record_values: bool) -> dict[str, Any]:
    """Return the attributes of litestar-flags' span: key, reason and time always, the others where there is one."""
    attributes: dict[str, Any] = {
        KEY: event.flag_key,
        LEGACY_REASON: event.reason,
        LEGACY_TIMESTAMP: event.timestamp.isoformat(),
    }
    if event.variant:
        attributes[LEGACY_VARIANT] = event.variant
    if event.targeting_key:
        attributes[LEGACY_TARGETING_KEY] = event.targeting_key
    if event.evaluation_duration_ms > 0:
        attributes[LEGACY_DURATION_MS] = event.evaluation_duration_ms
    if event.kind != "evaluation":
        attributes[LEGACY_KIND] = event.kind
    if record_values:
        text = str(event.value)
        if len(text) <= MAX_LEGACY_VALUE_CHARS:
            attributes[LEGACY_VALUE] = text
    return required_last(attributes)


def stable_attributes(event: FrozenEvent, *, record_values: bool) -> dict[str, Any]:
    """Return the attributes of a ``feature_flag.evaluation`` event.

    The value is required where there is no variant and opt-in (``record_values``) where there is one. ``null`` is no
    attribute value, and a value over 4,096 bytes of JSON is left out.
    """
    attributes: dict[str, Any] = {KEY: event.flag_key, RESULT_REASON: reason_code(event.reason)}
    if event.variant:
        attributes[RESULT_VARIANT] = event.variant
    if (record_values or not event.variant) and len(event.value_json) <= MAX_VALUE_BYTES:
        value = any_value(event.value)
        if value is not None:
            attributes[RESULT_VALUE] = value
    if event.targeting_key:
        attributes[CONTEXT_ID] = event.targeting_key
    if event.provider_name:
        attributes[PROVIDER_NAME] = event.provider_name
    if event.flag_set_id:
        attributes[SET_ID] = event.flag_set_id
    if event.flag_version:
        attributes[VERSION] = event.flag_version
    error = error_type(event)
    if error is not None:
        attributes[ERROR_TYPE] = error
        if event.error_message and event.error_message != error:
            attributes[ERROR_MESSAGE] = event.error_message
    return required_last(attributes)


def required_last(attributes: dict[str, Any]) -> dict[str, Any]:
    """Move the attributes that matter most to the end: an SDK with a limit on their number evicts the oldest."""
    # A value is required where there is no variant, and of little weight where there is one.
    names = _BY_WEIGHT if RESULT_VARIANT in attributes else _BY_WEIGHT_WITHOUT_VARIANT
    for name in names:
        if name in attributes:
            attributes[name] = attributes.pop(name)
    return attributes


def exception_attributes(error: BaseException) -> dict[str, Any]:
    """Return an exception as attributes of a log record, as the conventions for exceptions in logs have it."""
    kind = type(error)
    name = kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
    attributes = {EXCEPTION_TYPE: checked_text(name)}
    try:
        attributes[EXCEPTION_MESSAGE] = checked_text(str(error))[:MAX_EXCEPTION_CHARS]
        stacktrace = "".join(traceback.format_exception(error))
        attributes[EXCEPTION_STACKTRACE] = checked_text(stacktrace)[-MAX_EXCEPTION_CHARS:]
    except Exception:
        pass  # its own methods raise: its type must do
    return attributes


def reason_code(reason: str) -> str:
    """Return the reason as the conventions write it: lower case; custom reasons are allowed."""
    return reason.lower() or "unknown"


def error_type(event: FrozenEvent) -> str | None:
    """Return OpenFeature's error code in lower case, ``general`` for an error without one, None without an error."""
    if event.error_type:
        code = event.error_type.lower()
        return _ERROR_TYPES.get(code, code)
    return "general" if event.reason.upper() == "ERROR" else None


def any_value(value: Any) -> Any:
    """Return a decoded JSON value as an attribute value that every supported SDK keeps whole.

    Mappings stay mappings. A list is kept where its elements are of one type, numbers becoming floats together;
    otherwise it becomes JSON text, since SDKs before 1.44 replace a mixed list by nothing.
    """
    if isinstance(value, Mapping):
        return {name or "_": any_value(item) for name, item in value.items()}
    if isinstance(value, list):
        items = [any_value(item) for item in value]
        kinds = {item.__class__ for item in items if item is not None}
        if kinds == {int, float}:
            return [None if item is None else float(item) for item in items]
        return items if len(kinds) <= 1 else msgspec.json.encode(value).decode()
    return value


def checked_value(value: Any, *, depth: int = 1) -> Any:
    """Return a value that user code supplied for an attribute, or None if OpenTelemetry could not take it.

    Text, booleans, 64-bit integers, floats and sequences of one of these are taken, and with a ``depth`` above 1
    mappings of them. Other values would fail much later, in the SDK's exporter, and take the other spans of their
    batch with them.
    """
    if isinstance(value, bool | float):
        return value
    if isinstance(value, int):
        return int(value) if -(2**63) <= value < 2**63 else None
    if isinstance(value, str):
        return checked_text(value)
    if depth > 1 and isinstance(value, Mapping):
        return {checked_text(str(name)): checked_value(item, depth=depth - 1) for name, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, bytes | bytearray | memoryview):
        return _checked_items(value, depth)
    return None


def _checked_items(values: Sequence[Any], depth: int) -> list[Any] | None:
    if depth > 1:
        items = [checked_value(item, depth=depth - 1) for item in values]
        refused = any(item is None and given is not None for item, given in zip(items, values, strict=True))
    else:  # spans and SDKs before 1.44 know no sequences in sequences, and no null
        items = [checked_value(item) if isinstance(item, bool | int | float | str) else None for item in values]
        refused = None in items
    kinds = {item.__class__ for item in items if item is not None}
    return None if refused or len(kinds) > 1 else items


def checked_text(text: str) -> str:
    """Return the text as a plain ``str`` that UTF-8 can express."""
    plain = "".join(text) if type(text) is not str else text
    return plain if plain.isascii() else plain.encode("utf-8", "replace").decode()
