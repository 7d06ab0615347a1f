"""``hmac_targeting_key``: pseudonyms by HMAC-SHA-256 (RFC 2104), which name their key so that it can be rotated."""

from __future__ import annotations

import hmac
import re
from typing import Any

import attrs
import msgspec
from flag_analytics.canonical import canonical_key
from flag_analytics.events import FlagEvaluationEvent

__all__ = ["HmacTargetingKey", "Pseudonyms", "hmac_targeting_key"]

_KEY_CHARS = 16
_ADVICE = (
    "make one with `python -c 'import secrets; print(secrets.token_urlsafe(32))'`, keep it secret, and give it by an "
    'environment variable, as in key = "${TARGETING_KEY}"'
)


def _long_enough(_: Any, attribute: attrs.Attribute[Any], key: str | None) -> None:
    if key is not None and len(key) < _KEY_CHARS:
        raise ValueError(f"expected a {attribute.name} of at least {_KEY_CHARS} characters: {_ADVICE}")


def _short_name(_: Any, attribute: attrs.Attribute[Any], name: str | None) -> None:
    if name is not None and not re.fullmatch(r"[A-Za-z0-9_-]{1,16}", name):
        raise ValueError(f"expected a {attribute.name} of 1 to 16 letters, digits, _ and -, such as 2026-11")


_secret = {"secret": True, "discreet_validator": True}


@attrs.frozen(kw_only=True)
class HmacTargetingKey:
    """Options of ``hmac_targeting_key``: targeting keys become ``KEY_ID:`` and hexadecimal digits of HMAC-SHA-256.

    With another key the same user counts as another. After a rotation, give the former key as ``previous_key``: new
    events are hashed with the new one, and a person's earlier events can still be found, exported and erased.

    Attributes:
        key: The key of the hash, at least 16 characters, secret.
        key_id: The key's name, which is stored with each hash: 1 to 16 letters, digits, ``_`` and ``-``.
        previous_key: The key before the last rotation.
        previous_key_id: Its name.
        length: How many hexadecimal digits are kept.
    """

    key: str = attrs.field(repr=False, validator=_long_enough, metadata=_secret)
    key_id: str = attrs.field(validator=_short_name)
    previous_key: str | None = attrs.field(default=None, repr=False, validator=_long_enough, metadata=_secret)
    previous_key_id: str | None = attrs.field(default=None, validator=_short_name)
    length: int = attrs.field(default=64, validator=[attrs.validators.ge(16), attrs.validators.le(64)])

    def __attrs_post_init__(self) -> None:
        if (self.previous_key is None) is not (self.previous_key_id is None):
            raise ValueError("previous_key and previous_key_id belong together: give both, or none")
        if self.previous_key_id == self.key_id:
            raise ValueError("key_id and previous_key_id are the same: a new key needs a new name")


class Pseudonyms:
    """The processor: replaces every targeting key by its pseudonym."""

    def __init__(self, options: HmacTargetingKey) -> None:
        self._keys = [(f"{options.key_id}:", options.key.encode("utf-8", "surrogatepass"))]
        if options.previous_key is not None:
            self._keys.append((f"{options.previous_key_id}:", options.previous_key.encode("utf-8", "surrogatepass")))
        self._prefix, self._key = self._keys[0]
        self._length = options.length

    def __call__(self, event: FlagEvaluationEvent) -> FlagEvaluationEvent:
        targeting_key = canonical_key(event.targeting_key)
        if not targeting_key:
            return event
        digest = hmac.digest(self._key, targeting_key.encode(), "sha256").hex()
        if self._length != len(digest):
            digest = digest[: self._length]
        return msgspec.structs.replace(event, targeting_key=self._prefix + digest)

    def forms(self, targeting_key: str) -> tuple[str, ...]:
        """Return every pseudonym that a targeting key has: by the key, and by the one before."""
        text = canonical_key(targeting_key).encode()
        return tuple(
            prefix + hmac.digest(key, text, "sha256").hex()[: self._length] for prefix, key in self._keys if text
        )


def hmac_targeting_key(options: HmacTargetingKey) -> Pseudonyms:
    """Return the processor that replaces every targeting key by its pseudonym."""
    return Pseudonyms(options)
