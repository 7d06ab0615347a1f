"""Privacy for flag-analytics: processors that pseudonymise, redact and coarsen what events say of people."""

from __future__ import annotations

from .people import Place, Receipt, forget, person
from .redacting import AllowAttributes, RedactAttributes, allow_attributes, redact_attributes
from .review import SinkReview, review
from .values import Bucket, DropValue, SetAttributes, Truncate, bucket, drop_value, set_attributes, truncate

__all__ = [
    "AllowAttributes",
    "Bucket",
    "DropValue",
    "Place",
    "Receipt",
    "RedactAttributes",
    "SetAttributes",
    "SinkReview",
    "Truncate",
    "allow_attributes",
    "bucket",
    "drop_value",
    "forget",
    "person",
    "redact_attributes",
    "review",
    "set_attributes",
    "truncate",
]
