"""``redact_attributes`` and ``allow_attributes``: which attributes of an event stay."""

from __future__ import annotations

from typing import Any

import attrs
import msgspec
from flag_analytics.events import FlagEvaluationEvent
from flag_analytics.protocols import Processor

from .paths import Path, Walk, on_attributes, read_paths

__all__ = ["AllowAttributes", "RedactAttributes", "allow_attributes", "redact_attributes"]

_NOTHING = object()
_MOST_LISTED = 50


def _readable(_: Any, __: attrs.Attribute[Any], texts: tuple[str, ...]) -> None:
    read_paths(texts)


@attrs.frozen(kw_only=True)
class RedactAttributes:
    """Options of ``redact_attributes``: attributes are removed, and the event says which.

    Attributes:
        attributes: Paths of attributes: names between dots (``address.street``), ``*`` for every name; lists are
            entered without one.
        replacement: Text in place of what is removed; by default the attribute is left out.
        listed_as: The attribute that lists the paths that were removed; empty for no list.
    """

    attributes: tuple[str, ...] = attrs.field(validator=[attrs.validators.min_len(1), _readable])
    replacement: str | None = None
    listed_as: str = "_redacted"


@attrs.frozen(kw_only=True)
class AllowAttributes:
    """Options of ``allow_attributes``: only the named attributes are kept.

    Attributes:
        attributes: Paths of attributes, as of ``redact_attributes``; one of a table keeps all of it. Empty keeps none.
    """

    attributes: tuple[str, ...] = attrs.field(validator=_readable)


def redact_attributes(options: RedactAttributes) -> Processor:
    """Return the processor that removes attributes."""
    paths = read_paths(options.attributes)
    replacement: Any = _NOTHING if options.replacement is None else options.replacement

    def change(attributes: dict[str, Any], walk: Walk) -> dict[str, Any]:
        found: dict[str, None] = {}
        changed: Any = attributes
        for path in paths:
            walk.start()
            changed = _without(changed, path, replacement, found, "", walk, 0)
        if found and options.listed_as:
            changed[options.listed_as] = list(found)[:_MOST_LISTED]
        return changed  # type: ignore[no-any-return]

    def process(event: FlagEvaluationEvent) -> FlagEvaluationEvent:
        if not event.context_attributes:
            return event
        attributes = on_attributes(event, change)
        if attributes is event.context_attributes:
            return event
        return msgspec.structs.replace(event, context_attributes=attributes)

    return process


def allow_attributes(options: AllowAttributes) -> Processor:
    """Return the processor that keeps the named attributes alone."""
    paths = read_paths(options.attributes)

    def change(attributes: dict[str, Any], walk: Walk) -> dict[str, Any]:
        kept: dict[str, Any] = _only(attributes, paths, walk, 0)
        return kept

    def process(event: FlagEvaluationEvent) -> FlagEvaluationEvent:
        if not event.context_attributes:
            return event
        return msgspec.structs.replace(event, context_attributes=on_attributes(event, change) if paths else {})

    return process


def _without(
    node: Any, path: Path, replacement: Any, found: dict[str, None], where: str, walk: Walk, depth: int
) -> Any:
    """Return ``node`` without what is at ``path``; changed parts are copies, the caller's objects stay as they are."""
    members = walk.members(node, depth)
    if members is None:
        return node
    if not isinstance(members, dict):
        items = [_without(item, path, replacement, found, where, walk, depth + 1) for item in members]
        return items if any(new is not old for new, old in zip(items, members, strict=True)) else node
    whole = ".".join(path)
    if path[0] == "*":
        names = list(members)
    else:
        names = [path[0]] if path[0] in members else []
    changed = None
    if len(path) > 1 and whole in members:  # a name with dots of its own
        names = [*names, whole]
    for name in names:
        if len(path) == 1 or name == whole:
            new = replacement
            found[where + name] = None
        else:
            new = _without(members[name], path[1:], replacement, found, f"{where}{name}.", walk, depth + 1)
            if new is members[name]:
                continue
        changed = dict(members) if changed is None else changed
        if new is _NOTHING:
            del changed[name]
        else:
            changed[name] = new
    return node if changed is None else changed


def _only(node: Any, paths: tuple[Path, ...], walk: Walk, depth: int) -> Any:
    """Return a copy of ``node`` with what is at the paths, and nothing else."""
    members = walk.members(node, depth)
    if members is None:
        return _NOTHING
    if not isinstance(members, dict):
        items = [_only(item, paths, walk, depth + 1) for item in members]
        return [item for item in items if item is not _NOTHING]
    kept = {}
    for name, item in list(members.items()):
        below = tuple(path[1:] for path in paths if path[0] in {name, "*"})
        if () in below or any(len(path) > 1 and ".".join(path) == name for path in paths):
            kept[name] = item
        elif below and (left := _only(item, below, walk, depth + 1)) is not _NOTHING:
            kept[name] = left
    return kept
