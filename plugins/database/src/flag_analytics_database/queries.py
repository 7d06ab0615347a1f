"""The questions of an event source as SQL: one statement each, whatever the number of flags.

A weight is written in millionths of an event, as in ``flag_analytics.weighting``. A *weighted* statement adds weights
up; a plain one counts rows, which is faster, and gives the least sample rate: only if that is below 1 a weighted one
is needed.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

import attrs
from flag_analytics.metrics import DEFAULT_VARIANT, MILLION
from flag_analytics.sources import NO_VALUE, OTHER_GROUP, EventFilter, Grouping, Window
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
    func,
    literal,
    literal_column,
    null,
    or_,
    select,
    true,
    tuple_,
    union_all,
)
from sqlalchemy.dialects import mysql
from sqlalchemy.sql.elements import BindParameter

from .conditions import conditions, one_of
from .json_values import as_json, attribute_text
from .rows import ALL_COLUMNS, micros
from .schema import TYPED_ERROR, Tables

__all__ = [
    "GROUPS",
    "LATENCY",
    "USERS",
    "VARIANT_USERS",
    "activity_query",
    "events_query",
    "exposures_query",
    "future_query",
    "steps_query",
    "summary_query",
]

# SQLAlchemy types a statement by its columns, and not in the same way in 2.0 and 2.1.
Statement = Any

GROUPS, USERS, VARIANT_USERS, LATENCY = range(4)
"""The kinds of rows of ``summary_query``: its first column."""


def summary_query(
    tables: Tables,
    family: str,
    flag_keys: Sequence[str],
    window: Window,
    parts: frozenset[str],
    percentiles: Sequence[float],
    where: EventFilter,
    group_by: Grouping | None = None,
    *,
    weighted: bool = False,
) -> Any:
    """Return one statement for everything asked about these flags, so that all of it is of the same moment.

    Its rows are (kind, flag key, group, variant, reason, count, number, weight, further weight, duration, percentiles).
    Weights are sums of weights where the statement is weighted, and numbers of rows otherwise:

    - ``GROUPS``: the events with this variant and reason: their count, first time, weight (or least sample rate), and
      the weight of those that have an ``error_type``;
    - ``USERS``: distinct users, and those with more than one variant;
    - ``VARIANT_USERS``: distinct users with this variant;
    - ``LATENCY``: plain, the percentiles themselves on PostgreSQL; elsewhere durations by their rank (the count, from
      0) among so many (the number), as far as the percentiles lie between them. Weighted, durations with the weight up
      to each, it included, the weight of all, and its own weight in place of the count.
    """
    others = conditions(tables, family, window, where)
    if group_by is None:
        asked = _Asked.of_flags(tables, family, flag_keys, others, weighted)
    else:
        asked = _Asked.of_groups(tables, family, flag_keys, others, weighted, group_by)
    arms = [_groups(asked, parts)]
    if "variant_users" in parts:
        arms += _users_by_variant(asked)
    elif "users" in parts:
        arms.append(_users(asked))
    if "latency" in parts and percentiles:
        ratios = [percent / 100 for percent in percentiles]
        arms.append(_weighted_latency(asked, ratios) if weighted else _latency(asked, ratios))
    return union_all(*arms) if len(arms) > 1 else arms[0]


@attrs.frozen
class _Asked:
    """The events asked about, and the columns that tell apart whose they are.

    Of one flag, the key is a constant in every arm: grouping by it as well takes up to five times as long, because the
    database then sorts or hashes two columns, or gives up a faster way to count.
    """

    columns: Any
    family: str
    mine: Any
    weighted: bool
    flag_key: Any
    group: Any = None

    @classmethod
    def of_flags(
        cls, tables: Tables, family: str, flag_keys: Sequence[str], others: Sequence[Any], weighted: bool
    ) -> _Asked:
        columns = tables.events.c
        mine = and_(one_of(columns.flag_key, family, flag_keys), *others)
        flag_key = literal(flag_keys[0], Text) if len(flag_keys) == 1 else columns.flag_key
        return cls(columns, family, mine, weighted, flag_key)

    @classmethod
    def of_groups(
        cls,
        tables: Tables,
        family: str,
        flag_keys: Sequence[str],
        others: Sequence[Any],
        weighted: bool,
        grouping: Grouping,
    ) -> _Asked:
        mine = and_(one_of(tables.events.c.flag_key, family, flag_keys), *others)
        named = _named(tables, family, grouping, mine, *_MEASURED)
        return cls(named.c, family, true(), weighted, named.c.flag_key, named.c.group_name)

    @property
    def keys(self) -> list[Any]:
        """The columns to group and to partition by."""
        found = [] if isinstance(self.flag_key, BindParameter) else [self.flag_key]
        return found if self.group is None else [*found, self.group]

    @property
    def typed(self) -> Any:
        """Whether an event has an ``error_type``."""
        return self.columns.typed == 1 if self.group is not None else _is_typed(self.columns, self.family)

    @property
    def parted(self) -> dict[str, Any]:
        return {"partition_by": self.keys} if self.keys else {}

    def over(self, events: Any) -> _Asked:
        """Return the same question over a subquery that has the columns of ``keys``."""
        keys = {key.name: events.c[key.name] for key in self.keys}
        return attrs.evolve(
            self,
            columns=events.c,
            mine=true(),
            flag_key=keys.get("flag_key", self.flag_key),
            group=keys.get("group_name"),
        )

    def row(
        self,
        kind: int,
        *,
        variant: Any = None,
        reason: Any = None,
        count: Any = None,
        number: Any = None,
        weight: Any = None,
        further: Any = None,
        duration: Any = None,
        percentiles: Any = None,
    ) -> list[Any]:
        """Return the columns of one arm of the union."""
        return [
            literal(kind, Integer, literal_execute=True).label("kind"),
            self.flag_key.label("flag_key"),
            self._or_null(self.group, Text).label("group_name"),
            self._or_null(variant, Text).label("variant"),
            self._or_null(reason, Text).label("reason"),
            self._or_null(count, BigInteger).label("tally"),
            self._or_null(number, BigInteger).label("number"),
            self._or_null(weight, Double).label("weight"),
            self._or_null(further, Double).label("further"),
            self._or_null(duration, Double).label("duration"),
            self._or_null(percentiles, ARRAY(Double)).label("percentiles"),
        ]

    def _or_null(self, column_: Any, kind: Any) -> Any:
        if column_ is not None:
            return column_
        # PostgreSQL must be told what a null in a union is of.
        return cast(null(), kind) if self.family == "postgresql" else null()


_MEASURED = (
    "timestamp",
    "variant",
    "reason",
    "targeting_key",
    "evaluation_duration_ms",
    "sample_rate",
)


def _is_typed(columns: Any, family: str) -> Any:
    return literal_column(TYPED_ERROR).is_not(None) if family == "mysql" else columns.error_type != ""


def _named(tables: Tables, family: str, grouping: Grouping, mine: Any, *names: str) -> Any:
    """Return the events with their ``group_name``, as a common table."""
    columns = tables.events.c
    label = _label(columns, family, grouping).label("label")
    kept = [columns[name] for name in names]
    typed = case((_is_typed(columns, family), 1)).label("typed")
    labelled = select(columns.flag_key, label, typed, *kept).where(mine).cte("labelled")
    counted = (
        select(labelled.c.flag_key, labelled.c.label, func.count().label("events"))
        .group_by(labelled.c.flag_key, labelled.c.label)
        .subquery("counted")
    )
    place = func.row_number().over(partition_by=counted.c.flag_key, order_by=[counted.c.events.desc(), counted.c.label])
    ranked = select(counted.c.flag_key, counted.c.label, place.label("place")).subquery("ranked_groups")
    largest = select(ranked.c.flag_key, ranked.c.label).where(ranked.c.place <= grouping.most).subquery("largest")
    is_mine = and_(largest.c.flag_key == labelled.c.flag_key, largest.c.label == labelled.c.label)
    name = func.coalesce(largest.c.label, _as_label(OTHER_GROUP, family)).label("group_name")
    return (
        select(labelled.c.flag_key, name, labelled.c.typed, *(labelled.c[each] for each in names))
        .select_from(labelled.outerjoin(largest, is_mine))
        .cte("named")
    )


def _label(columns: Any, family: str, grouping: Grouping) -> Any:
    if grouping.attribute is not None:
        text = attribute_text(columns.context_attributes, family, grouping.attribute)
        return func.coalesce(text, _as_label(NO_VALUE, family))
    if grouping.by == "variant":
        return _as_label(_variant(columns), family)
    if grouping.by == "reason":
        return _as_label(columns.reason, family)
    return _as_label(func.coalesce(func.nullif(columns.flag_version, ""), NO_VALUE), family)


def _as_label(text: Any, family: str) -> Any:
    """Return a text as it compares by its characters: on MySQL and MariaDB as bytes, whatever its collation is."""
    text = literal(text, Text) if isinstance(text, str) else text
    return cast(text, mysql.BINARY) if family == "mysql" else text


def _variant(columns: Any) -> Any:
    return func.coalesce(func.nullif(columns.variant, ""), DEFAULT_VARIANT)


def _weight(sample_rate: Any, family: str) -> Any:
    """Return the weight of an event, as ``metrics.weight_of`` does, as a float: sums of integers could overflow."""
    least = literal(1 / MILLION, Double)
    rate = case((sample_rate < least, least), else_=sample_rate)
    times = literal(float(MILLION), Double) / rate + literal(0.5, Double)
    if family == "sqlite":
        return cast(cast(times, BigInteger), Double)
    return func.floor(times, type_=Double)


def _groups(asked: _Asked, parts: frozenset[str]) -> Statement:
    columns = asked.columns
    variant = columns.variant if "variants" in parts else None
    reason = columns.reason if parts & {"reasons", "errors"} else None
    dimensions = [*asked.keys, *(column_ for column_ in (variant, reason) if column_ is not None)]
    typed = asked.typed
    weight: Any
    further: Any
    if asked.weighted:
        each = _weight(columns.sample_rate, asked.family)
        weight, further = func.sum(each), func.sum(case((typed, each)))
    else:
        weight, further = func.min(columns.sample_rate), func.count(case((typed, 1)))
    row = asked.row(
        GROUPS,
        variant=variant,
        reason=reason,
        count=func.count(),
        number=func.min(columns.timestamp),
        weight=weight,
        further=cast(further, Double) if "errors" in parts else None,
    )
    return select(*row).where(asked.mine).group_by(*dimensions)


def _users(asked: _Asked) -> Statement:
    user = asked.columns.targeting_key
    mine = and_(asked.mine, user != "")
    if asked.family == "mysql" and not asked.keys and not asked.weighted:
        return select(*asked.row(USERS, weight=func.count(distinct(user)))).where(mine)
    # Distinct first, then counted: the other databases hash or sort that faster than count(distinct …).
    rate = func.max(asked.columns.sample_rate).label("sample_rate")
    rates = [rate] if asked.weighted else []
    users = select(*asked.keys, *rates, user).where(mine).group_by(*asked.keys, user).subquery("users")
    over = asked.over(users)
    weight = func.sum(_weight(users.c.sample_rate, asked.family)) if asked.weighted else cast(func.count(), Double)
    return select(*over.row(USERS, weight=weight)).select_from(users).group_by(*over.keys)


def _users_by_variant(asked: _Asked) -> list[Statement]:
    """Return distinct users, by variant and in all, and those with more than one: from pairs of user and variant."""
    columns = asked.columns
    variant, user = _variant(columns).label("variant"), columns.targeting_key
    rates = [func.max(columns.sample_rate).label("sample_rate")] if asked.weighted else []
    pairs = (
        select(*asked.keys, variant, user, *rates)
        .where(asked.mine, user != "")
        .group_by(*asked.keys, variant, user)
        .cte("pairs")
    )
    over = asked.over(pairs)
    users: Any
    crossed: Any
    of_variant: Any
    if asked.weighted:
        weight = _weight(pairs.c.sample_rate, asked.family)
        # The highest rate decides whether a user is seen, and the second whether two variants are.
        place = func.row_number().over(
            partition_by=[*over.keys, pairs.c.targeting_key], order_by=pairs.c.sample_rate.desc()
        )
        people = select(*over.keys, weight.label("weight"), place.label("place")).subquery("people")
        each = people.c.weight
        users, crossed = func.sum(case((people.c.place == 1, each))), func.sum(case((people.c.place == 2, each)))
        of_variant = func.sum(weight)
    else:
        people = (
            select(*over.keys, func.count().label("variants"))
            .select_from(pairs)
            .group_by(*over.keys, pairs.c.targeting_key)
            .subquery("people")
        )
        users = cast(func.count(), Double)
        crossed = cast(func.count(case((people.c.variants > 1, 1))), Double)
        of_variant = cast(func.count(), Double)
    of_people = asked.over(people)
    return [
        select(*over.row(VARIANT_USERS, variant=pairs.c.variant, weight=of_variant))
        .select_from(pairs)
        .group_by(*over.keys, pairs.c.variant),
        select(*of_people.row(USERS, weight=users, further=crossed)).select_from(people).group_by(*of_people.keys),
    ]


def _latency(asked: _Asked, ratios: Sequence[float]) -> Statement:
    duration = asked.columns.evaluation_duration_ms
    measured = and_(asked.mine, duration > 0)
    if asked.family == "postgresql":
        at = func.percentile_cont(cast(literal(ratios, ARRAY(Double)), ARRAY(Double))).within_group(duration)
        return select(*asked.row(LATENCY, percentiles=at)).where(measured).group_by(*asked.keys)
    if asked.family == "sqlite":
        return _latency_by_place(asked, measured, ratios)
    ranked = (
        select(
            *asked.keys,
            duration.label("duration"),
            (func.row_number().over(order_by=duration, **asked.parted) - 1).label("place"),
            func.count().over(**asked.parted).label("measured"),
        )
        .where(measured)
        .subquery("ranked")
    )
    place, count = ranked.c.place, ranked.c.measured
    wanted = []
    for ratio in ratios:
        position = literal(ratio, Double) * (count - 1)
        wanted.append(and_(place >= position - 1, place <= position + 1))
    row = asked.over(ranked).row(LATENCY, count=place, number=count, duration=ranked.c.duration)
    return select(*row).where(or_(*wanted))


def _latency_by_place(asked: _Asked, measured: Any, ratios: Sequence[float]) -> Statement:
    """Count first, then look each place up in the few that are wanted: SQLite evaluates nothing else for a row."""
    duration = asked.columns.evaluation_duration_ms
    ranked = (
        select(
            *asked.keys,
            duration.label("duration"),
            (func.row_number().over(order_by=duration, **asked.parted) - 1).label("place"),
        )
        .where(measured)
        .subquery("ranked")
    )
    counted = select(*asked.keys, func.count().label("many")).where(measured)
    many = counted.group_by(*asked.keys).cte("measured")
    # One parameter, since SQLite limits the terms of a union and the depth of an expression. It may read a ratio's
    # last digit in another way than Python did: the nearest place and its neighbours are the right ones all the same.
    ratio = _members("ratio", as_json(ratios))
    beside = _members("beside", "[-1, 0, 1]")
    place = cast(ratio.c.value * (many.c.many - 1) + 0.5, Integer) + beside.c.value
    over = asked.over(ranked)
    mine = [many.c[key.name] == key for key in over.keys]
    found = tuple_(*over.keys, ranked.c.place) if over.keys else ranked.c.place
    wanted = select(*(many.c[key.name] for key in over.keys), place)
    count = select(many.c.many).where(*mine).scalar_subquery()
    row = over.row(LATENCY, count=ranked.c.place, number=count, duration=ranked.c.duration)
    return select(*row).where(found.in_(wanted.select_from(many).join(ratio, true()).join(beside, true())))


def _weighted_latency(asked: _Asked, ratios: Sequence[float]) -> Statement:
    """Return the durations next to each ratio's position; see ``metrics.weighted_percentile``."""
    duration = asked.columns.evaluation_duration_ms
    weights = (
        select(
            *asked.keys, duration.label("duration"), _weight(asked.columns.sample_rate, asked.family).label("weight")
        )
        .where(asked.mine, duration > 0)
        .subquery("weights")
    )
    over = asked.over(weights)
    weight = weights.c.weight
    reach = func.sum(weight).over(order_by=weights.c.duration, rows=(None, 0), **over.parted)
    total = func.sum(weight).over(**over.parted)
    reached = select(*over.keys, weights.c.duration, weight, reach.label("reach"), total.label("total")).subquery(
        "reached"
    )
    million = literal(float(MILLION), Double)

    def is_near(ratio: Any) -> Any:
        position = ratio * (reached.c.total - million)
        before = reached.c.reach - reached.c.weight
        return and_(reached.c.reach >= position - million, before <= position + million)

    near: Any
    if asked.family == "sqlite":
        ratio = _members("ratio", as_json(ratios))
        near = select(literal(1)).select_from(ratio).where(is_near(ratio.c.value)).correlate(reached).exists()
    else:
        near = or_(*(is_near(literal(ratio, Double)) for ratio in ratios))
    row = asked.over(reached).row(LATENCY, duration=reached.c.duration, weight=reached.c.reach, further=reached.c.total)
    return select(*row).select_from(reached).where(near)


def _members(name: str, array: str) -> Any:
    """Return a JSON array of numbers as a table, on SQLite."""
    return func.json_each(array).table_valued(column("value", Double), name=name)


def exposures_query(
    tables: Tables, family: str, flag_key: str, window: Window, most_versions: int, where: EventFilter
) -> Statement:
    """Return the statement for (version, variant seen first, users, their weight, crossovers, switches back).

    The version is null for all versions together; the last two are weights in millionths.
    """
    columns = tables.events.c
    mine = and_(columns.flag_key == flag_key, columns.targeting_key != "")
    mine = and_(mine, *conditions(tables, family, window, where))
    grouping = Grouping("flag_version", most_versions)
    named = _named(tables, family, grouping, mine, "timestamp", "variant", "targeting_key", "sample_rate")
    variant, user = _variant(named.c).label("variant"), named.c.targeting_key
    cells = (
        select(
            named.c.group_name,
            user,
            variant,
            func.min(named.c.timestamp).label("first_seen"),
            func.max(named.c.timestamp).label("last_seen"),
            func.max(named.c.sample_rate).label("sample_rate"),
        )
        .group_by(named.c.group_name, user, variant)
        .cte("cells")
    )
    no_version = cast(null(), Text) if family == "postgresql" else null()
    whole = select(
        no_version.label("version"),
        cells.c.targeting_key,
        cells.c.variant,
        func.min(cells.c.first_seen).label("first_seen"),
        func.max(cells.c.last_seen).label("last_seen"),
        func.max(cells.c.sample_rate).label("sample_rate"),
    ).group_by(cells.c.targeting_key, cells.c.variant)
    each_version = select(
        cells.c.group_name,
        cells.c.targeting_key,
        cells.c.variant,
        cells.c.first_seen,
        cells.c.last_seen,
        cells.c.sample_rate,
    )
    scoped = union_all(whole, each_version).subquery("scoped")
    of_user: dict[str, Any] = {"partition_by": [scoped.c.version, scoped.c.targeting_key]}
    in_time: dict[str, Any] = {**of_user, "order_by": [scoped.c.first_seen, scoped.c.variant]}
    seen = select(
        scoped.c.version,
        scoped.c.targeting_key,
        scoped.c.variant,
        scoped.c.first_seen,
        scoped.c.sample_rate,
        func.row_number().over(**in_time).label("place"),
        func.max(scoped.c.last_seen).over(**in_time, rows=(None, -1)).label("latest_before"),
        func.row_number().over(**of_user, order_by=scoped.c.sample_rate.desc()).label("rate_place"),
    ).subquery("seen")
    again = case((seen.c.latest_before > seen.c.first_seen, 1), else_=0)
    people = (
        select(
            seen.c.version,
            func.max(case((seen.c.place == 1, seen.c.variant))).label("variant"),
            func.max(again).label("again"),
            _weight(func.max(seen.c.sample_rate), family).label("weight"),
            _weight(func.max(case((seen.c.rate_place == 2, seen.c.sample_rate))), family).label("second"),
        )
        .group_by(seen.c.version, seen.c.targeting_key)
        .subquery("people")
    )
    return select(
        people.c.version,
        people.c.variant,
        func.count(),
        func.sum(people.c.weight),
        func.sum(people.c.second),
        func.sum(people.c.again * people.c.second),
    ).group_by(people.c.version, people.c.variant)


def activity_query(
    tables: Tables, family: str, window: Window, where: EventFilter, *, weighted: bool = False
) -> Statement:
    """Return the statement for (flag key, count, first time, last time, weight or least sample rate) of every flag."""
    columns = tables.events.c
    weight = func.sum(_weight(columns.sample_rate, family)) if weighted else func.min(columns.sample_rate)
    return (
        select(columns.flag_key, func.count(), func.min(columns.timestamp), func.max(columns.timestamp), weight)
        .where(*conditions(tables, family, window, where))
        .group_by(columns.flag_key)
    )


def steps_query(
    tables: Tables,
    family: str,
    flag_key: str,
    window: Window,
    step: int,
    last: int,
    where: EventFilter,
    group_by: Grouping | None = None,
    *,
    weighted: bool = False,
) -> Statement:
    """Return the statement for (number, group, count, errors, users, weight or least sample rate) of every step.

    A step has ``step`` microseconds. Where the statement is weighted, a step's users come in a row of their own,
    without a count, and errors and users are weights in millionths.
    """
    columns = tables.events.c
    mine = and_(columns.flag_key == flag_key, *conditions(tables, family, window, where))
    is_typed = _is_typed(columns, family)
    groups: list[Any] = []
    if group_by is not None:
        named = _named(tables, family, group_by, mine, *_MEASURED)
        columns, mine, groups = named.c, true(), [named.c.group_name]
        is_typed = named.c.typed == 1
    assert window.start is not None
    since = columns.timestamp - micros(window.start)
    # Integer division: MySQL's own, since its / gives a rounded decimal.
    division = "DIV" if family == "mysql" else "/"
    number = since.op(division, precedence=_AS_DIVISION, return_type=BigInteger())(_whole(step))
    is_error = or_(columns.reason == "ERROR", is_typed)
    events = (
        select(
            case((number > last, _whole(last)), else_=number).label("step"),
            *groups,
            case((is_error, 1), else_=0).label("error"),
            func.nullif(columns.targeting_key, "").label("user_key"),
            columns.sample_rate,
        )
        .where(mine)
        .cte("events")
    )
    keys = [events.c.step, *([events.c.group_name] if groups else [])]
    group = events.c.group_name if groups else null().label("group_name")
    if not weighted:
        users, weight = func.count(distinct(events.c.user_key)), func.min(events.c.sample_rate)
        return select(events.c.step, group, func.count(), func.sum(events.c.error), users, weight).group_by(*keys)
    weight = _weight(events.c.sample_rate, family)
    rate = func.max(events.c.sample_rate).label("sample_rate")
    of_people = select(*keys, rate).where(events.c.user_key.is_not(None)).group_by(*keys, events.c.user_key)
    people = of_people.subquery("people")
    zero = literal(0.0, Double)
    return union_all(
        select(events.c.step, group, func.count(), func.sum(events.c.error * weight), zero, func.sum(weight)).group_by(
            *keys
        ),
        select(
            people.c.step,
            people.c.group_name if groups else null(),
            literal(0, BigInteger),
            zero,
            func.sum(_weight(people.c.sample_rate, family)),
            zero,
        ).group_by(*(people.c[key.name] for key in keys)),
    )


def future_query(tables: Tables, now: datetime) -> Statement:
    """Return the statement that counts events dated after ``now``."""
    return select(func.count()).select_from(tables.events).where(tables.events.c.timestamp > micros(now))


def events_query(tables: Tables, family: str) -> Statement:
    """Return the statement for whole events, with the columns of ``rows.event_from``."""
    columns: list[Any] = [tables.events.c[name] for name in ALL_COLUMNS]
    if family == "postgresql":
        # As text: some drivers would decode json themselves.
        columns = [
            cast(column_, Text).label(column_.name) if column_.name in _JSON_COLUMNS else column_ for column_ in columns
        ]
    return select(*columns)


_JSON_COLUMNS = frozenset({"value", "context_attributes"})

_AS_DIVISION = 8
"""SQLAlchemy's precedence of division: what is divided gets its parentheses."""


def _whole(number: int) -> Any:
    return literal(number, BigInteger)
