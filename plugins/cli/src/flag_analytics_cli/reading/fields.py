"""What the fields of an event are when they come as text or as JSON from a file."""

from __future__ import annotations

import math
import re
from datetime import UTC, datetime, timedelta
from hashlib import blake2b
from typing import Any

import msgspec

__all__ = ["KINDS", "FieldError", "duration_of", "event_id_of", "json_or_text", "sample_rate_of", "timestamp_of"]

KINDS = ("evaluation", "exposure", "outcome")
_NO_TIME = "timestamp is neither ISO 8601 nor a number of seconds since 1970"
_NO_ORDER = "timestamp has its day and month in an order that only its writer knows: expected for example 2026-01-31"
_DAY_AND_MONTH = re.compile(r"\d{1,2}([/.-])\d{1,2}\1\d{2,4}\b.*", re.ASCII | re.DOTALL)
_OUT_OF_RANGE = "timestamp is out of range"
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_decode = msgspec.json.Decoder().decode


class FieldError(ValueError):
    """A field is not what belongs there; the message is for people and has no content of the file."""


def timestamp_of(value: Any) -> datetime:
    """Return the UTC time that ISO 8601 text or a number since the epoch stands for.

    Without a zone it is UTC. A number is taken for seconds, milliseconds, microseconds or nanoseconds by its size:
    the seconds of the years up to 5138 have at most 11 digits.
    """
    if isinstance(value, str):
        return _from_text(value.strip())
    if isinstance(value, int | float) and not isinstance(value, bool):
        return _from_epoch(value)
    raise FieldError(_NO_TIME)


def _from_text(text: str) -> datetime:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        try:
            number = float(text)
        except ValueError:
            raise FieldError(_NO_ORDER if _DAY_AND_MONTH.fullmatch(text) else _NO_TIME) from None
        return _from_epoch(number)
    try:
        return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    except OverflowError:
        raise FieldError(_OUT_OF_RANGE) from None


def _from_epoch(number: float) -> datetime:
    if not math.isfinite(number):
        raise FieldError(_OUT_OF_RANGE)
    per_second = 1
    while abs(number) / per_second >= 1e11 and per_second < 1_000_000_000:
        per_second *= 1_000
    try:
        # Whole numbers stay whole: a float of microseconds has not digits enough.
        if isinstance(number, int) or number.is_integer():
            return _EPOCH + timedelta(microseconds=int(number) * 1_000_000 // per_second)
        return _EPOCH + timedelta(seconds=number / per_second)
    except OverflowError:
        raise FieldError(_OUT_OF_RANGE) from None


def duration_of(value: Any) -> float:
    """Return milliseconds, at least 0."""
    try:
        duration = float(value)
    except (TypeError, ValueError, OverflowError):
        duration = math.nan
    if not 0.0 <= duration < math.inf:
        raise FieldError("evaluation_duration_ms is not a number of milliseconds, 0 or more")
    return duration


def sample_rate_of(value: Any) -> float:
    """Return a ratio above 0, at most 1."""
    try:
        rate = float(value)
    except (TypeError, ValueError, OverflowError):
        rate = math.nan
    if not 0.0 < rate <= 1.0:
        raise FieldError("sample_rate is not a ratio above 0 and at most 1")
    return rate


def json_or_text(text: str) -> Any:
    """Return what a cell means: nothing, a truth value, a number or other JSON, else the text itself."""
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


def event_id_of(timestamp: datetime, number: int, content: str, flag_key: str) -> str:
    """Return the id of the event on one line of a file: the same each time the file is read.

    A UUIDv8 (RFC 9562, section 5.8): 48 bits of the event's time in milliseconds, so that a database can append, then
    a hash of the line's number, its content and the flag's key.
    """
    milliseconds = (timestamp - _EPOCH) // timedelta(milliseconds=1) & 0xFFFF_FFFF_FFFF
    digest = blake2b(f"{number}\0{flag_key}\0{content}".encode("utf-8", "surrogatepass"), digest_size=10).hexdigest()
    return (
        f"{milliseconds >> 16:08x}-{milliseconds & 0xFFFF:04x}-8{digest[:3]}-"
        f"{'89ab'[int(digest[3], 16) & 3]}{digest[4:7]}-{digest[7:19]}"
    )
