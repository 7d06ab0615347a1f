"""Every option of the webhook exporter, its unit and its default."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal

import attrs
from flag_analytics.config.kinds import Url

__all__ = ["Compression", "FormatName", "WebhookOptions"]

FormatName = Literal["json", "cloudevents", "go_feature_flag", "posthog", "segment", "amplitude", "mixpanel"]
Compression = Literal["none", "gzip"]

_FORMATS = ("json", "cloudevents", "go_feature_flag", "posthog", "segment", "amplitude", "mixpanel")
_TOKEN = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_DISCREET = {"secret": True, "discreet_validator": True}
_STANDARD = "whsec_"
_LEAST_SECRET_BYTES = 16


def _check_url(_: Any, __: attrs.Attribute[Any], url: str) -> None:
    if not url.lower().startswith(("http://", "https://")):
        raise ValueError("expected a URL that begins with http:// or https://")


def _check_headers(_: Any, __: attrs.Attribute[Any], headers: Mapping[str, str]) -> None:
    for name, value in headers.items():
        if not _TOKEN.fullmatch(name) or re.search(r"[\x00-\x08\x0a-\x1f\x7f]", value):
            raise ValueError("expected what HTTP allows in a header: no line break, and no space in a name")


def _check_secret(_: Any, __: attrs.Attribute[Any], secret: str) -> None:
    if secret:
        signing_key(secret)


def _check_timeout(_: Any, __: attrs.Attribute[Any], timeout: timedelta) -> None:
    if timeout <= timedelta(0):
        raise ValueError("expected more than 0 seconds")


def signing_key(secret: str) -> bytes:
    """Return the key of a secret: base64 after ``whsec_``, as Standard Webhooks has it, else the text itself.

    Raises:
        ValueError: it is shorter than 16 bytes, or no base64 follows ``whsec_``.
    """
    if secret.startswith(_STANDARD):
        try:
            key = base64.b64decode(secret.removeprefix(_STANDARD), validate=True)
        except binascii.Error:
            raise ValueError("expected base64 after whsec_") from None
    else:
        key = secret.encode()
    if len(key) < _LEAST_SECRET_BYTES:
        raise ValueError(f"expected a secret of at least {_LEAST_SECRET_BYTES} bytes")
    return key


@attrs.frozen(kw_only=True)
class WebhookOptions:
    """Options of the exporter.

    Attributes:
        url: Where batches are sent to, by POST. Redirects are not followed.
        format: The form of a request's body: ``json`` (every field of every event), ``cloudevents`` (a batch of
            CloudEvents 1.0), ``go_feature_flag`` (its data collector), ``posthog``, ``segment``, ``amplitude`` or
            ``mixpanel``.
        key: The key by which the receiver knows its sender: a bearer token for ``json``, ``cloudevents`` and
            ``go_feature_flag``, else the project's key, token or write key.
        signing_secret: Signs each request with HMAC-SHA256, as Standard Webhooks has it: ``whsec_`` and base64, or at
            least 16 characters.
        headers: Further headers of each request.
        timeout: The longest one request may take.
        compression: Whether bodies are sent as ``gzip``.
        source: The ``source`` of CloudEvents, and the ``$lib`` or ``library`` of other formats.
        anonymous_id: Stands for the user where an event has no targeting key and the format needs one.
        ca_file: Certificates to trust in place of the system's.
        proxy: An HTTP proxy to send through; the environment's is not used.
    """

    url: Url = attrs.field(repr=False, validator=_check_url, metadata=_DISCREET)
    format: FormatName = attrs.field(default="json", validator=attrs.validators.in_(_FORMATS))
    key: str = attrs.field(default="", repr=False, metadata={"secret": True})
    signing_secret: str = attrs.field(default="", repr=False, validator=_check_secret, metadata=_DISCREET)
    headers: Mapping[str, str] = attrs.field(
        factory=dict[str, str], repr=False, validator=_check_headers, metadata=_DISCREET
    )
    timeout: timedelta = attrs.field(default=timedelta(seconds=10), validator=_check_timeout)
    compression: Compression = attrs.field(default="none", validator=attrs.validators.in_(("none", "gzip")))
    source: str = attrs.field(default="flag-analytics", validator=attrs.validators.min_len(1))
    anonymous_id: str = attrs.field(default="anonymous", validator=attrs.validators.min_len(1))
    ca_file: Path | None = None
    proxy: Url | None = attrs.field(default=None, repr=False, metadata={"secret": True})
