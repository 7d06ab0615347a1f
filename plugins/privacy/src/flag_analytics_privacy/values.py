"""The processors that change what an event says without looking for names: cut, coarsen, leave out, add."""

from __future__ import annotations

import ipaddress
import math
from collections.abc import Callable, Mapping
from typing import Any, Literal

import attrs
import msgspec
from flag_analytics.canonical import canonical_key
from flag_analytics.events import FlagEvaluationEvent
from flag_analytics.protocols import Processor

from .paths import Walk, on_attributes

__all__ = ["Bucket", "DropValue", "SetAttributes", "Truncate", "bucket", "drop_value", "set_attributes", "truncate"]


@attrs.frozen(kw_only=True)
class DropValue:
    """Options of ``drop_value``: the flag's value becomes None; the variant stays.

    Attributes:
        flag_keys: The flags it is about; by default all.
    """

    flag_keys: tuple[str, ...] = ()


@attrs.frozen(kw_only=True)
class Truncate:
    """Options of ``truncate``: texts in attributes, in the value and in error messages are cut.

    Attributes:
        max_chars: The most characters of one text.
    """

    max_chars: int = attrs.field(default=256, validator=attrs.validators.ge(1))


@attrs.frozen(kw_only=True)
class SetAttributes:
    """Options of ``set_attributes``: attributes are added to every event.

    Attributes:
        attributes: Their values, by name.
        overwrite: Whether they take the place of attributes that an event has already.
    """

    attributes: Mapping[str, str | bool | int | float] = attrs.field(validator=attrs.validators.min_len(1))
    overwrite: bool = True


@attrs.frozen(kw_only=True)
class Bucket:
    """Options of ``bucket``: an attribute becomes coarser. A value of another kind is left out.

    Attributes:
        attribute: The attribute's name.
        kind: ``number``: the lower end of its range of ``width``, as 34 is in 30; ``ip``: the network it is in.
        width: The width of a range of numbers.
        ipv4_prefix: How many bits are kept of an IPv4 address.
        ipv6_prefix: How many bits are kept of an IPv6 address.
    """

    attribute: str = attrs.field(validator=attrs.validators.min_len(1))
    kind: Literal["number", "ip"] = "number"
    width: float = attrs.field(default=10.0, validator=attrs.validators.gt(0))
    ipv4_prefix: int = attrs.field(default=24, validator=[attrs.validators.ge(0), attrs.validators.le(32)])
    ipv6_prefix: int = attrs.field(default=48, validator=[attrs.validators.ge(0), attrs.validators.le(128)])


def drop_value(options: DropValue) -> Processor:
    """Return the processor that leaves values out."""
    flag_keys = frozenset(map(canonical_key, options.flag_keys))

    def process(event: FlagEvaluationEvent) -> FlagEvaluationEvent:
        if flag_keys and canonical_key(event.flag_key) not in flag_keys:
            return event
        return msgspec.structs.replace(event, value=None)

    return process


def truncate(options: Truncate) -> Processor:
    """Return the processor that cuts texts."""
    most = options.max_chars

    def cut(node: Any, walk: Walk, depth: int) -> Any:
        members = walk.members(node, depth)
        if members is None:
            return node[:most] if type(node) is str else node
        if isinstance(members, dict):
            return {name: cut(item, walk, depth + 1) for name, item in list(members.items())}
        return [cut(item, walk, depth + 1) for item in members]

    def process(event: FlagEvaluationEvent) -> FlagEvaluationEvent:
        attributes = on_attributes(event, lambda node, walk: cut(node, walk, 0)) if event.context_attributes else {}
        # The value goes the same way, as if it were an attribute.
        carrier = msgspec.structs.replace(event, context_attributes={"value": event.value})
        value = on_attributes(carrier, lambda node, walk: cut(node, walk, 0)).get("value")
        message = event.error_message
        message = message[:most] if type(message) is str else None
        return msgspec.structs.replace(event, context_attributes=attributes, value=value, error_message=message)

    return process


def set_attributes(options: SetAttributes) -> Processor:
    """Return the processor that adds attributes."""
    added = dict(options.attributes)

    def process(event: FlagEvaluationEvent) -> FlagEvaluationEvent:
        before = _attributes(event)
        attributes = {**before, **added} if options.overwrite else {**added, **before}
        return msgspec.structs.replace(event, context_attributes=attributes)

    return process


def bucket(options: Bucket) -> Processor:
    """Return the processor that makes an attribute coarser."""
    name = options.attribute
    coarse = _network(options) if options.kind == "ip" else _range(options.width)

    def process(event: FlagEvaluationEvent) -> FlagEvaluationEvent:
        if not event.context_attributes:
            return event
        attributes = _attributes(event)
        if name not in attributes:
            return event
        value = coarse(attributes.pop(name))
        if value is not None:
            attributes[name] = value
        return msgspec.structs.replace(event, context_attributes=attributes)

    return process


def _attributes(event: FlagEvaluationEvent) -> dict[str, Any]:
    """Return a copy of the attributes, with names as they would be stored."""

    def copied(attributes: dict[str, Any], walk: Walk) -> dict[str, Any]:
        walk.members(attributes, 0)
        return dict(attributes)

    found: dict[str, Any] = on_attributes(event, copied)
    return found


def _range(width: float) -> Callable[[Any], Any]:
    def coarse(value: Any) -> Any:
        if type(value) is int:
            low = value // width * width if abs(value) < 2**53 else None
        elif type(value) is float and math.isfinite(value):
            low = math.floor(value / width) * width
        else:
            return None
        return int(low) if low is not None and width == int(width) else low

    return coarse


def _network(options: Bucket) -> Callable[[Any], Any]:
    def coarse(value: Any) -> Any:
        try:
            address = ipaddress.ip_address(value) if type(value) is str else None
        except ValueError:
            return None
        if address is None:
            return None
        if address.version == 4:
            return str(ipaddress.IPv4Network((int(address), options.ipv4_prefix), strict=False))
        return str(ipaddress.IPv6Network((int(address), options.ipv6_prefix), strict=False))

    return coarse
