"""LaunchDarkly's events: the array that an SDK sends, and each event of a streaming Data Export.

An event of kind ``feature`` is an evaluation, one of kind ``custom`` an outcome. The others describe contexts, repeat
evaluations for the debugger, or count them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .fields import Fields, given
from .skipping import Skipped

__all__ = ["PROVIDER", "adapt"]

PROVIDER = "LaunchDarkly"
_REASONS = {
    "OFF": "DISABLED",
    "FALLTHROUGH": "DEFAULT",
    "TARGET_MATCH": "TARGETING_MATCH",
    "RULE_MATCH": "TARGETING_MATCH",
    "PREREQUISITE_FAILED": "DEFAULT",
}
_INTERNAL = frozenset({"key", "kind", "anonymous", "_meta"})


def adapt(record: Mapping[str, Any]) -> Fields:
    """Return the fields of an event.

    Raises:
        Skipped: the event is about no single evaluation.
    """
    kind = record.get("kind")
    if kind != "feature" and kind != "custom":  # noqa: PLR1714  it may be anything
        raise Skipped(f"{kind} event" if isinstance(kind, str) else "event without a kind", _counted(record))
    user, context = _context(record)
    reason = record.get("reason")
    details = reason if isinstance(reason, Mapping) else {}
    name = str(details.get("kind") or "")
    others = {"error_type": details.get("errorKind"), "flag_version": record.get("version")}
    return Fields(
        record.get("creationDate"),
        record.get("key"),
        record.get("metricValue", record.get("data")) if kind == "custom" else record.get("value"),
        "SPLIT" if details.get("inExperiment") else _REASONS.get(name, name),
        record.get("variation"),
        user,
        context,
        {**given(others), "kind": "outcome" if kind == "custom" else "evaluation"},
    )


def _context(record: Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
    """Return the key and the attributes of the user, or of the first other kind of context."""
    keys = record.get("contextKeys")
    if isinstance(keys, Mapping) and keys:
        return keys.get("user", next(iter(keys.values()))), {}
    context = record.get("context") or record.get("user")
    if not isinstance(context, Mapping):
        return record.get("contextKey") or record.get("userKey"), {}
    if context.get("kind") == "multi":
        kinds = {name: part for name, part in context.items() if isinstance(part, Mapping)}
        context = kinds.get("user") or next(iter(kinds.values()), {})
    return context.get("key"), {name: value for name, value in context.items() if name not in _INTERNAL}


def _counted(record: Mapping[str, Any]) -> int:
    """Return how many evaluations a summary counts."""
    features = record.get("features")
    if not isinstance(features, Mapping):
        return 0
    counters = [
        counter
        for feature in features.values()
        if isinstance(feature, Mapping) and isinstance(feature.get("counters"), list)
        for counter in feature["counters"]
    ]
    counts = [counter.get("count") for counter in counters if isinstance(counter, Mapping)]
    return sum(count for count in counts if type(count) is int)
