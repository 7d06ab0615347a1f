"""``FrozenEvent``: an accepted event, immutable and bounded, and its form in files: one array of JSON."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any, cast

import msgspec

from .events import EventKind, FlagEvaluationEvent, as_reason

__all__ = ["FrozenEvent", "decode_event", "encode_event"]

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder().decode


class FrozenEvent(msgspec.Struct, frozen=True, gc=False):
    """An accepted event: checked, bounded, immutable, with ``FlagEvaluationEvent``'s attributes.

    This is what sinks get. ``value_json`` and ``context_json`` are UTF-8 JSON, ready to be stored; ``value`` and
    ``context_attributes`` decode them anew at each access. ``size`` is what the event weighs in a queue, in bytes.
    """

    timestamp: datetime
    flag_key: str
    value_json: bytes
    reason: str
    variant: str | None
    targeting_key: str | None
    context_json: bytes
    evaluation_duration_ms: float
    event_id: str
    error_type: str | None
    error_message: str | None
    flag_version: str | None
    flag_set_id: str | None
    provider_name: str | None
    kind: EventKind
    sample_rate: float
    received_at: float
    """When the event was accepted, in seconds since the Unix epoch."""
    size: int
    traceparent: str | None = None
    """The W3C trace context that was current when the event was recorded, where a sink asked for it."""

    @property
    def value(self) -> Any:
        return _decode(self.value_json)

    @property
    def context_attributes(self) -> dict[str, Any]:
        return cast("dict[str, Any]", _decode(self.context_json))

    def thaw(self) -> FlagEvaluationEvent:
        """Return the event as callers know it."""
        return FlagEvaluationEvent(
            self.timestamp,
            self.flag_key,
            self.value,
            as_reason(self.reason),
            self.variant,
            self.targeting_key,
            self.context_attributes,
            self.evaluation_duration_ms,
            event_id=self.event_id,
            error_type=self.error_type,
            error_message=self.error_message,
            flag_version=self.flag_version,
            flag_set_id=self.flag_set_id,
            provider_name=self.provider_name,
            kind=self.kind,
            sample_rate=self.sample_rate,
        )

    def to_dict(self) -> dict[str, Any]:
        """Return every field of the event by name, as ``FlagEvaluationEvent.to_dict`` does."""
        return self.thaw().to_dict()


_STORED_TYPES = {"timestamp": int, "value_json": msgspec.Raw, "context_json": msgspec.Raw}


def _stored_field(field: msgspec.structs.FieldInfo) -> tuple[str, Any] | tuple[str, Any, Any]:
    stored_type = _STORED_TYPES.get(field.name, field.type)
    return (field.name, stored_type) if field.required else (field.name, stored_type, field.default)


_Row = msgspec.defstruct("_Row", map(_stored_field, msgspec.structs.fields(FrozenEvent)), array_like=True, gc=False)
_decode_row = msgspec.json.Decoder(_Row).decode


def encode_event(event: FrozenEvent) -> bytes:
    """Return an event as UTF-8 JSON: an array of its fields in their order, on one line.

    The time is in microseconds since the Unix epoch; value and context are embedded as they are.
    """
    since = event.timestamp - _EPOCH
    fields: list[Any] = [*msgspec.structs.astuple(event)]
    fields[0] = (since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds
    fields[2] = msgspec.Raw(event.value_json)
    fields[6] = msgspec.Raw(event.context_json)
    return _encode(fields)


def decode_event(body: bytes) -> FrozenEvent:
    """Return the event that ``encode_event`` wrote.

    Raises:
        msgspec.MsgspecError: ``body`` is not such an array.
        OverflowError: its time is outside the years 1 to 9999.
    """
    row: Any = _decode_row(body)
    # Each by its name: to make a tuple of them first takes a tenth longer.
    return FrozenEvent(
        _EPOCH + row.timestamp * _MICROSECOND, row.flag_key, bytes(row.value_json), row.reason, row.variant,
        row.targeting_key, bytes(row.context_json), row.evaluation_duration_ms, row.event_id, row.error_type,
        row.error_message, row.flag_version, row.flag_set_id, row.provider_name, row.kind, row.sample_rate,
        row.received_at, row.size, row.traceparent
    )  # fmt: skip
