"""The built-in processors: hash the targeting key, remove attributes, or sample, before any sink sees an event.

Those against repeated events are in ``repeats``.

A processor runs in the caller's thread for every event. One that raises drops the event: privacy fails closed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from enum import Enum
from typing import Any

import attrs
import msgspec

from .canonical import MAX_DEPTH, canonical_key, canonical_member_name
from .events import FlagEvaluationEvent
from .protocols import Processor, ProcessorFactory
from .repeats import DeduplicateExposures, OnlyProviders, deduplicate_exposures, only_providers

__all__ = ["BUILT_IN", "HashTargetingKey", "Redact", "Sample", "hash_targeting_key", "redact", "sample"]

_SAMPLE_SPACE = float(2**64)
_SALT_CHARS = 16
_SALT_ADVICE = (
    "make one with `python -c 'import secrets; print(secrets.token_urlsafe(32))'` and keep it secret, "
    "or set unkeyed = true for a hash that anyone can recompute"
)


def _not_empty(_: Any, attribute: attrs.Attribute[Any], value: Sequence[Any]) -> None:
    if not all(value):
        raise ValueError(f"{attribute.name} holds an empty name: expected the names of context attributes")


def _long_enough(_: Any, __: attrs.Attribute[Any], salt: str | None) -> None:
    if salt is not None and len(salt) < _SALT_CHARS:
        raise ValueError(f"expected a salt of at least {_SALT_CHARS} characters: {_SALT_ADVICE}")


@attrs.frozen(kw_only=True)
class HashTargetingKey:
    """Options of ``hash_targeting_key``: targeting keys become hexadecimal digits of a keyed BLAKE2b (RFC 7693).

    Attributes:
        salt: The key of the hash, at least 16 characters. Keep it secret, and keep it: with another one, the same user
            counts as another.
        unkeyed: Hash without a key. A reader who guesses a targeting key can then recognise it.
        length: How many hexadecimal digits are kept. Of a million users, two share 16 digits with a probability of
            3e-8, and 32 digits never.
    """

    salt: str | None = attrs.field(
        default=None, repr=False, validator=_long_enough, metadata={"secret": True, "discreet_validator": True}
    )
    unkeyed: bool = False
    length: int = attrs.field(default=32, validator=[attrs.validators.ge(16), attrs.validators.le(64)])

    def __attrs_post_init__(self) -> None:
        if self.salt is None and not self.unkeyed:
            raise ValueError(f"a salt is required: {_SALT_ADVICE}")
        if self.salt is not None and self.unkeyed:
            raise ValueError("expected a salt, or unkeyed = true, and not both")


@attrs.frozen(kw_only=True)
class Redact:
    """Options of ``redact``: context attributes, and the value, are removed.

    Attributes:
        attributes: Names of context attributes; dots lead into nested tables (``address.street``) and through lists.
        value: Whether the flag's value is removed too, leaving None.
        replacement: Text in place of what is removed; by default the attribute is left out.
    """

    attributes: tuple[str, ...] = attrs.field(default=(), validator=_not_empty)
    value: bool = False
    replacement: str | None = None

    def __attrs_post_init__(self) -> None:
        if not self.attributes and not self.value:
            raise ValueError("it would remove nothing: expected attributes, or value = true")


@attrs.frozen(kw_only=True)
class Sample:
    """Options of ``sample``: only some events are kept, with ``sample_rate`` on them to count back.

    The same user is always in, or always out, for the same flag, in every process; an event without a targeting key
    is drawn by its own id. Errors are always kept: events with the reason ``ERROR`` or an ``error_type``.

    Attributes:
        rate: The ratio of events kept, above 0 and at most 1.
        flag_keys: The flags it is about; by default all.
    """

    rate: float = attrs.field(validator=[attrs.validators.gt(0), attrs.validators.le(1)])
    flag_keys: tuple[str, ...] = ()


def hash_targeting_key(options: HashTargetingKey) -> Processor:
    """Return the processor that replaces every targeting key by its hash."""
    # BLAKE2b takes a key of up to 64 bytes: a longer salt goes in as its own hash.
    salt = (options.salt or "").encode("utf-8", "surrogatepass")
    key = salt if len(salt) <= hashlib.blake2b.MAX_KEY_SIZE else hashlib.blake2b(salt).digest()
    length = options.length
    keyed = hashlib.blake2b(key=key, digest_size=(length + 1) // 2, person=b"targeting_key")

    def process(event: FlagEvaluationEvent) -> FlagEvaluationEvent:
        targeting_key = canonical_key(event.targeting_key)
        if not targeting_key:
            return event
        digest = keyed.copy()
        digest.update(targeting_key.encode())
        return msgspec.structs.replace(event, targeting_key=digest.hexdigest()[:length])

    return process


def redact(options: Redact) -> Processor:
    """Return the processor that removes context attributes."""
    paths = options.attributes

    def process(event: FlagEvaluationEvent) -> FlagEvaluationEvent:
        context: Any = event.context_attributes
        for path in paths:
            context = _without(context, path, options.replacement)
        if context is event.context_attributes and not options.value:
            return event
        value = options.replacement if options.value else event.value
        return msgspec.structs.replace(event, context_attributes=context, value=value)

    return process


def sample(options: Sample) -> Processor:
    """Return the processor that keeps some events and drops the others."""
    rate = options.rate
    flag_keys = frozenset(map(canonical_key, options.flag_keys))
    below = rate * _SAMPLE_SPACE

    def process(event: FlagEvaluationEvent) -> FlagEvaluationEvent | None:
        flag_key = canonical_key(event.flag_key)
        if flag_keys and flag_key not in flag_keys:
            return event
        if canonical_key(event.reason) == "ERROR" or canonical_key(event.error_type):
            return event
        # A key may be of any type, and its truth raise.
        unit = canonical_key(event.targeting_key) or canonical_key(event.event_id)
        # The length keeps ("ab", "c") apart from ("a", "bc").
        text = f"{len(flag_key)}:{flag_key}{unit}".encode()
        before: Any = event.sample_rate
        known = before if isinstance(before, int | float) and 0.0 < before <= 1.0 else 1.0
        if known != 1.0:  # drawn before: the same draw again would keep every event
            text += f" {known!r}".encode()
        drawn = int.from_bytes(hashlib.blake2b(text, digest_size=8, person=b"sample").digest(), "big")
        if drawn >= below:
            return None
        return msgspec.structs.replace(event, sample_rate=rate * known)

    return process


BUILT_IN: Mapping[str, ProcessorFactory[Any]] = {
    "hash_targeting_key": ProcessorFactory("hash_targeting_key", HashTargetingKey, hash_targeting_key),
    "deduplicate_exposures": ProcessorFactory("deduplicate_exposures", DeduplicateExposures, deduplicate_exposures),
    "only_providers": ProcessorFactory("only_providers", OnlyProviders, only_providers),
    "redact": ProcessorFactory("redact", Redact, redact),
    "sample": ProcessorFactory("sample", Sample, sample),
}
"""The processors that need no plugin, by their ``type``."""


def _without(node: Any, path: str, replacement: str | None, depth: int = MAX_DEPTH) -> Any:
    """Return ``node`` without the value at ``path``; changed parts are copies, the caller's objects stay as they are.

    Names are compared in canonical form, as they would be stored, whatever the keys are.
    """
    if depth < 0:
        return None  # the canonical form cuts off at this depth, too
    if isinstance(node, Enum):
        return _without(node.value, path, replacement, depth)
    if isinstance(node, list | tuple):
        return [_without(item, path, replacement, depth - 1) for item in node]
    if not isinstance(node, Mapping):
        return node
    changed = node.__class__ is not dict  # a foreign mapping may answer differently when it is read again
    kept = []
    for key, item in list(node.items()):  # in one step: another thread may be changing it
        name = canonical_member_name(key)
        if name == path:
            changed = True
            if replacement is not None:
                kept.append((key, replacement))
        elif path.startswith(f"{name}."):
            left = _without(item, path[len(name) + 1 :], replacement, depth - 1)
            changed = changed or left is not item
            kept.append((key, left))
        else:
            kept.append((key, item))
    return dict(kept) if changed else node
