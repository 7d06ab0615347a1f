"""The questions an event source answers, as SQL: one statement each, whatever the number of flags."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

import attrs
import msgspec
from flag_analytics.protocols import EventFilter, Window
from flag_analytics.summaries import DEFAULT_VARIANT
from sqlalchemy import (
    ARRAY,
    BigInteger,
    Double,
    Integer,
    Text,
    and_,
    case,
    cast,
    distinct,
    exists,
    func,
    literal,
    null,
    or_,
    select,
    union_all,
)
from sqlalchemy.dialects import mysql
from sqlalchemy.dialects.postgresql import JSONB

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
    if asked.family == "sqlite" and not asked.grouped_by_flag:
        return _latency_by_place(asked, measured, ratios)
    parted: dict[str, Any] = {"partition_by": asked.grouped_by_flag} if asked.grouped_by_flag else {}
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


def _latency_by_place(asked: _Asked, measured: Any, ratios: Sequence[float]) -> Statement:
    """Count first, then look each place up in the few that are wanted: SQLite evaluates nothing else for a row."""
    duration = asked.columns.evaluation_duration_ms
    ranked = (
        select(duration.label("duration"), (func.row_number().over(order_by=duration) - 1).label("place"))
        .where(measured)
        .subquery("ranked")
    )
    many = select(func.count().label("many")).where(measured).cte("measured")
    positions = [
        select(cast(literal(ratio, Double) * (many.c.many - 1), Integer) + beside)
        for ratio in ratios
        for beside in (0, 1)
    ]
    wanted = ranked.c.place.in_(union_all(*positions))
    count = select(many.c.many).scalar_subquery()
    return select(*asked.row(LATENCY, count=ranked.c.place, number=count, duration=ranked.c.duration)).where(wanted)


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


_AS_DIVISION = 8
"""SQLAlchemy's precedence of division: what is divided gets its parentheses."""


def _whole(number: int) -> Any:
    return literal(number, BigInteger)


def _has_attribute(context: Any, family: str, name: str, wanted: Any) -> Any:
    """Return the condition that the context has this attribute with this value, compared as JSON."""
    if family == "postgresql":
        document = cast(literal(_json(wanted), Text), JSONB)
        found = cast(context, JSONB).op("->")(literal(name, Text))
        return found.op("=", is_comparison=True)(document)
    if family == "sqlite":
        return _has_attribute_sqlite(context, name, wanted)
    return _has_attribute_mysql(context, name, wanted)


def _has_attribute_sqlite(context: Any, name: str, wanted: Any) -> Any:
    # A path cannot hold every name; the members of the document can be compared with any.
    member = func.json_each(context).table_valued("key", "type", "atom", "value", name="member")
    if wanted is None or isinstance(wanted, bool):
        matches = [member.c.type == _json(wanted)]
    elif isinstance(wanted, str):
        matches = [member.c.type == "text", member.c.atom == literal(wanted, Text)]
    elif isinstance(wanted, int | float):
        matches = [member.c.type.in_(("integer", "real")), member.c.atom == literal(wanted)]
    else:
        matches = [member.c.value == _json(wanted)]
    return exists(select(literal(1)).select_from(member).where(member.c.key == name, *matches))


def _has_attribute_mysql(context: Any, name: str, wanted: Any) -> Any:
    # In a path a name is written as in JSON itself, which can write every name.
    found = func.json_extract(context, f"$.{_json(name)}")
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
    has_fraction = value.regexp_match("[.eE]")
    same = and_(has_fraction, cast(value, Double) == literal(float(wanted), Double))
    if float(wanted).is_integer():
        same = or_(same, and_(~has_fraction, value == str(int(wanted))))
    return and_(numeric, same)


def _bytes(value: Any) -> Any:
    return cast(value, mysql.BINARY)


def _json(value: Any) -> str:
    return msgspec.json.encode(value).decode()
