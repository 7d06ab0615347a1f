"""What PostHog's ``/batch/`` takes: ``$feature_flag_called`` with the properties that its flag pages read.

https://posthog.com/docs/api/capture and https://posthog.com/docs/feature-flags/installation/api
"""

from __future__ import annotations

from typing import Any

import msgspec
from flag_analytics.frozen import FrozenEvent

from ..options import WebhookOptions
from .form import Form, common_properties

__all__ = ["FORM"]


def _item(event: FrozenEvent, options: WebhookOptions) -> Any:
    response = event.variant or msgspec.Raw(event.value_json)
    properties = {
        "$lib": options.source,
        "$feature_flag": event.flag_key,
        "$feature_flag_response": response,
        "$feature_flag_reason": event.reason,
        f"$feature/{event.flag_key}": response,
        **common_properties(event),
    }
    if event.error_type is not None:
        properties["$feature_flag_error"] = event.error_type
    if not event.targeting_key:
        properties["$process_person_profile"] = False
    return {
        "event": "flag_outcome" if event.kind == "outcome" else "$feature_flag_called",
        "uuid": event.event_id,
        "distinct_id": event.targeting_key or options.anonymous_id,
        "timestamp": event.timestamp.isoformat(),
        "properties": properties,
    }


def _body(items: list[Any], _: str, options: WebhookOptions) -> Any:
    return {"api_key": options.key, "batch": items}


FORM = Form(item=_item, body=_body, key_in="body")
