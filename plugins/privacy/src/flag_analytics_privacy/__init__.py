"""Privacy for flag-analytics: processors that pseudonymise, redact and coarsen what events say of people."""

from __future__ import annotations

from .pseudonyms import HmacTargetingKey, hmac_targeting_key
from .redacting import AllowAttributes, RedactAttributes, allow_attributes, redact_attributes
from .values import Bucket, DropValue, SetAttributes, Truncate, bucket, drop_value, set_attributes, truncate

__all__ = [
    "AllowAttributes",
    "Bucket",
    "DropValue",
    "HmacTargetingKey",
    "RedactAttributes",
    "SetAttributes",
    "Truncate",
    "allow_attributes",
    "bucket",
    "drop_value",
    "hmac_targeting_key",
    "redact_attributes",
    "set_attributes",
    "truncate",
]
