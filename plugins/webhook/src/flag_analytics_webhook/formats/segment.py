"""What Segment's ``/v1/batch`` takes: ``track`` calls of at most 500 KB together.

https://segment.com/docs/connections/sources/catalog/libraries/server/http-api/
"""

from __future__ import annotations

from typing import Any

from flag_analytics.frozen import FrozenEvent

from ..options import WebhookOptions
from .form import Form, common_properties

__all__ = ["FORM"]

_NAMES = {"evaluation": "Feature Flag Evaluated", "exposure": "Experiment Viewed", "outcome": "Flag Outcome"}


def _item(event: FrozenEvent, options: WebhookOptions) -> Any:
    properties = common_properties(event)
    if event.kind == "exposure":  # the names of Segment's A/B testing specification
        properties |= {"experiment_id": event.flag_key, "variation_id": event.variant}
    return {
        "type": "track",
        "messageId": event.event_id,
        "userId" if event.targeting_key else "anonymousId": event.targeting_key or options.anonymous_id,
        "event": _NAMES[event.kind],
        "timestamp": event.timestamp.isoformat(),
        "properties": properties,
        "context": {"library": {"name": options.source}},
    }


def _body(items: list[Any], _: str, __: WebhookOptions) -> Any:
    return {"batch": items}


FORM = Form(item=_item, body=_body, key_in="basic", batch_size=200, max_batch_bytes=192 * 2**10)
