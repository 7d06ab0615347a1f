"""What the data collector of GO Feature Flag's relay proxy takes: ``POST /v1/data/collector``.

https://gofeatureflag.org/docs/relay-proxy/relay-proxy-endpoints; the fields are those of its ``FeatureEvent``.
"""

from __future__ import annotations

from typing import Any

import msgspec
from flag_analytics.frozen import FrozenEvent

from ..options import WebhookOptions
from .form import Form

__all__ = ["FORM"]


def _item(event: FrozenEvent, options: WebhookOptions) -> Any:
    known = event.targeting_key
    return {
        "kind": "feature",
        "contextKind": "user" if known else "anonymousUser",
        "userKey": known or options.anonymous_id,
        "creationDate": int(event.timestamp.timestamp() // 1),
        "key": event.flag_key,
        "variation": event.variant or "",
        "value": msgspec.Raw(event.value_json),
        "default": event.reason.upper() in {"DEFAULT", "ERROR"},
        "version": event.flag_version or "",
        "source": "PROVIDER_CACHE",
        "metadata": {"event_id": event.event_id, "reason": event.reason},
    }


def _body(items: list[Any], _: str, options: WebhookOptions) -> Any:
    return {"meta": {"provider": options.source}, "events": items}


FORM = Form(item=_item, body=_body)
