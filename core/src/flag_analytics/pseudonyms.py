"""``hash_targeting_key``: pseudonyms by HMAC-SHA-256 (RFC 2104), which name their key so that it can be rotated."""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Mapping
from typing import Any

import attrs
import msgspec

from .canonical import canonical_key
from .events import FlagEvaluationEvent

__all__ = ["HashTargetingKey", "Pseudonyms", "hash_targeting_key"]

_KEY_CHARS = 16
_ADVICE = (
    "make one with `python -c 'import secrets; print(secrets.token_urlsafe(32))'`, keep it secret, and give it by an "
    'environment variable, as in key = "${TARGETING_KEY}"'
)


def _long_enough(_: Any, attribute: attrs.Attribute[Any], key: str | None) -> None:
    if key is not None and len(key) < _KEY_CHARS:
        raise ValueError(f"expected a {attribute.name} of at least {_KEY_CHARS} characters: {_ADVICE}")


def _short_name(_: Any, attribute: attrs.Attribute[Any], name: str) -> None:
    if not re.fullmatch(r"[A-Za-z0-9_-]{1,16}", name):
        raise ValueError(f"expected a {attribute.name} of 1 to 16 letters, digits, _ and -, such as 2026-11")


def _named_keys(_: Any, attribute: attrs.Attribute[Any], keys: Mapping[str, str]) -> None:
    for name, key in keys.items():
        _short_name(None, attribute, name)
        _long_enough(None, attribute, key)


_secret = {"secret": True, "discreet_validator": True}


@attrs.frozen(kw_only=True)
class HashTargetingKey:
    """Options of ``hash_targeting_key``: targeting keys become ``KEY_ID:`` and hexadecimal digits of HMAC-SHA-256.

    With another key the same user counts as another. After a rotation, name the former key among ``previous_keys``: new
    events are hashed with the new one, and a person's earlier events can still be found, exported and erased.

    Attributes:
        key: The key of the hash, at least 16 characters, secret.
        key_id: The key's name, which is stored with each hash: 1 to 16 letters, digits, ``_`` and ``-``.
        previous_keys: The keys before it, by their names.
        unkeyed: Hash without a key, by SHA-256. A reader who guesses a targeting key can then recognise it.
        length: How many hexadecimal digits are kept. Of a million users, two share 16 digits with a probability of
            3e-8, and 32 digits never.
    """

    key: str | None = attrs.field(default=None, repr=False, validator=_long_enough, metadata=_secret)
    key_id: str = attrs.field(default="1", validator=_short_name)
    previous_keys: Mapping[str, str] = attrs.field(
        factory=dict[str, str], repr=False, validator=_named_keys, metadata=_secret
    )
    unkeyed: bool = False
    length: int = attrs.field(default=32, validator=[attrs.validators.ge(16), attrs.validators.le(64)])

    def __attrs_post_init__(self) -> None:
        if self.key is None and not self.unkeyed:
            raise ValueError(
                f"a key is required: {_ADVICE}; or set unkeyed = true for a hash that anyone can recompute"
            )
        if self.unkeyed and (self.key is not None or self.previous_keys):
            raise ValueError("expected a key, or unkeyed = true, and not both")
        if self.key_id in self.previous_keys:
            raise ValueError("previous_keys has the name that key_id gives: a new key needs a new name")


class Pseudonyms:
    """The processor: replaces every targeting key by its pseudonym."""

    def __init__(self, options: HashTargetingKey) -> None:
        self._length = options.length
        self._keys = [
            (f"{name}:", key.encode("utf-8", "surrogatepass"))
            for name, key in ((options.key_id, options.key), *options.previous_keys.items())
            if key is not None
        ]

    def __call__(self, event: FlagEvaluationEvent) -> FlagEvaluationEvent:
        targeting_key = canonical_key(event.targeting_key)
        if not targeting_key:
            return event
        return msgspec.structs.replace(event, targeting_key=self._pseudonym(targeting_key.encode()))

    def forms(self, targeting_key: str) -> tuple[str, ...]:
        """Return every pseudonym that a targeting key has: by the key, and by those before."""
        text = canonical_key(targeting_key).encode()
        if not text:
            return ()
        return tuple(self._pseudonym(text, which) for which in range(max(1, len(self._keys))))

    def _pseudonym(self, text: bytes, which: int = 0) -> str:
        if not self._keys:
            return hashlib.sha256(text).hexdigest()[: self._length]
        prefix, key = self._keys[which]
        return prefix + hmac.digest(key, text, "sha256").hex()[: self._length]


def hash_targeting_key(options: HashTargetingKey) -> Pseudonyms:
    """Return the processor that replaces every targeting key by its pseudonym."""
    return Pseudonyms(options)
