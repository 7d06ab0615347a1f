"""Reads the descriptions of attributes from a class's docstring, for the documentation's tables and its tests."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import inspect
import typing
from collections.abc import Iterator
from typing import Any

import attrs
import msgspec
from flag_analytics.config.schema import described
from flag_analytics.processors import BUILT_IN

__all__ = ["backends", "described", "fields_of", "first_sentence"]


def first_sentence(thing: object) -> str:
    """Return the first paragraph of a docstring as one line."""
    return " ".join((inspect.getdoc(thing) or "").partition("\n\n")[0].split())


def fields_of(cls: type[Any]) -> Iterator[tuple[str, str, str]]:
    """Yield name, type and default of each field as text."""
    hints = typing.get_type_hints(cls)
    if attrs.has(cls):
        for field in attrs.fields(cls):
            if field.init:
                yield field.name, _type_text(field.type, hints[field.name]), _default_text(field.default)
    elif dataclasses.is_dataclass(cls):
        for member in dataclasses.fields(cls):
            missing = member.default is dataclasses.MISSING
            made = member.default_factory is not dataclasses.MISSING
            default = member.default_factory() if made else attrs.NOTHING if missing else member.default
            yield member.name, _type_text(member.type, hints[member.name]), _default_text(default)
    elif issubclass(cls, msgspec.Struct):
        written = {name: kind for base in reversed(cls.__mro__) for name, kind in inspect.get_annotations(base).items()}
        for item in msgspec.structs.fields(cls):
            missing = item.default is msgspec.NODEFAULT
            default = attrs.NOTHING if missing and item.default_factory is msgspec.NODEFAULT else item.default
            made = "made anew" if missing and default is not attrs.NOTHING else _default_text(default)
            yield item.name, _type_text(written[item.name], hints[item.name]), made
    else:
        for name in described(cls):
            (kind,) = typing.get_args(hints[name])  # of ClassVar
            yield name, _type_text(kind.__name__, kind), _default_text(vars(cls)[name])


def _type_text(written: Any, kind: Any) -> str:
    """Return a type as it is written in the class, or its allowed values if they are few."""
    choices = [part for part in (kind, *typing.get_args(kind)) if typing.get_origin(part) is typing.Literal]
    if choices:
        return ", ".join(f'`"{choice}"`' for choice in typing.get_args(choices[0]))
    return f"`{written}`" if isinstance(written, str) else f"`{inspect.formatannotation(written)}`"


def _default_text(value: Any) -> str:
    """Return a default as a reader would write it in TOML."""
    if value is attrs.NOTHING:
        return "required"
    if isinstance(value, attrs.Factory):  # type: ignore[arg-type]
        value = value.factory()
    if value is None:
        return "none"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if isinstance(value, int) and value >= 2**20 and value % 2**20 == 0:
        return f"`{value}` ({value // 2**20} MiB)"
    if isinstance(value, int):
        return f"`{value:_}`"
    if isinstance(value, tuple | frozenset):
        return f"`{list(value)}`"
    return f'`"{value}"`' if isinstance(value, str) else f"`{value}`"


def backends() -> Iterator[tuple[str, Any]]:
    """Yield each backend that core or an installed plugin registers, as ("collectors.memory", Backend)."""
    for name, processor in BUILT_IN.items():
        yield f"processors.{name}", processor
    for point in sorted(importlib.metadata.entry_points(group="flag_analytics")):
        module = point.load()
        for role in ("collectors", "exporters", "processors"):
            register = getattr(module, f"flag_analytics_register_{role}", None)
            for backend in register() if register is not None else ():
                yield f"{role}.{backend.name}", backend
