"""What Amplitude's ``/batch`` and ``/2/httpapi`` take; exposures are the ``$exposure`` of Amplitude Experiment.

https://amplitude.com/docs/apis/analytics/batch-event-upload
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from flag_analytics.frozen import FrozenEvent

from ..options import WebhookOptions
from .form import Answer, Form, common_properties, milliseconds, reason_of

__all__ = ["FORM"]

_NAMES = {"evaluation": "flag_evaluated", "exposure": "$exposure", "outcome": "flag_outcome"}
_BY_FIELD = ("events_with_invalid_fields", "events_with_missing_fields", "events_with_invalid_id_lengths")


def _item(event: FrozenEvent, options: WebhookOptions) -> Any:
    return {
        "event_type": _NAMES[event.kind],
        "user_id" if event.targeting_key else "device_id": event.targeting_key or options.anonymous_id,
        "time": milliseconds(event),
        "insert_id": event.event_id,
        "library": options.source,
        "event_properties": common_properties(event),
    }


def _body(items: list[Any], _: str, options: WebhookOptions) -> Any:
    return {"api_key": options.key, "events": items, "options": {"min_id_length": 1}}


def _answer(status: int, body: Any, events: Sequence[FrozenEvent]) -> Answer | None:
    """Return the events with a bad field, by their places in the request; of the others none is stored."""
    if status != 400 or not isinstance(body, dict):
        return None
    refused: dict[str, str] = {}
    for problem in _BY_FIELD:
        fields = body.get(problem)
        for field, places in fields.items() if isinstance(fields, dict) else ():
            for place in places if isinstance(places, list) else ():
                if isinstance(place, int) and 0 <= place < len(events):
                    refused[events[place].event_id] = reason_of(field)
    return Answer(refused, frozenset()) if refused else None


FORM = Form(item=_item, body=_body, key_in="body", answer=_answer, max_batch_bytes=384 * 2**10)
