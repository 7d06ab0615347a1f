"""CloudEvents 1.0 in the JSON batch format, one for each event.

https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/formats/json-format.md#4-json-batch-format
"""

from __future__ import annotations

from typing import Any

from flag_analytics.frozen import FrozenEvent

from ..options import WebhookOptions
from .answers import answer_by_id
from .events_json import fields_of
from .form import Form

__all__ = ["FORM"]


def _item(event: FrozenEvent, options: WebhookOptions) -> Any:
    envelope = {
        "specversion": "1.0",
        "id": event.event_id,
        "source": options.source,
        "type": f"flag_analytics.{event.kind}",
        "time": event.timestamp.isoformat(),
        "datacontenttype": "application/json",
        "data": fields_of(event),
    }
    if event.flag_key:  # a subject may not be empty
        envelope["subject"] = event.flag_key
    return envelope


def _body(items: list[Any], _: str, __: WebhookOptions) -> Any:
    return items


FORM = Form(item=_item, body=_body, content_type="application/cloudevents-batch+json", answer=answer_by_id)
