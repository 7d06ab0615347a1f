"""What Mixpanel's ``/import?strict=1`` takes; exposures are its ``$experiment_started``.

https://developer.mixpanel.com/reference/import-events
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from flag_analytics.frozen import FrozenEvent

from ..options import WebhookOptions
from .form import Answer, Form, common_properties, milliseconds, reason_of

__all__ = ["FORM"]

_NAMES = {"evaluation": "flag_evaluated", "exposure": "$experiment_started", "outcome": "flag_outcome"}


def _item(event: FrozenEvent, options: WebhookOptions) -> Any:
    properties = {
        "time": milliseconds(event),
        "distinct_id": event.targeting_key or "",  # empty: an anonymous event
        "$insert_id": event.event_id,
        "mp_lib": options.source,
        **common_properties(event),
    }
    if event.kind == "exposure":
        properties |= {"Experiment name": event.flag_key, "Variant name": event.variant}
    return {"event": _NAMES[event.kind], "properties": properties}


def _body(items: list[Any], _: str, __: WebhookOptions) -> Any:
    return items


def _answer(status: int, body: Any, events: Sequence[FrozenEvent]) -> Answer | None:
    """Return the records that failed, by their places in the request; Mixpanel has stored all others."""
    records = body.get("failed_records") if status == 400 and isinstance(body, dict) else None
    refused = {
        events[record["index"]].event_id: reason_of(record.get("field"))
        for record in (records if isinstance(records, list) else ())
        if isinstance(record, dict) and isinstance(record.get("index"), int) and 0 <= record["index"] < len(events)
    }
    return Answer(refused) if refused else None


FORM = Form(item=_item, body=_body, key_in="basic", answer=_answer, max_batch_bytes=2**19)
