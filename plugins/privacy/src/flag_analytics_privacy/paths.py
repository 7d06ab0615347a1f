"""Paths into the attributes of an event: ``email``, ``address.street``, ``friends.*.name``.

A path is names between dots; ``*`` stands for every name, and a list is entered without one. What is on the way must be
of Python's own types, with printable text as names. An event with anything else is brought into its canonical form
first, so that no spelling of a name escapes: the form in which it would be stored.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from flag_analytics.canonical import MAX_VALUES
from flag_analytics.events import FlagEvaluationEvent
from flag_analytics.freezer import Freezer

__all__ = [
    "ForeignValueError",
    "Path",
    "Walk",
    "on_attributes",
    "read_paths",
]

Path = tuple[str, ...]
_SCALARS = frozenset({str, bool, int, float, type(None)})
_LONGEST_NAMES = 4_096
_DEPTH = 8


class ForeignValueError(Exception):
    """A value on the way is not of Python's own types, or there is too much on the way."""


def read_paths(texts: Sequence[str]) -> tuple[Path, ...]:
    """Return the paths of their texts.

    Raises:
        ValueError: a text has an empty name.
    """
    paths = tuple(tuple(text.split(".")) for text in texts)
    if not all(map(all, paths)):
        raise ValueError("a path holds an empty name: expected names between dots, such as address.street or *.email")
    return paths


class Walk:
    """How far one event has been looked into: lists that contain one another would have no end.

    Args:
        canonical: Whether its attributes are in canonical form, and so bounded, of plain names and types.
    """

    def __init__(self, *, canonical: bool = False) -> None:
        self._canonical = canonical
        self._left = MAX_VALUES

    def start(self) -> None:
        """Begin another pass."""
        self._left = MAX_VALUES

    def members(self, node: Any, depth: int) -> dict[str, Any] | list[Any] | tuple[Any, ...] | None:
        """Return a table or list as it is, None for a value without members.

        Raises:
            ForeignValueError: it is of a type of its own or has such names, or there is too much on the way.
        """
        kind = type(node)
        if kind in _SCALARS:
            return None
        if kind is not dict and kind is not list and kind is not tuple:
            raise ForeignValueError
        if not self._canonical:
            self._left -= len(node) + 1
            if self._left < 0 or depth > _DEPTH or (kind is dict and not _plain_names(node)):
                raise ForeignValueError
        return node  # type: ignore[no-any-return]


def _plain_names(node: dict[Any, Any]) -> bool:
    """Return whether the names of a table are certainly as they would be stored."""
    if any(type(name) is not str for name in node):
        return False
    names = "".join(node)
    return names.isprintable() and len(names) <= _LONGEST_NAMES


def on_attributes(event: FlagEvaluationEvent, change: Callable[[dict[str, Any], Walk], dict[str, Any]]) -> Any:
    """Return what ``change`` makes of an event's attributes, or of their canonical form where they are foreign."""
    attributes: Any = event.context_attributes
    if type(attributes) is dict:
        try:
            return change(attributes, Walk())
        except (ForeignValueError, RuntimeError):
            pass  # RuntimeError: another thread changed it on the way
    return change(Freezer().freeze(event).context_attributes, Walk(canonical=True))
