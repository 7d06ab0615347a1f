"""Shows classes on the site as they are used: defaults as values, members of enumerations, no private names.

Sphinx reads the source that attrs generates, and shows neither msgspec's factories nor members without a docstring;
napoleon takes the words before the first colon of an attribute's docstring for its type.
"""

from __future__ import annotations

import dataclasses
import enum
import inspect
import re
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import attrs
import msgspec
from sphinx.util.inspect import signature, stringify_signature

if TYPE_CHECKING:
    from sphinx.application import Sphinx

_PRIVATE_TYPE = re.compile(r"^:vartype (?P<field>\w+): (?P<module>[\w.]+)\.(?P<name>_\w+)$")
_NO_DEFAULT = (attrs.NOTHING, dataclasses.MISSING, msgspec.NODEFAULT)


@attrs.frozen(repr=False)
class _AsWritten:
    """A default that is shown as it is written in code."""

    text: str

    def __repr__(self) -> str:
        return self.text


def _signature(_: Sphinx, __: str, ___: str, thing: Any, *____: Any) -> tuple[str, str] | None:
    """Write the signature of a class whose constructor is generated; leave out that of one which is not called."""
    if not isinstance(thing, type):
        return None
    if issubclass(thing, enum.Enum) or getattr(thing, "_is_protocol", False):
        return "", ""
    fields = {name: (kind, default) for name, kind, default in _fields(thing)}
    if not fields or re.search(r"^    def __init__\(", inspect.getsource(thing), re.MULTILINE):
        return None
    made = signature(thing) if issubclass(thing, msgspec.Struct) else signature(thing.__init__, bound_method=True)
    parameters = [_shown(parameter, *fields[name]) for name, parameter in made.parameters.items()]
    shown = made.replace(parameters=parameters, return_annotation=inspect.Signature.empty)
    return stringify_signature(shown, unqualified_typehints=True), ""


def _fields(cls: type[Any]) -> Iterator[tuple[str, Any, Any]]:
    """Yield name, type and default (or one of ``_NO_DEFAULT``) of each field."""
    if attrs.has(cls):
        for field in attrs.fields(cls):
            made = isinstance(field.default, attrs.Factory)  # type: ignore[arg-type]
            yield field.alias, field.type, _made_by(field.default.factory) if made else field.default
    elif dataclasses.is_dataclass(cls):
        for item in dataclasses.fields(cls):
            yield item.name, item.type, _default_or_made(item)
    elif issubclass(cls, msgspec.Struct):
        for item in msgspec.structs.fields(cls):
            yield item.name, item.type, _default_or_made(item)


def _default_or_made(item: Any) -> Any:
    return item.default if item.default_factory in _NO_DEFAULT else _made_by(item.default_factory)


def _made_by(factory: Any) -> Any:
    """Return an empty container as it is, and for anything else the call that makes it."""
    made = factory()
    name = getattr(factory, "__name__", "")
    return made if made in ({}, [], set()) else _AsWritten(f"{name}()" if name.isidentifier() else "...")


def _shown(parameter: inspect.Parameter, kind: Any, default: Any) -> inspect.Parameter:
    if parameter.annotation is parameter.empty and kind is not None:  # a converter hides it
        parameter = parameter.replace(annotation=kind)
    if default in _NO_DEFAULT:
        return parameter
    return parameter.replace(default=_AsWritten("frozenset()") if default == frozenset() else default)


def _bases(_: Sphinx, __: str, ___: Any, ____: Any, bases: list[type]) -> None:
    """Name the bases of a private base in its place."""
    bases[:] = [shown for base in bases for shown in (base.__bases__ if base.__name__.startswith("_") else (base,))]


def _skip(_: Sphinx, __: str, ___: str, member: Any, *____: Any) -> bool | None:
    """Show the members of an enumeration, which need no docstring."""
    return False if isinstance(member, enum.Enum) else None


def _without_type(_: Sphinx, what: str, __: str, ___: Any, ____: Any, lines: list[str]) -> None:
    """Keep napoleon from reading a type out of a sentence: it looks at the first line, here an empty comment."""
    if what in {"attribute", "data", "property"}:
        lines[:0] = ["..", ""]


def _without_private_types(_: Sphinx, __: str, ___: str, ____: Any, _____: Any, lines: list[str]) -> None:
    """Write a private protocol that is called as the ``Callable`` it stands for."""
    for number, line in enumerate(lines):
        match = _PRIVATE_TYPE.match(line)
        if match is not None:
            call = inspect.signature(getattr(sys.modules[match["module"]], match["name"]).__call__, eval_str=True)
            takes = ", ".join(inspect.formatannotation(taken.annotation) for taken in [*call.parameters.values()][1:])
            gives = inspect.formatannotation(call.return_annotation)
            lines[number] = f":vartype {match['field']}: Callable[[{takes}], {gives}]"


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("autodoc-process-signature", _signature)
    app.connect("autodoc-process-bases", _bases)
    app.connect("autodoc-skip-member", _skip)
    app.connect("autodoc-process-docstring", _without_type, priority=400)  # before napoleon, which is at 500
    app.connect("autodoc-process-docstring", _without_private_types, priority=600)
    return {"parallel_read_safe": True}
