"""What an evaluation looks like: ``FlagEvaluationEvent`` and ``EvaluationReason``."""

from __future__ import annotations

import os
from collections.abc import Mapping
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, Literal, Self, TypedDict, Unpack

import msgspec
import uuid_utils

from .errors import EventError

__all__ = ["EvaluationReason", "EventKind", "FlagEvaluationEvent", "as_reason", "new_event_id"]

EventKind = Literal["evaluation", "exposure", "outcome"]


class EvaluationReason(StrEnum):
    """Why a flag returned the value it did; any other string is accepted in its place.

    The first seven are the reference's; ``CACHED``, ``STALE`` and ``UNKNOWN`` complete OpenFeature's list
    (specification, section 1.4, ``reason``).
    """

    DEFAULT = "DEFAULT"
    STATIC = "STATIC"
    TARGETING_MATCH = "TARGETING_MATCH"
    OVERRIDE = "OVERRIDE"
    SPLIT = "SPLIT"
    DISABLED = "DISABLED"
    ERROR = "ERROR"
    CACHED = "CACHED"
    STALE = "STALE"
    UNKNOWN = "UNKNOWN"


_REASONS: dict[str, EvaluationReason] = {reason.value: reason for reason in EvaluationReason}


made_last = [""]
"""The id made last, in any thread: an event is mostly recorded right after it was made, and this one needs no check."""


def new_event_id() -> str:
    """Return a new UUIDv7 (RFC 9562) as text: sortable by creation time, unique across threads and forks."""
    event_id = str(uuid_utils.uuid7())
    made_last[0] = event_id
    return event_id


if hasattr(os, "register_at_fork"):
    # The generator's state is copied by fork: without a new seed, parent and child would make the same ids.
    os.register_at_fork(after_in_child=uuid_utils.reseed_rng)


class _ReferenceFields(msgspec.Struct, frozen=True):
    """The reference's eight fields in its order; a struct of its own because the further ones are keyword-only."""

    timestamp: datetime
    flag_key: str
    value: Any
    reason: EvaluationReason | str
    variant: str | None = None
    targeting_key: str | None = None
    context_attributes: Mapping[str, Any] = msgspec.field(default_factory=dict[str, Any])
    evaluation_duration_ms: float = 0.0


class _FurtherFields(TypedDict, total=False):
    """The keyword-only fields of ``FlagEvaluationEvent``, as ``now`` takes them."""

    event_id: str
    error_type: str | None
    error_message: str | None
    flag_version: str | None
    flag_set_id: str | None
    provider_name: str | None
    kind: EventKind
    sample_rate: float


class FlagEvaluationEvent(_ReferenceFields, frozen=True, kw_only=True):
    """One evaluation of one flag. Immutable; nothing is checked or converted until a collector accepts it.

    Attributes:
        timestamp: When the evaluation happened, UTC. A naive time is taken as UTC, and counted, at acceptance.
        flag_key: The key of the evaluated flag.
        value: The evaluated value, of any type.
        reason: Why this value was returned: an ``EvaluationReason`` or any other string.
        variant: The variant's key, if the flag has variants.
        targeting_key: The user or entity that was evaluated for.
        context_attributes: Further attributes of the evaluation context.
        evaluation_duration_ms: How long the evaluation took, in milliseconds; 0.0 means not measured.
        event_id: A UUIDv7 as text, made here. Two events with one id are the same event: a backend that can, as
            ``database`` does, stores it once.
        error_type: What went wrong, as an OpenFeature error code in any case (``FLAG_NOT_FOUND``, …).
        error_message: What went wrong, for people.
        flag_version: The version of the flag's definition.
        flag_set_id: The set (project, namespace) the flag belongs to.
        provider_name: The OpenFeature provider, or SDK, that evaluated.
        kind: ``evaluation`` (the flag was asked), ``exposure`` (the user met its effect) or ``outcome``
            (what the user did then).
        sample_rate: The ratio, 0–1, of events of this sort that are recorded at all; 1.0 means every one.
    """

    event_id: str = msgspec.field(default_factory=new_event_id)
    error_type: str | None = None
    error_message: str | None = None
    flag_version: str | None = None
    flag_set_id: str | None = None
    provider_name: str | None = None
    kind: EventKind = "evaluation"
    sample_rate: float = 1.0

    @classmethod
    def now(
        cls,
        flag_key: str,
        value: Any,
        reason: EvaluationReason | str,
        variant: str | None = None,
        targeting_key: str | None = None,
        context_attributes: Mapping[str, Any] | None = None,
        evaluation_duration_ms: float = 0.0,
        **further: Unpack[_FurtherFields],
    ) -> Self:
        """Return an event with the current time as its timestamp; the arguments are the other fields, in their order.

        Raises:
            TypeError: there is no field of that name.
        """
        context = {} if context_attributes is None else context_attributes
        return cls(
            datetime.now(UTC),
            flag_key,
            value,
            reason,
            variant,
            targeting_key,
            context,
            evaluation_duration_ms,
            **further,
        )

    def to_dict(self) -> dict[str, Any]:
        """Return every field by name; the time in ISO 8601, the reason as a plain string, values as they are."""
        fields: dict[str, Any] = msgspec.structs.asdict(self)
        # Nothing was checked yet, so each of them may be anything.
        if isinstance(self.timestamp, datetime):
            fields["timestamp"] = self.timestamp.isoformat()
        if isinstance(self.reason, str):
            fields["reason"] = str.__str__(self.reason)  # of an enumeration's member, its value
        if isinstance(self.context_attributes, Mapping):
            fields["context_attributes"] = dict(self.context_attributes)
        return fields

    def replace(self, **changes: Any) -> Self:
        """Return this event with some fields changed, under the same ``event_id``: what a processor hands on.

        Raises:
            TypeError: there is no field of that name.
        """
        return msgspec.structs.replace(self, **changes)

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> FlagEvaluationEvent:
        """Return the event that ``to_dict`` described; unknown names are ignored.

        Raises:
            EventError: a required field is missing, or the timestamp is neither a datetime nor ISO 8601.
        """
        if not isinstance(fields, Mapping):
            raise EventError(f"an event cannot be read from {type(fields).__name__}: expected a mapping of its fields")
        known = {name: fields[name] for name in cls.__struct_fields__ if name in fields}
        missing = [name for name in ("timestamp", "flag_key", "value", "reason") if name not in known]
        if missing:
            raise EventError(f"event has no {', '.join(missing)}: expected at least timestamp, flag_key, value, reason")
        if not isinstance(known["timestamp"], datetime):
            known["timestamp"] = _parse_timestamp(known["timestamp"])
        known["reason"] = as_reason(known["reason"])
        return cls(**known)


def as_reason(reason: str) -> EvaluationReason | str:
    """Return the ``EvaluationReason`` of this name, or the string itself where there is none."""
    return _REASONS.get(reason, reason) if isinstance(reason, str) else reason


def _parse_timestamp(text: Any) -> datetime:
    try:
        return datetime.fromisoformat(text)
    except (TypeError, ValueError):
        pass  # the parser's words quote the text, which is event content: neither they nor it are in our error
    raise EventError("event timestamp is not ISO 8601: expected for example 2026-01-31T12:00:00+00:00")
