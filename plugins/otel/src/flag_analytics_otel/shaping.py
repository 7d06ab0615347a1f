"""The options by which users change spans and log records: attributes added, left out, or all of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal

import attrs
from flag_analytics.frozen import FrozenEvent

from .attributes import checked_text, checked_value, required_last
from .tally import Tally

__all__ = ["AttributeMapper", "EventMutator", "Shape", "Telemetry"]


@attrs.define
class Telemetry:
    """One span or log record about to be emitted; an event mutator may change its name and attributes.

    ``attributes`` hold text, booleans, numbers and sequences of one of these; a log record's
    ``feature_flag.result.value`` also mappings.
    """

    signal: Literal["span", "log"] = attrs.field(on_setattr=attrs.setters.frozen)
    name: str
    attributes: dict[str, Any]
    event: FrozenEvent = attrs.field(on_setattr=attrs.setters.frozen)


AttributeMapper = Callable[[FrozenEvent], Mapping[str, Any]]
EventMutator = Callable[[Telemetry], Telemetry | None]

_VALUE_DEPTH = 10
"""Flag values in canonical form are at most 8 deep."""


@attrs.define
class Shape:
    """Applies the user's attribute options, in this order: mapper, exclude list, mutator.

    User code is guarded and its failures are counted in ``tally``: a mapper that raises adds nothing, an attribute the
    SDK could not take is left out, and a span or log record whose mutator raises is not emitted, since the mutator may
    have been there to remove something.
    """

    mapper: AttributeMapper | None
    exclude: frozenset[str]
    mutator: EventMutator | None
    tally: Tally

    def __call__(self, telemetry: Telemetry) -> Telemetry | None:
        """Return the telemetry to emit, or None for nothing."""
        if self.mapper is not None:
            self._map(telemetry)
            required_last(telemetry.attributes)
        for name in self.exclude:
            telemetry.attributes.pop(name, None)
        if self.mutator is None:
            return telemetry
        try:
            changed = self.mutator(telemetry)
            if changed is None:
                self.tally.add("dropped_by_mutator")
                return None
            return self._checked(changed, telemetry)
        except Exception:
            self.tally.add("mutator_failed")
            return None

    def _map(self, telemetry: Telemetry) -> None:
        assert self.mapper is not None
        try:
            for name, value in self.mapper(telemetry.event).items():
                self._set(telemetry.attributes, name, value)
        except Exception:
            self.tally.add("mapper_failed")

    def _checked(self, changed: Telemetry, original: Telemetry) -> Telemetry:
        """Return the mutator's result, with only such attributes as the SDK can take."""
        attributes: dict[str, Any] = {}
        for name, value in changed.attributes.items():
            self._set(attributes, name, value, depth=_VALUE_DEPTH if original.signal == "log" else 1)
        return Telemetry(original.signal, checked_text(changed.name), required_last(attributes), original.event)

    def _set(self, attributes: dict[str, Any], name: Any, value: Any, depth: int = 1) -> None:
        checked = checked_value(value, depth=depth)
        if checked is None or not isinstance(name, str) or not name:
            self.tally.add("attribute_refused")
        else:
            attributes[checked_text(name)] = checked
