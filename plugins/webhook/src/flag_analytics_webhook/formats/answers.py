"""The answer of a receiver that knows this exporter: ``{"refused": {id: reason}, "stored": [id]}``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from flag_analytics.frozen import FrozenEvent

from .form import Answer, reason_of

__all__ = ["answer_by_id"]

_MULTI_STATUS = 207


def answer_by_id(status: int, body: Any, events: Sequence[FrozenEvent]) -> Answer | None:
    """Return what the body says of the events that were sent; ids of others count for nothing.

    After a success, what is not named is stored; after 207 or a refusal only what is named under ``stored``.
    """
    if not isinstance(body, dict) or not ({"refused", "stored"} & body.keys()):
        return None
    ids = {event.event_id for event in events}
    refused, stored = body.get("refused"), body.get("stored")
    reasons = refused if isinstance(refused, dict) else {}
    named = {event_id: reason_of(reason) for event_id, reason in reasons.items() if event_id in ids}
    kept = ids & set(filter(_is_text, stored)) if isinstance(stored, list) else set[str]()
    partial = status == _MULTI_STATUS or status >= 300 or isinstance(stored, list)
    return Answer(named, frozenset(kept - named.keys()) if partial else None)


def _is_text(value: Any) -> bool:
    return isinstance(value, str)
