"""What an HTTP answer says of a batch: the one place where statuses are turned into errors."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from email.utils import parsedate_to_datetime
from typing import Any

import msgspec
from flag_analytics.errors import BadBatch, CommitUnknown, DeliveryError, FatalConfiguration, SinkUnavailable
from flag_analytics.frozen import FrozenEvent

from .formats import Form

__all__ = ["retry_after_of", "verdict"]

_LATER = frozenset({408, 423, 425, 429, 503})
"""Not done, by their definitions: nothing of the batch is stored."""
_CONFIGURATION: Mapping[int, str] = {
    401: "check `key`",
    402: "the receiver's account does not take events now",
    403: "check `key` and what it may do",
    404: "check `url`",
    405: "check `url`: it takes no POST",
    406: "check `format`",
    407: "the proxy wants a password: check `proxy`",
    410: "check `url`: it is gone for good",
    415: "check `format` and `compression`",
    501: "check `url`: it takes no POST",
}


def verdict(
    status: int, headers: Mapping[str, str], body: bytes, form: Form, events: Sequence[FrozenEvent]
) -> DeliveryError | None:
    """Return the error that a write has to raise after this answer; None if every event is stored."""
    code = f"HTTP_{status}"
    answer = form.answer(status, _decoded(body), events)
    if answer is not None and (status < 300 or 400 <= status < 500):
        ids = {event.event_id for event in events}
        stored = ids - answer.refused.keys() if answer.stored is None else answer.stored
        if stored == ids:
            return None
        if stored or answer.refused:
            return BadBatch("the receiver answered for each event", refused=answer.refused, stored=stored, code=code)
        return SinkUnavailable("the receiver stored no event", code=code, retry_after=retry_after_of(headers))
    if status == 207:
        return CommitUnknown("the receiver answered 207 without a word on any event", code=code)
    if 200 <= status < 300:
        return None
    if status in _LATER:
        return SinkUnavailable(f"the receiver answered {status}", code=code, retry_after=retry_after_of(headers))
    if status in _CONFIGURATION or 300 <= status < 400:
        advice = _CONFIGURATION.get(status, "it redirects, which is not followed: check `url`")
        return FatalConfiguration(f"the receiver answered {status}: {advice}", code=code)
    if 400 <= status < 500:
        return BadBatch(f"the receiver answered {status}", code=code)
    return CommitUnknown(f"the receiver answered {status}", code=code, retry_after=retry_after_of(headers))


def retry_after_of(headers: Mapping[str, str], *, now: float | None = None) -> float:
    """Return the seconds that a ``Retry-After`` asks for, as a number or a date; 0 without one that can be read."""
    text = headers.get("Retry-After", "").strip()
    try:
        seconds = float(text)
    except ValueError:
        try:
            seconds = parsedate_to_datetime(text).timestamp() - (time.time() if now is None else now)
        except (ValueError, TypeError, OverflowError):
            return 0.0
    return max(0.0, seconds) if math.isfinite(seconds) else 0.0


def _decoded(body: bytes) -> Any:
    try:
        return msgspec.json.decode(body)
    except (msgspec.DecodeError, RecursionError, ValueError):
        return None
