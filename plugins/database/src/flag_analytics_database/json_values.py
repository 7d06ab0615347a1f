"""JSON values in SQL, compared by the rules of ``EventFilter``, the same on every database."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import msgspec
from sqlalchemy import BigInteger, Boolean, Double, Text, and_, case, cast, exists, func, literal, or_, select
from sqlalchemy.dialects import mysql
from sqlalchemy.dialects.postgresql import ARRAY, JSON, JSONB
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement

__all__ = ["as_json", "attribute_text", "has_attribute"]

_EXACT = 2**53
"""Up to here every integer is a float as well, written with all of its digits."""


def has_attribute(context: Any, family: str, name: str, wanted: Any) -> Any:
    """Return the condition that the context has this attribute with this value, compared as JSON."""
    if family == "postgresql":
        return _equals_postgresql(_member_postgresql(context, name), wanted)
    if family == "sqlite":
        return _has_attribute_sqlite(context, name, wanted)
    return _equals_mysql(_member_mysql(context, name), wanted)


def attribute_text(context: Any, family: str, name: str) -> Any:
    """Return an attribute as text, or as its JSON where it is not a text; null without the attribute, or if it is null.

    MySQL and MariaDB give bytes, which compare as they are.
    """
    if family == "postgresql":
        return cast(context, JSON).op("->>", return_type=Text())(literal(name, Text)).collate("C")
    if family == "sqlite":
        return _attribute_text_sqlite(context, name)
    found = _member_mysql(context, name)
    return case((func.json_type(found) != "NULL", _bytes(func.json_unquote(_Compact(found)))))


def _has_large_number(value: Any) -> bool:
    """Return whether a value holds a number whose integer and float are written with different digits."""
    return any(isinstance(leaf, int | float) and abs(leaf) > _EXACT for leaf in _leaves(value))


def _leaves(value: Any) -> Iterator[Any]:
    if isinstance(value, dict | list):
        for member in value.values() if isinstance(value, dict) else value:
            yield from _leaves(member)
    else:
        yield value


def _forms(number: float) -> tuple[float | None, int | None]:
    """Return the float and the integer that equal the number, exactly as Python compares them; None without one."""
    as_float = float(number)
    return as_float if as_float == number else None, int(number) if number == int(number) else None


# --- PostgreSQL


def _member_postgresql(document: Any, member: str | int) -> Any:
    """Return a member as it is written: ``jsonb`` would forget that a number was a float."""
    key = literal(member, Text) if isinstance(member, str) else literal(member)
    return cast(document, JSON).op("->", return_type=JSON())(key)


def _equals_postgresql(found: Any, wanted: Any) -> Any:
    if not _has_large_number(wanted):
        return _same_jsonb(found, wanted)
    kind = func.json_typeof(found)
    if isinstance(wanted, list):
        members = [_equals_postgresql(_member_postgresql(found, at), each) for at, each in enumerate(wanted)]
        # Only a CASE keeps PostgreSQL from measuring a value that is not an array.
        length = case((kind == "array", func.json_array_length(found)))
        return and_(length == len(wanted), *members)
    if isinstance(wanted, dict):
        members = [_equals_postgresql(_member_postgresql(found, name), each) for name, each in wanted.items()]
        names = cast(literal(list(wanted), ARRAY(Text)), ARRAY(Text))
        rest = case((kind == "object", cast(found, JSONB).op("-", return_type=JSONB())(names)))
        return and_(_same_jsonb(rest, {}), *members)
    # A float that large is written with the digits that tell it from other floats, and with zeros after them. jsonb
    # takes those for the number: the text as it was written has to tell.
    is_float = func.coalesce(cast(found, Text).regexp_match("[.eE]"), False)
    as_float, as_integer = _forms(wanted)
    forms = [and_(is_float, _same_jsonb(found, as_float))] if as_float is not None else []
    if as_integer is not None:
        forms.append(and_(~is_float, _same_jsonb(found, as_integer)))
    return or_(*forms)


def _same_jsonb(found: Any, wanted: Any) -> Any:
    return cast(found, JSONB).op("=", is_comparison=True)(cast(literal(as_json(wanted), Text), JSONB))


# --- SQLite


def _has_attribute_sqlite(context: Any, name: str, wanted: Any) -> Any:
    # A path cannot hold every name; the members of the document can be compared with any.
    member = func.json_each(context).table_valued("key", "type", "atom", "value", name="member")
    if wanted is None or isinstance(wanted, bool):
        matches = [member.c.type == as_json(wanted)]
    elif isinstance(wanted, str):
        matches = [member.c.type == "text", member.c.atom == literal(wanted, Text)]
    elif isinstance(wanted, int | float):
        # As Python does, SQLite compares an integer and a float by their exact values.
        matches = [member.c.type.in_(("integer", "real")), member.c.atom == literal(wanted)]
    else:
        kind = "array" if isinstance(wanted, list) else "object"
        matches = [member.c.type == kind, _outline(member.c.value) == _outline(literal(as_json(wanted), Text))]
    return exists(select(literal(1)).select_from(member).where(member.c.key == name, *matches))


def _outline(document: Any) -> Any:
    """Return a text that is the same for equal documents: every node's path and value, in the order of the paths.

    A float that is whole is written as the integer; a path is unique, and holds names as they are escaped in JSON.
    """
    node = func.json_tree(document).table_valued("fullkey", "type", "atom", name="node")
    is_whole = and_(
        node.c.type == "real", node.c.atom == cast(node.c.atom, BigInteger), func.abs(node.c.atom) < 2.0**63
    )
    atom = case((is_whole, cast(node.c.atom, BigInteger)), else_=node.c.atom)
    kind = case((node.c.type == "real", "integer"), else_=node.c.type)
    line = node.c.fullkey.concat(" ").concat(kind).concat(" ").concat(func.quote(atom))
    lines = select(line.label("line")).select_from(node).order_by(node.c.fullkey).subquery("lines")
    return select(func.group_concat(lines.c.line, "\n")).select_from(lines).scalar_subquery()


_UNUSED = "flag_analytics.attribute"


def _attribute_text_sqlite(context: Any, name: str) -> Any:
    member = func.json_each(context).table_valued("key", "type", "value", name="attribute")
    # As it was written: SQLite would write a float with other digits.
    plain = name
    if '"' in name:  # which a path cannot hold in every release; a number is the same under another name
        plain = _UNUSED
        context = func.replace(context, f"{as_json(name)}:", f"{as_json(plain)}:")
    written = context.op("->", return_type=Text())(literal(f"$.{as_json(plain)}", Text))
    text = case(
        (member.c.type.in_(("true", "false")), member.c.type),
        (member.c.type == "real", written),
        else_=cast(member.c.value, Text),
    )
    is_it = and_(member.c.key == name, member.c.type != "null")
    return select(text).select_from(member).where(is_it).scalar_subquery()


# --- MySQL and MariaDB


def _member_mysql(document: Any, name: str) -> Any:
    """Return the JSON of a member of the document, or null without one."""
    if not name.startswith("-"):
        # In a path a name is written as in JSON itself.
        return func.json_extract(document, f"$.{as_json(name)}")
    # MariaDB takes a path for wrong if a name begins with a hyphen, however it is quoted. The names of a document and
    # its values come in the same order, so that the place of a name is that of its value: right, but slower.
    pattern = re.sub(r"([\\%_])", r"\\\1", name)
    place = func.json_unquote(func.json_search(func.json_keys(document), "one", pattern))
    return func.json_extract(func.json_extract(document, "$.*"), place)


def _equals_mysql(found: Any, wanted: Any) -> Any:
    kind = func.json_type(found)
    if isinstance(wanted, dict | list) and not _has_large_number(wanted):
        return _SameJson(found, literal(as_json(wanted), Text))
    if isinstance(wanted, list):
        members = [_equals_mysql(func.json_extract(found, f"$[{at}]"), each) for at, each in enumerate(wanted)]
        return and_(kind == "ARRAY", func.json_length(found) == len(wanted), *members)
    if isinstance(wanted, dict):
        members = [_equals_mysql(_member_mysql(found, name), each) for name, each in wanted.items()]
        return and_(kind == "OBJECT", func.json_length(found) == len(wanted), *members)
    value = func.json_unquote(found)
    if wanted is None:
        return kind == "NULL"
    if isinstance(wanted, bool):
        return and_(kind == "BOOLEAN", value == as_json(wanted))
    if isinstance(wanted, str):
        return and_(kind == "STRING", _bytes(value) == _bytes(literal(wanted, Text)))
    # MariaDB calls 1e300 an integer, so the number's own form has to tell.
    numeric = kind.in_(("INTEGER", "UNSIGNED INTEGER", "DOUBLE", "DECIMAL"))
    is_float = value.regexp_match("[.eE]")
    as_float, as_integer = _forms(wanted)
    forms = [and_(is_float, cast(value, Double) == literal(as_float, Double))] if as_float is not None else []
    if as_integer is not None:
        forms.append(and_(~is_float, value == str(as_integer)))
    return and_(numeric, or_(*forms))


class _SameJson(FunctionElement[bool]):
    """Whether two documents are equal as JSON."""

    type = Boolean()
    inherit_cache = True


@compiles(_SameJson, "mysql", "mariadb")
def _compile_same_json(same: _SameJson, compiler: Any, **options: Any) -> str:
    one, other = (compiler.process(clause, **options) for clause in same.clauses)
    if compiler.dialect.is_mariadb:
        return f"JSON_EQUALS({one}, {other})"
    return f"CAST({one} AS JSON) = CAST({other} AS JSON)"


class _Compact(FunctionElement[str]):
    """A JSON document without the spaces that MariaDB writes into it."""

    type = Text()
    inherit_cache = True


@compiles(_Compact, "mysql", "mariadb")
def _compile_compact(compact: _Compact, compiler: Any, **options: Any) -> str:
    (document,) = (compiler.process(clause, **options) for clause in compact.clauses)
    # As a text of no further meaning: JSON_UNQUOTE would write the spaces anew.
    return f"CONCAT(JSON_COMPACT({document}), '')" if compiler.dialect.is_mariadb else document


def _bytes(value: Any) -> Any:
    return cast(value, mysql.BINARY)


def as_json(value: Any) -> str:
    """Return a value as JSON text."""
    return msgspec.json.encode(value).decode()
