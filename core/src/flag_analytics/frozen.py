"""``FrozenEvent``: an accepted event, immutable and bounded."""

from __future__ import annotations

from datetime import datetime
from typing import Any, cast

import msgspec

from .events import EventKind, FlagEvaluationEvent, as_reason

__all__ = ["FrozenEvent"]

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
