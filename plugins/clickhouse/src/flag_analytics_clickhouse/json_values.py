"""Attributes of a context, which is JSON text, in SQL: equality by the rules of ``EventFilter``, and names of groups.

ClickHouse reads JSON by names and places exactly, but writes numbers in a form of its own (1.0 as 1), so that a text of
its own is compared only where there is no float in it. The text of a float, an array or an object as it was recorded is
cut out with a regular expression, which takes 30 times as long.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any

import msgspec
from flag_analytics.sources import NO_VALUE

from .parameters import Parameters

__all__ = ["attribute_name", "has_attribute"]

_DEEPEST = 9
"""The levels of a value: the canonical form has at most eight."""
_TEXT = r'"(?:[^"\\]|\\.)*"'
_I64, _U64 = -(2**63), 2**64
_CONTEXT = "context_attributes"


def has_attribute(parameters: Parameters, name: str, value: Any) -> str:
    """Return the condition that the context has an attribute that equals a value, which is in canonical form."""
    return " AND ".join(_equals(parameters, f"{_CONTEXT}, {parameters.text(name)}", value))


def _equals(parameters: Parameters, place: str, value: Any) -> Iterator[str]:
    """Yield conditions that together say that there is this value at a place: the arguments of the JSON functions."""
    if isinstance(value, str):
        yield f"JSONType({place}) = 'String' AND JSONExtractString({place}) = {parameters.text(value)}"
    elif isinstance(value, dict):
        yield f"JSONType({place}) = 'Object' AND JSONLength({place}) = {len(value)}"
        for name, member in value.items():
            yield from _equals(parameters, f"{place}, {parameters.text(name)}", member)
    elif isinstance(value, list):
        yield f"JSONType({place}) = 'Array' AND JSONLength({place}) = {len(value)}"
        for number, member in enumerate(value, start=1):
            yield from _equals(parameters, f"{place}, {number}", member)
    elif value is None or isinstance(value, bool):
        yield f"JSONExtractRaw({place}) = {parameters.text(as_json(value))}"
    else:
        yield _equals_number(parameters, place, value)


def _equals_number(parameters: Parameters, place: str, value: float) -> str:
    """Return the condition for a number: it may be written as an integer, and as a float of exactly its value."""
    ways = []
    if value == int(value) and _I64 <= int(value) < _U64:
        text = parameters.text(str(int(value)))
        ways.append(f"JSONType({place}) IN ('Int64', 'UInt64') AND JSONExtractRaw({place}) = {text}")
    if float(value) == value:
        # Its bits, since ClickHouse may read the last digit of a float in another way.
        (bits,) = struct.unpack("<q", struct.pack("<d", float(value)))
        number = f"reinterpretAsFloat64({parameters.whole(bits)})"
        ways.append(f"JSONType({place}) = 'Double' AND JSONExtractFloat({place}) = {number}")
    return f"({' OR '.join(ways)})" if ways else "false"


def attribute_name(parameters: Parameters, name: str) -> str:
    """Return the name of the group of an event by an attribute: see ``Grouping``."""
    place = f"{_CONTEXT}, {parameters.text(name)}"
    as_recorded = f"extract({_CONTEXT}, {parameters.text(_member(name))})"
    return (
        f"multiIf(JSONType({place}) = 'String', JSONExtractString({place}), "
        f"JSONType({place}) IN ('Double', 'Array', 'Object'), {as_recorded}, "
        f"JSONType({place}) = 'Null', '{NO_VALUE}', JSONExtractRaw({place}))"
    )


def _member(name: str) -> str:
    """Return the expression that finds the text of one member of an object in canonical form."""
    # A quantified class of characters for each level: since the text is JSON, brackets of both kinds match.
    nested = rf'[\[{{](?:[^"\[\]{{}}]|{_TEXT})*[\]}}]'
    for _ in range(_DEEPEST - 1):
        nested = rf'[\[{{](?:[^"\[\]{{}}]|{_TEXT}|{nested})*[\]}}]'
    value = rf'(?:[^"\[\]{{}},]+|{_TEXT}|{nested})'
    key = "".join(f"\\x{{{ord(character):x}}}" for character in as_json(name))
    return rf"^\{{(?:{_TEXT}:{value},)*{key}:({value})[,}}]"


def as_json(value: Any) -> str:
    """Return a value as JSON text."""
    return msgspec.json.encode(value).decode()
