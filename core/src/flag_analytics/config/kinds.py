"""The types that an option may have: how each is read, described and declared in a JSON Schema."""

from __future__ import annotations

import os
import re
import types
import typing
from collections import abc
from collections.abc import Callable, Mapping
from datetime import timedelta
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import attrs

from ..errors import PluginError

__all__ = ["ByteSize", "Scalar", "Url", "describe", "shape_of", "types_of"]

ByteSize = Annotated[int, "bytes"]
"""The type of an option that is a number of bytes: ``1024`` or ``"64 MiB"`` in a configuration."""
Url = Annotated[str, "URL"]
"""The type of an option that is a URL: text with a scheme."""

_QUANTITY = re.compile(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([A-Za-z]*)\s*")
_BYTES = {"": 1, "B": 1, "kB": 10**3, "MB": 10**6, "GB": 10**9, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}
_SECONDS = {"": 1, "ms": 0.001, "s": 1, "min": 60, "h": 3_600, "d": 86_400}
_TRUTH = {"true": True, "1": True, "false": False, "0": False}


@attrs.frozen
class Scalar:
    """A type without parts.

    Attributes:
        words: The expected value, for messages.
        schema: Its JSON Schema.
        read: Returns a value out of one as TOML has it; raises TypeError or ValueError for another one.
        read_text: Returns a value out of the text of an environment variable.
    """

    words: str
    schema: Mapping[str, Any]
    read: Callable[[Any], Any]
    read_text: Callable[[str], Any]


def _exactly(*accepted: type[Any], convert: Callable[[Any], Any] = lambda value: value) -> Callable[[Any], Any]:
    def read(value: Any) -> Any:
        if not isinstance(value, accepted) or (isinstance(value, bool) and bool not in accepted):
            raise TypeError
        return convert(value)

    return read


def _quantity(value: Any, units: Mapping[str, float]) -> float:
    if not isinstance(value, str):
        return _exactly(int, float)(value)  # type: ignore[no-any-return]
    match = _QUANTITY.fullmatch(value)
    if match is None:
        raise ValueError
    return float(match[1]) * units[match[2]]


def _duration(value: Any) -> timedelta:
    return value if isinstance(value, timedelta) else timedelta(seconds=_quantity(value, _SECONDS))


def _size(value: Any) -> int:
    size = _quantity(value, _BYTES)
    if size != int(size):
        raise ValueError
    return int(size)


def _url(value: Any) -> str:
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", value) is None:
        raise ValueError
    return str(value)


_SCALARS: Mapping[Any, Scalar] = {
    bool: Scalar("true or false", {"type": "boolean"}, _exactly(bool), lambda text: _TRUTH[text.lower()]),
    int: Scalar("an integer", {"type": "integer"}, _exactly(int), int),
    float: Scalar("a number", {"type": "number"}, _exactly(int, float, convert=float), float),
    str: Scalar("text", {"type": "string"}, _exactly(str), str),
    Path: Scalar("a path", {"type": "string"}, _exactly(str, os.PathLike, convert=Path), Path),
    Url: Scalar("a URL with its scheme", {"type": "string", "pattern": "://"}, _url, _url),
    timedelta: Scalar(
        'a duration in seconds, or as "500 ms", "5s", "10 min", "2h" or "7d"',
        {"type": ["number", "string"], "pattern": r"^\s*[0-9.]+\s*(ms|s|min|h|d)?\s*$"},
        _duration,
        _duration,
    ),
    ByteSize: Scalar(
        'a size in bytes, or as "64 MiB", "10 kB" or "1GB"',
        {"type": ["integer", "string"], "pattern": r"^\s*[0-9.]+\s*([kMG]?B|[KMG]iB)?\s*$"},
        _size,
        _size,
    ),
}

_ARRAYS: Mapping[Any, Callable[[list[Any]], Any]] = {
    **{kind: kind for kind in (list, tuple, set, frozenset)},
    **dict.fromkeys((abc.Sequence, abc.Collection, abc.Iterable), list),
    abc.Set: frozenset,
}


def types_of(options: type[Any]) -> Mapping[str, Any]:
    """Return the types of the fields of a class of options.

    Raises:
        PluginError: they cannot be read.
    """
    try:
        return typing.get_type_hints(options, include_extras=True)
    except Exception as error:
        problem = type(error).__name__
    raise PluginError(
        f"the types of {options.__module__}.{options.__qualname__} cannot be read ({problem}): "
        "import the names in them at run time too"
    )


def shape_of(kind: Any) -> tuple[str, Any]:
    """Return how a type is built: its form, and its parts.

    ``any``, ``scalar`` (its ``Scalar``), ``union`` (its members), ``choice`` (values by their form in configuration),
    ``array`` (container, types of its items, whether the last one repeats), ``table`` (type of its values), ``options``
    (an attrs class) or ``object`` (a class of the application).
    """
    kind = getattr(kind, "__value__", getattr(kind, "__supertype__", kind))
    origin, parts = get_origin(kind), get_args(kind)
    bare = origin or kind
    if kind is Any:
        return "any", None
    if kind in _SCALARS:
        return "scalar", _SCALARS[kind]
    if origin is Annotated:
        return shape_of(parts[0])
    if origin in {Union, types.UnionType}:
        return "union", parts
    if origin is Literal:
        return "choice", {choice: choice for choice in parts}
    if isinstance(kind, type) and issubclass(kind, Enum):
        return "choice", {member.value: member for member in kind}
    if bare in _ARRAYS:
        fixed = bare is tuple and parts[-1:] not in {(), (...,)}
        return "array", (_ARRAYS[bare], parts if fixed else parts[:1] or (Any,), not fixed)
    if bare in {dict, abc.Mapping, abc.MutableMapping}:
        return "table", parts[1] if parts else Any
    return ("options" if attrs.has(bare) else "object"), bare


def describe(kind: Any) -> str:
    """Return the expected value of this type, in words."""
    match shape_of(kind):
        case "scalar", scalar:
            return str(scalar.words)
        case "union", members:
            return " or ".join(describe(member) for member in members if member is not types.NoneType)
        case "choice", choices:
            return "one of " + ", ".join(map(repr, choices))
        case "array", (_, (item,), True) if item in {Any, object}:
            return "an array"
        case "array", (_, items, repeats):
            return "an array of " + ("items: " if repeats else f"{len(items)}: ") + ", ".join(map(describe, items))
        case "table" | "options", _:
            return "a table"
        case "any", _:
            return "anything"
        case _, bare:
            return str(getattr(bare, "__name__", bare))
