"""HTTP for flag-analytics: JSON, CloudEvents and the forms of product analytics, signed, with an answer for each event.

::

    [exporters.webhook]
    url = "https://example.org/flag-events"
    signing_secret = "${WEBHOOK_SECRET}"

``verify_signature`` is for the receiver.
"""

from __future__ import annotations

from .options import WebhookOptions
from .signing import verify_signature
from .sink import WebhookSink

__all__ = ["WebhookOptions", "WebhookSink", "verify_signature"]
