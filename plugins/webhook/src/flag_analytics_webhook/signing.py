"""Signatures of requests, as Standard Webhooks 1.0 has them, for both sides.

https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import time
from collections.abc import Mapping

from .options import signing_key

__all__ = ["signature_headers", "verify_signature"]

TOLERANCE_SECONDS = 300.0


def signature_headers(secret: str, message_id: str, body: bytes, now: float) -> dict[str, str]:
    """Return the headers that identify a request and, with a secret, sign it; ``now`` is in seconds since the epoch."""
    headers = {"webhook-id": message_id, "webhook-timestamp": str(int(now))}
    if secret:
        headers["webhook-signature"] = _signature(secret, message_id, headers["webhook-timestamp"], body)
    return headers


def verify_signature(
    secret: str,
    headers: Mapping[str, str],
    body: bytes,
    *,
    now: float | None = None,
    tolerance: float = TOLERANCE_SECONDS,
) -> bool:
    """Return whether a request was signed with this secret, at most ``tolerance`` seconds ago.

    ``headers`` are the request's, by names in any case; ``body`` is its body as it was sent, still compressed.

    Raises:
        ValueError: the secret is too short, or no base64 follows ``whsec_``.
    """
    given = {name.lower(): value for name, value in headers.items()}
    message_id, at = given.get("webhook-id", ""), given.get("webhook-timestamp", "")
    if not at.isascii() or not at.isdigit() or len(at) > 12:
        return False
    expected = _signature(secret, message_id, at, body).encode()
    signatures = given.get("webhook-signature", "").split(" ")
    # Every one is compared, and each in constant time, so that the time taken tells nothing.
    matches = sum(hmac.compare_digest(expected, signature.encode()) for signature in signatures)
    return bool(matches) and abs((time.time() if now is None else now) - int(at)) <= tolerance


def _signature(secret: str, message_id: str, at: str, body: bytes) -> str:
    signed = b".".join((message_id.encode(), at.encode(), body))
    digest = hmac.new(signing_key(secret), signed, hashlib.sha256).digest()
    return f"v1,{base64.b64encode(digest).decode()}"
