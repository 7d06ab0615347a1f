"""Values of a file as the fields of an event."""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from hashlib import blake2b
from typing import Any, NamedTuple
from uuid import UUID

import msgspec
from flag_analytics.events import EvaluationReason, as_reason

__all__ = [
    "FIELDS",
    "KINDS",
    "FieldError",
    "Fields",
    "duration_of",
    "event_id_of",
    "given",
    "json_or_text",
    "kind_of",
    "object_of",
    "reason_of",
    "sample_rate_of",
    "text_of",
]

FIELDS = (
    "timestamp",
    "flag_key",
    "value",
    "reason",
    "variant",
    "targeting_key",
    "context_attributes",
    "evaluation_duration_ms",
    "event_id",
    "error_type",
    "error_message",
    "flag_version",
    "flag_set_id",
    "provider_name",
    "kind",
    "sample_rate",
)
"""The fields of an event; ``context.NAME`` is one attribute of the evaluation context."""
KINDS = ("evaluation", "exposure", "outcome")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND = timedelta(milliseconds=1)
_decode = msgspec.json.Decoder().decode


class Fields(NamedTuple):
    """The values of a record that a shape reads itself, as they are; ``others`` are checked further fields by name."""

    timestamp: Any
    flag_key: Any
    value: Any = None
    reason: Any = None
    variant: Any = None
    targeting_key: Any = None
    context_attributes: dict[str, Any] = {}  # noqa: RUF012  never changed
    others: Mapping[str, Any] = {}


class FieldError(ValueError):
    """A field does not hold a value of its kind; the message is for people and has no content of the file."""


def text_of(name: str, value: Any) -> str | None:
    """Return a key or other text; numbers and booleans as JSON writes them, None for nothing."""
    if value.__class__ is str:
        return value or None
    if value is None:
        return None
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float | Decimal | UUID | date):
        return str(value)
    if isinstance(value, bytes):
        try:
            return value.decode() or None
        except UnicodeDecodeError:
            return value.hex()
    raise FieldError(f"{name} is not text")


def given(texts: Mapping[str, Any]) -> dict[str, str]:
    """Return the texts of the fields that have one."""
    return {name: text for name, value in texts.items() if (text := text_of(name, value)) is not None}


def reason_of(value: Any) -> EvaluationReason | str:
    """Return the reason of an evaluation, ``UNKNOWN`` for none; those of the list in any case."""
    text = text_of("reason", value)
    if text is None:
        return EvaluationReason.UNKNOWN
    known = as_reason(text.upper())
    return known if isinstance(known, EvaluationReason) else text


def duration_of(value: Any) -> float:
    """Return milliseconds, at least 0."""
    duration = _number(value)
    if not 0.0 <= duration < math.inf:
        raise FieldError("evaluation_duration_ms is not a number of milliseconds, 0 or more")
    return duration


def sample_rate_of(value: Any) -> float:
    """Return a ratio above 0, at most 1."""
    rate = _number(value)
    if not 0.0 < rate <= 1.0:
        raise FieldError("sample_rate is not a ratio above 0 and at most 1")
    return rate


def _number(value: Any) -> float:
    """Return a number, written with a decimal point or a decimal comma; nan for anything else."""
    try:
        if isinstance(value, str) and "," in value:
            # The last of the two marks the decimals.
            comma_is_decimal = value.rfind(",") > value.rfind(".")
            value = value.replace(".", "").replace(",", ".") if comma_is_decimal else value.replace(",", "")
        return float(value)
    except (TypeError, ValueError, OverflowError):
        return math.nan


def kind_of(value: Any) -> str:
    kind = value.strip().lower() if isinstance(value, str) else value
    if kind not in KINDS:
        raise FieldError(f"kind is none of {', '.join(KINDS)}")
    return str(kind)


def object_of(name: str, value: Any) -> dict[str, Any]:
    """Return attributes by name, from an object, its JSON text, or the pairs that Parquet has for a map."""
    if value.__class__ is dict:
        return value
    if value is None or value == "":
        return {}
    if isinstance(value, str):
        value = json_or_text(value)
    elif isinstance(value, list) and all(isinstance(pair, tuple) and len(pair) == 2 for pair in value):
        value = dict(value)
    if not isinstance(value, Mapping):
        raise FieldError(f"{name} is not a JSON object")
    return dict(value)


def json_or_text(text: str) -> Any:
    """Return the meaning of a cell: nothing, a truth value, a number or other JSON, else the text itself."""
    if not text:
        return None
    first = text[0]
    if first.isalpha():
        return {"true": True, "false": False, "null": None}.get(text.lower(), text)
    if first in '-"[{' or first.isdigit():
        try:
            return _decode(text)
        except (msgspec.DecodeError, RecursionError, UnicodeError):
            return text
    return text


def event_id_of(timestamp: datetime, number: int | str, content: str, flag_key: str, source: str = "") -> str:
    """Return the id of the event on one line of a file: the same each time the file is read.

    A UUIDv8 (RFC 9562, section 5.8): 48 bits of the event's time in milliseconds, so that a database can append, then
    a hash of the source's name, the line's number, its content and the flag's key.
    """
    milliseconds = (timestamp - _EPOCH) // _MILLISECOND & 0xFFFF_FFFF_FFFF
    text = f"{number}\0{flag_key}\0{content}" if not source else f"{source}\0{number}\0{flag_key}\0{content}"
    digest = blake2b(text.encode("utf-8", "surrogatepass"), digest_size=10).hexdigest()
    return (
        f"{milliseconds >> 16:08x}-{milliseconds & 0xFFFF:04x}-8{digest[:3]}-"
        f"{'89ab'[int(digest[3], 16) & 3]}{digest[4:7]}-{digest[7:19]}"
    )
