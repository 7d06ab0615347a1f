"""Reads what a class's docstring says of its attributes; shared by the documentation and its tests."""

from __future__ import annotations

import importlib.metadata
import inspect
import re
from collections.abc import Iterator
from typing import Any

import attrs
from flag_analytics.processors import BUILT_IN

__all__ = ["backends", "default_text", "described"]

_SECTION = re.compile(r"^(?:Attributes|Args):\n(?P<lines>(?:[ ]{4}.*\n|\n)+)", re.MULTILINE)
_ENTRY = re.compile(r"^(?P<names>\w+(?:, \w+)*):\s+(?P<text>.*?)(?=^\w+(?:, \w+)*:|\Z)", re.MULTILINE | re.DOTALL)


def described(cls: type[Any]) -> dict[str, str]:
    """Return what the ``Attributes:`` section of a docstring says, by attribute, each as one line."""
    section = _SECTION.search((inspect.getdoc(cls) or "") + "\n")
    if section is None:
        return {}
    lines = inspect.cleandoc(section["lines"]) + "\n"
    return {
        name: " ".join(entry["text"].split()) for entry in _ENTRY.finditer(lines) for name in entry["names"].split(", ")
    }


def default_text(field: attrs.Attribute[Any]) -> str:
    """Return an option's default as a reader would write it in TOML."""
    value = field.default
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
    if isinstance(value, tuple):
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
