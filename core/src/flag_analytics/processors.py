"""The built-in processors: remove attributes, or sample, before any sink sees an event.

The one that hashes targeting keys is in ``pseudonyms``, those against repeated events are in ``repeats``.

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
from .pseudonyms import HashTargetingKey, hash_targeting_key
from .repeats import DeduplicateExposures, OnlyProviders, deduplicate_exposures, only_providers

__all__ = ["BUILT_IN", "Redact", "Sample", "redact", "sample"]

_SAMPLE_SPACE = float(2**64)


def _not_empty(_: Any, attribute: attrs.Attribute[Any], value: Sequence[Any]) -> None:
    if not all(value):
        raise ValueError(f"{attribute.name} holds an empty name: expected the names of context attributes")


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
