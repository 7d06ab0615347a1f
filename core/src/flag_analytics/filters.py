"""Filters in the canonical form of events, and the events that pass them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from collections.abc import Set as AbstractSet
from datetime import UTC, datetime
from typing import Any

import attrs

from .canonical import canonical_key
from .events import EvaluationReason, FlagEvaluationEvent
from .freezer import Freezer
from .sources import EventFilter, OneOf, Window

__all__ = ["DEFAULT_VARIANT", "canonical_filter", "same_json", "select"]

DEFAULT_VARIANT = "default"
"""The variant that an event without one counts as, in distributions and in filters."""

_BEGINNING = datetime.min.replace(tzinfo=UTC)
_ANYTHING = EventFilter()


def canonical_filter(where: EventFilter | None) -> EventFilter:
    """Return the filter in the canonical form of events, so that an event is found by the value it was recorded with.

    Raises:
        TypeError: a list stands where a text or a set of texts is expected.
    """
    if where is None or where == _ANYTHING:
        return _ANYTHING
    context, satisfiable = _canonical_context(where.required_context())
    texts = {
        name: _canonical_texts(name, wanted)
        for name in ("provider_name", "variant", "reasons", "flag_version", "flag_set_id", "targeting_key")
        if (wanted := getattr(where, name)) is not None
    }
    if "variant" in texts:
        texts["variant"] = _with_default(texts["variant"])
    environment: Any = None if where.environment is None else context.get("environment")
    kinds = where.kinds if satisfiable and all(texts[name] != frozenset() for name in texts) else ()
    return attrs.evolve(where, environment=environment, context=context, kinds=kinds, **texts)


def _canonical_texts(name: str, wanted: Any) -> str | frozenset[str]:
    if isinstance(wanted, list | tuple):
        raise TypeError(f"EventFilter.{name} is a {type(wanted).__name__}: expected a text or a set of texts")
    return frozenset(map(canonical_key, wanted)) if isinstance(wanted, AbstractSet) else canonical_key(wanted)


def _with_default(wanted: Any) -> Any:
    if isinstance(wanted, frozenset):
        return frozenset({variant or DEFAULT_VARIANT for variant in wanted})
    return wanted or DEFAULT_VARIANT


def _canonical_context(wanted: Mapping[str, Any]) -> tuple[dict[str, Any], bool]:
    """Return the context in canonical form, and whether an event can have all of it."""
    choices = {name: value for name, value in wanted.items() if isinstance(value, AbstractSet | OneOf)}
    single = {name: value for name, value in wanted.items() if name not in choices}
    found = _as_stored(single)
    satisfiable = True
    if len(found) < len(single):
        # Too large as a whole, it lost some attributes, and events without them would pass: each goes alone.
        alone = [_as_stored({name: value}) for name, value in single.items()]
        found = {name: value for attribute in alone for name, value in attribute.items()}
        satisfiable = all(alone)  # what cannot be stored, no event has
    for name, choice in choices.items():
        values: Collection[Any] = choice.values if isinstance(choice, OneOf) else choice
        stored = [attribute for value in values if (attribute := _as_stored({name: value}))]
        satisfiable = satisfiable and bool(stored)
        for attribute in stored[:1]:
            found[next(iter(attribute))] = OneOf(tuple(value for one in stored for value in one.values()))
    return found, satisfiable


def _as_stored(context: Mapping[str, Any]) -> dict[str, Any]:
    # The context that is wanted goes the way of every event's own: what changes there changes here.
    probe = FlagEvaluationEvent(_BEGINNING, "", None, EvaluationReason.UNKNOWN, context_attributes=dict(context))
    return Freezer().freeze(probe).context_attributes


def select(events: Iterable[Any], window: Window, where: EventFilter | None = None) -> list[Any]:
    """Return the events that happened in the window and pass the filter, which is in canonical form, in their order."""
    where = where or _ANYTHING
    start = window.start or _BEGINNING
    end = window.end
    kinds = frozenset(where.kinds)
    found = [event for event in events if start <= event.timestamp <= end and event.kind in kinds]
    for field, texts in where.required_texts().items():
        found = [event for event in found if _text(event, field) in texts]
    tests = [(name, _test(wanted)) for name, wanted in where.required_context().items()]
    return [event for event in found if _passes(event.context_attributes, tests)] if tests else found


def _text(event: Any, field: str) -> Any:
    text = getattr(event, field)
    return text or DEFAULT_VARIANT if field == "variant" else text


def _passes(context: Mapping[str, Any], tests: Iterable[tuple[str, Callable[[Any], bool]]]) -> bool:
    return all(name in context and test(context[name]) for name, test in tests)


def _test(wanted: Any) -> Callable[[Any], bool]:
    values = wanted.values if isinstance(wanted, OneOf) else (wanted,)
    return lambda found: any(same_json(found, value) for value in values)


def same_json(one: Any, other: Any) -> bool:
    """Return whether two values are equal as JSON, by the rules of ``EventFilter``."""
    if isinstance(one, bool) or isinstance(other, bool):  # in Python true is 1
        return one is other
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(same_json(value, other[name]) for name, value in one.items())
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(same_json, one, other))
    return bool(one == other)
