"""What a format consists of, and what formats share."""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

import attrs
import msgspec
from flag_analytics.frozen import FrozenEvent

from ..options import WebhookOptions

__all__ = ["Answer", "Form", "common_properties", "milliseconds", "reason_of"]

_REASON = re.compile(r"[A-Za-z0-9_.:$-]{1,64}")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@attrs.frozen
class Answer:
    """What a receiver said of single events.

    Attributes:
        refused: A short reason for each refused event, by event id.
        stored: The ids of stored events; None if all are stored that are not refused.
    """

    refused: Mapping[str, str]
    stored: frozenset[str] | None = None


def _no_answer(_: int, __: Any, ___: Sequence[FrozenEvent]) -> Answer | None:
    return None


@attrs.frozen(kw_only=True)
class Form:
    """One format.

    Attributes:
        item: Returns one event in the receiver's form.
        body: Returns the whole body of these items, with the batch's id.
        content_type: The body's media type.
        key_in: Where the key goes: a bearer token, the user name of basic authentication, or the body.
        answer: Returns what a status and a decoded body say of single events; None if nothing.
        batch_size: The most events in one request.
        max_batch_bytes: The most bytes of events in one request; a body can be about twice as large.
    """

    item: Callable[[FrozenEvent, WebhookOptions], Any]
    body: Callable[[list[Any], str, WebhookOptions], Any]
    content_type: str = "application/json"
    key_in: Literal["bearer", "basic", "body"] = "bearer"
    answer: Callable[[int, Any, Sequence[FrozenEvent]], Answer | None] = _no_answer
    batch_size: int = 500
    max_batch_bytes: int = 2**20

    def authorization(self, key: str) -> dict[str, str]:
        """Return the header that shows the key, if it goes into one."""
        if not key or self.key_in == "body":
            return {}
        if self.key_in == "bearer":
            return {"Authorization": f"Bearer {key}"}
        return {"Authorization": f"Basic {base64.b64encode(f'{key}:'.encode()).decode()}"}


def common_properties(event: FrozenEvent) -> dict[str, Any]:
    """Return what is set of an event, without time, user and id, as properties for product analytics."""
    properties = {
        "flag_key": event.flag_key,
        "variant": event.variant,
        "value": msgspec.Raw(event.value_json),
        "reason": event.reason,
        "kind": event.kind,
        "evaluation_duration_ms": event.evaluation_duration_ms or None,
        "error_type": event.error_type,
        "error_message": event.error_message,
        "flag_version": event.flag_version,
        "flag_set_id": event.flag_set_id,
        "provider_name": event.provider_name,
        "sample_rate": event.sample_rate if event.sample_rate != 1.0 else None,
        "context": msgspec.Raw(event.context_json),
    }
    return {name: value for name, value in properties.items() if value is not None}


def milliseconds(event: FrozenEvent) -> int:
    """Return the time of an event in milliseconds since the Unix epoch."""
    return (event.timestamp - _EPOCH) // timedelta(milliseconds=1)


def reason_of(raw: Any) -> str:
    """Return a receiver's reason if it is a short word, else ``refused``: a sentence may quote the event."""
    return raw if isinstance(raw, str) and _REASON.fullmatch(raw) else "refused"
