"""The questions an event source answers, as SQL: one statement each, whatever the number of flags."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import datetime
from typing import Any

import attrs
import msgspec
from flag_analytics.metrics import DEFAULT_VARIANT
from flag_analytics.sources import EventFilter, Window
from sqlalchemy import (
    ARRAY,
    BigInteger,
    Double,
    Integer,
    Text,
    and_,
    case,
    cast,
    column,
    distinct,
    exists,
    func,
    literal,
    null,
    or_,
    select,
    true,
    tuple_,
    union_all,
)
from sqlalchemy.dialects import mysql
from sqlalchemy.dialects.postgresql import JSON, JSONB

from .rows import ALL_COLUMNS, micros
from .schema import KIND_CODES, Tables

__all__ = [
    "GROUPS",
    "LATENCY",
    "USERS",
    "activity_query",
    "conditions",
    "events_query",
    "future_query",
    "steps_query",
    "summary_query",
]

# SQLAlchemy types a statement by its columns, and not in the same way in 2.0 and 2.1.
Statement = Any

GROUPS, USERS, LATENCY = range(3)
"""What a row of ``summary_query`` tells of: its first column."""


def conditions(tables: Tables, family: str, window: Window | None, where: EventFilter | None) -> list[Any]:
    """Return the conditions of a window and a filter."""
    columns = tables.events.c
    found: list[Any] = []
    if window is not None:
        found.append(columns.timestamp <= micros(window.end))
        if window.start is not None:
            found.append(columns.timestamp >= micros(window.start))
    if where is None:
        return found
    kinds = sorted(KIND_CODES[kind] for kind in set(where.kinds) if kind in KIND_CODES)
    if kinds != sorted(KIND_CODES.values()):
        found.append(columns.kind.in_(kinds))
    if where.provider_name is not None:
        found.append(columns.provider_name == where.provider_name)
    if where.variant is not None:
        # An event without a variant counts as DEFAULT_VARIANT, and so does one with an empty variant.
        is_it = and_(columns.variant == where.variant, columns.variant != "")
        without = or_(columns.variant.is_(None), columns.variant == "")
        found.append(or_(is_it, without) if where.variant == DEFAULT_VARIANT else is_it)
    found += [_has_attribute(columns.context_attributes, family, *item) for item in where.required_context().items()]
    return found


def summary_query(
    tables: Tables,
    family: str,
    flag_keys: Sequence[str],
    window: Window,
    parts: frozenset[str],
    percentiles: Sequence[float],
    where: EventFilter,
) -> Any:
    """Return one statement for everything asked about these flags, so that all of it is of the same moment.

    Its rows are (what, flag key, variant, reason, count or rank, first time or how many, duration, percentiles):

    - ``GROUPS``: how many events have this variant and this reason, and since when;
    - ``USERS``: how many distinct users;
    - ``LATENCY``: on PostgreSQL the percentiles themselves; elsewhere durations by their rank (from 0) among so many,
      as far as the percentiles lie between them.
    """
    asked = _Asked.of(tables, family, flag_keys, conditions(tables, family, window, where))
    arms = [_groups(asked, parts)]
    if "users" in parts:
        arms.append(_users(asked))
    if "latency" in parts and percentiles:
        arms.append(_latency(asked, [percent / 100 for percent in percentiles]))
    return union_all(*arms) if len(arms) > 1 else arms[0]


@attrs.frozen
class _Asked:
    """What the arms of a summary have in common.

    For one flag, the key is a constant in every arm: grouping by it as well takes up to five times as long, because
    the database then sorts or hashes two columns, or gives up a faster way to count.
    """

    columns: Any
    family: str
    flag_key: Any
    grouped_by_flag: list[Any]
    mine: Any

    @classmethod
    def of(cls, tables: Tables, family: str, flag_keys: Sequence[str], others: Sequence[Any]) -> _Asked:
        columns = tables.events.c
        if len(flag_keys) == 1:
            return cls(
                columns, family, literal(flag_keys[0], Text), [], and_(columns.flag_key == flag_keys[0], *others)
            )
        key = columns.flag_key
        return cls(columns, family, key, [key], and_(key.in_(flag_keys), *others))

    def row(
        self,
        what: int,
        *,
        flag_key: Any = None,
        variant: Any = None,
        reason: Any = None,
        count: Any = None,
        number: Any = None,
        duration: Any = None,
        percentiles: Any = None,
    ) -> list[Any]:
        """Return the columns of one arm of the union."""
        return [
            literal(what, Integer, literal_execute=True).label("what"),
            (self.flag_key if flag_key is None else flag_key).label("flag_key"),
            self._or_null(variant, Text).label("variant"),
            self._or_null(reason, Text).label("reason"),
            self._or_null(count, BigInteger).label("tally"),
            self._or_null(number, BigInteger).label("number"),
            self._or_null(duration, Double).label("duration"),
            self._or_null(percentiles, ARRAY(Double)).label("percentiles"),
        ]

    def _or_null(self, column: Any, kind: Any) -> Any:
        if column is not None:
            return column
        # PostgreSQL must be told what a null in a union is of.
        return cast(null(), kind) if self.family == "postgresql" else null()


def _groups(asked: _Asked, parts: frozenset[str]) -> Statement:
    columns = asked.columns
    variant = columns.variant if "variants" in parts else None
    reason = columns.reason if parts & {"reasons", "errors"} else None
    dimensions = [*asked.grouped_by_flag, *(column for column in (variant, reason) if column is not None)]
    row = asked.row(GROUPS, variant=variant, reason=reason, count=func.count(), number=func.min(columns.timestamp))
    return select(*row).where(asked.mine).group_by(*dimensions)


def _users(asked: _Asked) -> Statement:
    user = asked.columns.targeting_key
    mine = and_(asked.mine, user != "")
    if asked.family == "mysql" and not asked.grouped_by_flag:
        return select(*asked.row(USERS, count=func.count(distinct(user)))).where(mine)
    # Distinct first, then counted: the other databases hash or sort that faster than count(distinct …).
    users = select(*asked.grouped_by_flag, user).where(mine).group_by(*asked.grouped_by_flag, user).subquery("users")
    keys = [users.c.flag_key] if asked.grouped_by_flag else []
    row = asked.row(USERS, flag_key=keys[0] if keys else None, count=func.count())
    return select(*row).select_from(users).group_by(*keys)


def _latency(asked: _Asked, ratios: Sequence[float]) -> Statement:
    duration = asked.columns.evaluation_duration_ms
    measured = and_(asked.mine, duration > 0)
    if asked.family == "postgresql":
        at = func.percentile_cont(cast(literal(ratios, ARRAY(Double)), ARRAY(Double))).within_group(duration)
        return select(*asked.row(LATENCY, percentiles=at)).where(measured).group_by(*asked.grouped_by_flag)
    parted: dict[str, Any] = {"partition_by": asked.grouped_by_flag} if asked.grouped_by_flag else {}
    if asked.family == "sqlite":
        return _latency_by_place(asked, measured, ratios, parted)
    ranked = (
        select(
            *asked.grouped_by_flag,
            duration.label("duration"),
            (func.row_number().over(order_by=duration, **parted) - 1).label("place"),
            func.count().over(**parted).label("measured"),
        )
        .where(measured)
        .subquery("ranked")
    )
    place, count = ranked.c.place, ranked.c.measured
    wanted = []
    for ratio in ratios:
        position = literal(ratio, Double) * (count - 1)
        wanted.append(and_(place >= position - 1, place <= position + 1))
    flag_key = ranked.c.flag_key if asked.grouped_by_flag else None
    row = asked.row(LATENCY, flag_key=flag_key, count=place, number=count, duration=ranked.c.duration)
    return select(*row).where(or_(*wanted))


def _latency_by_place(asked: _Asked, measured: Any, ratios: Sequence[float], parted: dict[str, Any]) -> Statement:
    """Count first, then look each place up in the few that are wanted: SQLite evaluates nothing else for a row."""
    duration = asked.columns.evaluation_duration_ms
    ranked = (
        select(
            *asked.grouped_by_flag,
            duration.label("duration"),
            (func.row_number().over(order_by=duration, **parted) - 1).label("place"),
        )
        .where(measured)
        .subquery("ranked")
    )
    counted = select(*asked.grouped_by_flag, func.count().label("many")).where(measured)
    many = counted.group_by(*asked.grouped_by_flag).cte("measured")
    # One parameter, since SQLite limits the terms of a union and the depth of an expression. It may read a ratio's
    # last digit in another way than Python did: the nearest place and its neighbours are the right ones all the same.
    ratio = _members("ratio", _json(ratios))
    beside = _members("beside", "[-1, 0, 1]")
    place = cast(ratio.c.value * (many.c.many - 1) + 0.5, Integer) + beside.c.value
    flag_key: Any = None
    found: Any = ranked.c.place
    wanted, count = select(place), select(many.c.many)
    if asked.grouped_by_flag:
        flag_key = ranked.c.flag_key
        found = tuple_(flag_key, ranked.c.place)
        wanted, count = select(many.c.flag_key, place), count.where(many.c.flag_key == flag_key)
    row = asked.row(
        LATENCY, flag_key=flag_key, count=ranked.c.place, number=count.scalar_subquery(), duration=ranked.c.duration
    )
    return select(*row).where(found.in_(wanted.select_from(many).join(ratio, true()).join(beside, true())))


def _members(name: str, array: str) -> Any:
    """Return a JSON array of numbers as a table, on SQLite."""
    return func.json_each(array).table_valued(column("value", Double), name=name)


def activity_query(tables: Tables, family: str, window: Window, where: EventFilter) -> Statement:
    """Return the statement for (flag key, count, first time, last time) of every flag in the window."""
    columns = tables.events.c
    return (
        select(columns.flag_key, func.count(), func.min(columns.timestamp), func.max(columns.timestamp))
        .where(*conditions(tables, family, window, where))
        .group_by(columns.flag_key)
    )


def steps_query(
    tables: Tables, family: str, flag_key: str, window: Window, step: int, last: int, where: EventFilter
) -> Statement:
    """Return the statement for (number, count, errors, users) of every step of ``step`` microseconds with events."""
    columns = tables.events.c
    assert window.start is not None
    since = columns.timestamp - micros(window.start)
    # Integer division: MySQL's own, since its / gives a rounded decimal.
    division = "DIV" if family == "mysql" else "/"
    number = since.op(division, precedence=_AS_DIVISION, return_type=BigInteger())(_whole(step))
    events = (
        select(
            case((number > last, _whole(last)), else_=number).label("step"),
            columns.reason,
            columns.targeting_key,
        )
        .where(columns.flag_key == flag_key, *conditions(tables, family, window, where))
        .subquery("events")
    )
    return select(
        events.c.step,
        func.count(),
        func.sum(case((events.c.reason == "ERROR", 1), else_=0)),
        func.count(distinct(func.nullif(events.c.targeting_key, ""))),
    ).group_by(events.c.step)


def future_query(tables: Tables, now: datetime) -> Statement:
    """Return the statement that counts events dated after ``now``."""
    return select(func.count()).select_from(tables.events).where(tables.events.c.timestamp > micros(now))


def events_query(tables: Tables, family: str) -> Statement:
    """Return the statement for whole events, with the columns of ``rows.event_from``."""
    columns: list[Any] = [tables.events.c[name] for name in ALL_COLUMNS]
    if family == "postgresql":
        # As text: some drivers would decode json themselves.
        columns = [
            cast(column, Text).label(column.name) if column.name in _JSON_COLUMNS else column for column in columns
        ]
    return select(*columns)


_JSON_COLUMNS = frozenset({"value", "context_attributes"})


_EXACT = 2**53
"""Up to here every integer is a float as well, written with all of its digits."""
_AS_DIVISION = 8
"""SQLAlchemy's precedence of division: what is divided gets its parentheses."""


def _whole(number: int) -> Any:
    return literal(number, BigInteger)


def _has_attribute(context: Any, family: str, name: str, wanted: Any) -> Any:
    """Return the condition that the context has this attribute with this value, compared as JSON."""
    if family == "postgresql":
        return _has_attribute_postgresql(context, name, wanted)
    if family == "sqlite":
        return _has_attribute_sqlite(context, name, wanted)
    return _has_attribute_mysql(context, name, wanted)


def _has_attribute_postgresql(context: Any, name: str, wanted: Any) -> Any:
    found = cast(context, JSONB).op("->")(literal(name, Text))

    def equals(value: Any) -> Any:
        return found.op("=", is_comparison=True)(cast(literal(_json(value), Text), JSONB))

    if not isinstance(wanted, int | float) or abs(wanted) <= _EXACT:
        return equals(wanted)
    # A float that large is written with the digits that tell it from other floats, and with zeros after them. jsonb
    # takes those for the number, and forgets that it was a float: the text as it was written has to tell.
    is_float = cast(context, JSON).op("->>", return_type=Text())(literal(name, Text)).regexp_match("[.eE]")
    as_float, as_integer = _forms(wanted)
    forms = [and_(is_float, equals(as_float))] if as_float is not None else []
    if as_integer is not None:
        forms.append(and_(~is_float, equals(as_integer)))
    return or_(*forms)


def _has_attribute_sqlite(context: Any, name: str, wanted: Any) -> Any:
    # A path cannot hold every name; the members of the document can be compared with any.
    member = func.json_each(context).table_valued("key", "type", "atom", "value", name="member")
    if wanted is None or isinstance(wanted, bool):
        matches = [member.c.type == _json(wanted)]
    elif isinstance(wanted, str):
        matches = [member.c.type == "text", member.c.atom == literal(wanted, Text)]
    elif isinstance(wanted, int | float):
        # As Python does, SQLite compares an integer and a float by their exact values.
        matches = [member.c.type.in_(("integer", "real")), member.c.atom == literal(wanted)]
    else:
        matches = [member.c.value == _json(wanted)]
    return exists(select(literal(1)).select_from(member).where(member.c.key == name, *matches))


def _has_attribute_mysql(context: Any, name: str, wanted: Any) -> Any:
    found = _member_mysql(context, name)
    kind = func.json_type(found)
    value = func.json_unquote(found)
    if wanted is None:
        return kind == "NULL"
    if isinstance(wanted, bool):
        return and_(kind == "BOOLEAN", value == _json(wanted))
    if isinstance(wanted, str):
        return and_(kind == "STRING", _bytes(value) == _bytes(literal(wanted, Text)))
    if not isinstance(wanted, int | float):
        return _bytes(value) == _bytes(literal(_json(wanted), Text))
    # MariaDB calls 1e300 an integer, so the number's own form has to tell.
    numeric = kind.in_(("INTEGER", "UNSIGNED INTEGER", "DOUBLE", "DECIMAL"))
    is_float = value.regexp_match("[.eE]")
    as_float, as_integer = _forms(wanted)
    forms = [and_(is_float, cast(value, Double) == literal(as_float, Double))] if as_float is not None else []
    if as_integer is not None:
        forms.append(and_(~is_float, value == str(as_integer)))
    return and_(numeric, or_(*forms))


def _member_mysql(context: Any, name: str) -> Any:
    """Return the JSON of a member of the document, or null without one."""
    if not name.startswith("-"):
        # In a path a name is written as in JSON itself.
        return func.json_extract(context, f"$.{_json(name)}")
    # MariaDB takes a path for wrong if a name begins with a hyphen, however it is quoted. The names of a document and
    # its values come in the same order, so that the place of a name is that of its value: right, but slower.
    pattern = re.sub(r"([\\%_])", r"\\\1", name)
    place = func.json_unquote(func.json_search(func.json_keys(context), "one", pattern))
    return func.json_extract(func.json_extract(context, "$.*"), place)


def _forms(number: float) -> tuple[float | None, int | None]:
    """Return the float and the integer that equal the number, exactly as Python compares them; None without one."""
    as_float = float(number)
    return as_float if as_float == number else None, int(number) if number == int(number) else None


def _bytes(value: Any) -> Any:
    return cast(value, mysql.BINARY)


def _json(value: Any) -> str:
    return msgspec.json.encode(value).decode()
