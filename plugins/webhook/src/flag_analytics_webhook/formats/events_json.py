"""Every field of every event, under the names of ``FlagEvaluationEvent.to_dict``."""

from __future__ import annotations

from typing import Any

import msgspec
from flag_analytics.frozen import FrozenEvent

from ..options import WebhookOptions
from .answers import answer_by_id
from .form import Form

__all__ = ["FORM", "fields_of"]


def fields_of(event: FrozenEvent) -> dict[str, Any]:
    """Return the fields of ``to_dict``; value and context are embedded as they were stored, without being decoded."""
    return {
        "event_id": event.event_id,
        "timestamp": event.timestamp.isoformat(),
        "flag_key": event.flag_key,
        "value": msgspec.Raw(event.value_json),
        "reason": event.reason,
        "variant": event.variant,
        "targeting_key": event.targeting_key,
        "context_attributes": msgspec.Raw(event.context_json),
        "evaluation_duration_ms": event.evaluation_duration_ms,
        "error_type": event.error_type,
        "error_message": event.error_message,
        "flag_version": event.flag_version,
        "flag_set_id": event.flag_set_id,
        "provider_name": event.provider_name,
        "kind": event.kind,
        "sample_rate": event.sample_rate,
    }


def _item(event: FrozenEvent, _: WebhookOptions) -> Any:
    return fields_of(event)


def _body(items: list[Any], batch_id: str, _: WebhookOptions) -> Any:
    return {"batch_id": batch_id, "events": items}


FORM = Form(item=_item, body=_body, answer=answer_by_id)
