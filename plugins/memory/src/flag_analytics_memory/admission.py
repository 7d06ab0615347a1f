"""How events are kept: as they are where they cannot change, as a copy, or frozen.

``FlagEvaluationEvent`` is immutable but for its context, and for a value that is not a scalar. What is *admitted* is

- the caller's own event, if it has no context and a small scalar as its value: a context that is found in it later was
  put there since, and does not count;
- a ``Snapshot`` of an event with a few short scalars as its context, which becomes a copy when it is first read;
- a copy with the context as JSON bytes, if that is a larger dict of scalars;
- a ``FrozenEvent`` otherwise.

Only what could change later, or grow without bound, is looked at when an event is admitted. Whether its other fields
are in canonical form is found out when it is first read (``is_normal``), since most events leave without being read.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from datetime import UTC, datetime
from itertools import islice
from typing import Any

import msgspec
from flag_analytics.canonical import MAX_KEY_CHARS
from flag_analytics.events import EvaluationReason, FlagEvaluationEvent
from flag_analytics.frozen import FrozenEvent
from msgspec.structs import replace

__all__ = [
    "MAX_SNAPSHOT_ATTRIBUTES",
    "MAX_SNAPSHOT_CHARS",
    "Snapshot",
    "admit",
    "as_recorded",
    "encode_context",
    "has_context",
    "is_normal",
    "is_short",
    "is_small",
    "settle",
    "with_own_context",
]

MAX_SNAPSHOT_ATTRIBUTES = 16
MAX_SNAPSHOT_CHARS = 100
"""Of each name and each text: with this many attributes, about what a context may have as JSON."""

_MAX_INT = 2**63 - 1
_MAX_CONTEXT_BYTES = 4_096
_MAX_ATTRIBUTES = 64
_MAX_TEXT_CHARS = 1_024
_MAX_KNOWN_VARIANTS = 1_000
_MAX_KNOWN_NAMES = 1_000
_BACKSLASH = 0x5C
_INFINITE = math.inf
_KINDS = frozenset({"evaluation", "exposure", "outcome"})

encode_context = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(dict[str, Any]).decode


class Snapshot(msgspec.Struct, frozen=True, gc=False):
    """A caller's event, and its context as JSON: all that is done for it before it is read, since many never are."""

    flag_key: str
    event: FlagEvaluationEvent
    context_json: bytes


def settle(snapshot: Snapshot, freeze: Callable[[Any], Any]) -> Any:
    """Return a snapshot's event with the context that it had, in canonical form."""
    encoded: Any = snapshot.context_json
    # A backslash begins an escape, and some escapes are not in canonical form.
    if _BACKSLASH not in encoded:
        event = replace(snapshot.event, context_attributes=encoded)
        if is_normal(event):
            return event
    return freeze(as_recorded(snapshot))


def admit(event: Any, variants: set[str | None], names: set[str]) -> FlagEvaluationEvent | None:
    """Return the event or a copy, as it may be kept; None if it must be frozen. May raise for a hostile event.

    ``variants``, and ``names`` of context attributes, are those that were admitted before; a few more are added.
    """
    if type(event) is not FlagEvaluationEvent:
        return None
    value = event.value
    key = event.targeting_key
    message = event.error_message
    context: Any = event.context_attributes
    if (
        type(event.flag_key) is not str
        or (value is not True and value is not False and not is_small(value))
        or (key is not None and (type(key) is not str or len(key) > MAX_KEY_CHARS))
        or (message is not None and not is_short(message))
        or not (event.variant is None or _is_known(event.variant, variants))
        or type(context) is not dict
    ):
        return None
    if not context:
        return event
    own = with_own_context(event)
    if own is not None and len(names) < _MAX_KNOWN_NAMES:
        names.update(name for name in islice(context, MAX_SNAPSHOT_ATTRIBUTES) if len(name) <= MAX_SNAPSHOT_CHARS)
    return own


def _is_known(variant: Any, variants: set[str | None]) -> bool:
    if not is_short(variant):  # asked first: to look up an object of another type would run its code
        return False
    if len(variants) < _MAX_KNOWN_VARIANTS:
        variants.add(variant)
    return True


def with_own_context(event: FlagEvaluationEvent) -> FlagEvaluationEvent | None:
    """Return a copy with the context as JSON, if that is a small dict of scalars in canonical form, else None."""
    context: Any = event.context_attributes
    if type(context) is not dict or len(context) > _MAX_ATTRIBUTES:
        return None
    for name in context:
        attribute = context[name]
        if (
            type(name) is not str
            or len(name) > _MAX_TEXT_CHARS
            or ((type(attribute) is not str or len(attribute) > _MAX_TEXT_CHARS) and not is_small(attribute))
        ):
            return None
    encoded: Any = encode_context(context)
    # A backslash begins an escape, and some escapes are not in canonical form.
    if len(encoded) > _MAX_CONTEXT_BYTES or _BACKSLASH in encoded:
        return None
    return replace(event, context_attributes=encoded)


def as_recorded(event: Any) -> FlagEvaluationEvent:
    """Return an admitted event as callers know it, with the context it had when it was recorded."""
    if type(event) is FrozenEvent:
        return event.thaw()
    if type(event) is Snapshot:
        return replace(event.event, context_attributes=_decode(event.context_json))
    admitted: FlagEvaluationEvent = event
    context: Any = admitted.context_attributes
    if has_context(admitted):
        return replace(admitted, context_attributes=_decode(context))
    return admitted if type(context) is dict and not context else replace(admitted, context_attributes={})


def has_context(event: Any) -> bool:
    """Return whether an admitted event had a context when it was recorded."""
    # The only event of a caller's that is kept with bytes for a context is one with none: they are empty.
    return type(event) is FrozenEvent or (type(event.context_attributes) is bytes and event.context_attributes != b"")


def is_small(value: Any) -> bool:
    """Return whether a value is None or a short or bounded scalar in canonical form."""
    kind = type(value)
    if value is None or kind is bool:
        return True
    if kind is str:
        return is_short(value)
    if kind is int:
        return bool(-_MAX_INT <= value <= _MAX_INT)
    return kind is float and math.isfinite(value)


def is_normal(event: Any) -> bool:
    """Return whether all fields of an admitted event are in canonical form; its context and its value are."""
    if type(event) is FrozenEvent:
        return True
    try:
        key = event.targeting_key
        return (
            type(event.timestamp) is datetime
            and event.timestamp.tzinfo is UTC
            and is_short(event.flag_key)
            and (type(event.reason) is EvaluationReason or (is_short(event.reason) and event.reason != ""))
            and (event.variant is None or type(event.variant) is str)  # what it says was looked at
            and (key is None or (type(key) is str and key.isprintable()))  # its length was
            and type(event.evaluation_duration_ms) is float
            and -_INFINITE < event.evaluation_duration_ms < _INFINITE
            and type(event.event_id) is str
            and len(event.event_id) == 36
            and type(event.sample_rate) is float
            and event.sample_rate == 1.0
            and type(event.kind) is str
            and event.kind in _KINDS
            and (
                (
                    event.error_type is event.error_message is event.provider_name is None
                    and event.flag_version is event.flag_set_id is None
                )
                or _are_short(event)
            )
        )
    except Exception:  # a hostile attribute: the freezer takes such an event apart
        return False


def _are_short(event: FlagEvaluationEvent) -> bool:
    texts = (event.error_type, event.error_message, event.provider_name, event.flag_version, event.flag_set_id)
    return all(text is None or is_short(text) for text in texts)


def is_short(text: Any) -> bool:
    """Return whether this is text that every backend can index as it is."""
    return type(text) is str and len(text) <= MAX_KEY_CHARS and text.isprintable()
