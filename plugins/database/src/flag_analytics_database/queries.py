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
from .schema import KIND_CODES, TYPED_ERROR, VERSIONED, Tables

__all__ = [
    "GROUPS",
    "LATENCY",
    "MASKS",
    "MOST_MASKS",
    "MOST_VARIANTS",
    "USERS",
    "VARIANT_USERS",
    "activity_query",
    "events_query",
    "exposures_by_version_query",
    "exposures_query",
    "future_query",
    "steps_query",
    "summary_query",
]

# SQLAlchemy types a statement by its columns, and not in the same way in 2.0 and 2.1.
Statement = Any

GROUPS, USERS, VARIANT_USERS, MASKS, LATENCY = range(5)
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
    - ``MASKS``: on MySQL and MariaDB in place of these two, the number of users with these variants: a bit of the
      count for each, from the lowest on in the order of the variants' names;
    - ``LATENCY``: plain, the percentiles themselves on PostgreSQL; elsewhere durations by their rank (the count, from
      0) among so many (the number), as far as the percentiles lie between them. Weighted, durations with the weight up
      to each, it included, the weight of all, and its own weight in place of the count.
    """
    others = conditions(tables, family, window, where)
    if group_by is None:
        asked = _Asked.of_flags(tables, family, flag_keys, others, weighted)
    else:
        asked = _Asked.of_groups(tables, family, flag_keys, others, weighted, group_by)
    # A mask needs the names of the variants.
    by_mask = family == "mysql" and "variant_users" in parts and not weighted
    arms = [_groups(asked, parts | {"variants"} if by_mask else parts)]
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
    ranked = _ranked(counted, [counted.c.flag_key], "label")
    largest = select(ranked.c.flag_key, ranked.c.label).where(ranked.c.place <= grouping.most).subquery("largest")
    is_mine = and_(largest.c.flag_key == labelled.c.flag_key, largest.c.label == labelled.c.label)
    name = func.coalesce(largest.c.label, _as_label(OTHER_GROUP, family)).label("group_name")
    return (
        select(labelled.c.flag_key, name, labelled.c.typed, *(labelled.c[each] for each in names))
        .select_from(labelled.outerjoin(largest, is_mine))
        .cte("named")
    )


def _ranked(counted: Any, keys: list[Any], name: str) -> Any:
    """Return the names with their place: by their number of events, equal ones by the name."""
    order = [counted.c.events.desc(), counted.c[name]]
    place = func.row_number().over(partition_by=keys or None, order_by=order)
    return select(*keys, counted.c[name], place.label("place")).subquery("ranked_names")


def _label(columns: Any, family: str, grouping: Grouping) -> Any:
    if grouping.attribute is not None:
        text = attribute_text(columns.context_attributes, family, grouping.attribute)
        return func.coalesce(text, _as_label(NO_VALUE, family))
    if grouping.by == "variant":
        return _as_label(_variant(columns), family)
    if grouping.by == "reason":
        return _as_label(columns.reason, family)
    return _as_label(_version(columns), family)


def _as_label(text: Any, family: str) -> Any:
    """Return a text as it compares by its characters: on MySQL and MariaDB as bytes, whatever its collation is."""
    text = literal(text, Text) if isinstance(text, str) else text
    return cast(text, mysql.BINARY) if family == "mysql" else text


def _variant(columns: Any) -> Any:
    return func.coalesce(func.nullif(columns.variant, ""), DEFAULT_VARIANT)


def _version(columns: Any) -> Any:
    return func.coalesce(func.nullif(columns.flag_version, ""), NO_VALUE)


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
    """Return the arms that count distinct users by variant, in all, and with more than one variant."""
    if asked.weighted:
        return _weighted_users_by_variant(asked)
    return _users_by_mask(asked) if asked.family == "mysql" else _users_by_set(asked)


def _users_by_set(asked: _Asked) -> list[Statement]:
    """Gather the set of each user's variants, and count equal sets: users are sorted or hashed only once."""
    columns = asked.columns
    if asked.family == "postgresql":
        gathered: Any = func.array_agg(distinct(_variant(columns)), type_=ARRAY(Text))
    else:
        gathered = func.json_group_array(distinct(_variant(columns)), type_=Text())
    size: Any
    named: Any
    of_user = select(*asked.keys, gathered.label("variants")).where(asked.mine, columns.targeting_key != "")
    people = of_user.group_by(*asked.keys, columns.targeting_key).subquery("people")
    keys = asked.over(people).keys
    counted = func.count().label("people")
    sets = select(*keys, people.c.variants, counted).group_by(*keys, people.c.variants).cte("sets")
    variants = sets.c.variants
    if asked.family == "postgresql":
        size = func.cardinality(variants)
        member = func.unnest(variants, type_=Text()).label("variant")
        named = select(*asked.over(sets).keys, member, sets.c.people).subquery("named_sets")
    else:
        size = func.json_array_length(variants)
        each = func.json_each(variants).table_valued("value", name="each_variant")
        joined = select(*asked.over(sets).keys, each.c.value.label("variant"), sets.c.people)
        named = joined.select_from(sets.join(each, true())).subquery("named_sets")
    of_set, of_name = asked.over(sets), asked.over(named)
    users, crossed = func.sum(sets.c.people), func.sum(case((size > 1, sets.c.people)))
    by_variant = of_name.row(VARIANT_USERS, variant=named.c.variant, weight=cast(func.sum(named.c.people), Double))
    whole = of_set.row(USERS, weight=cast(users, Double), further=cast(crossed, Double))
    return [
        select(*by_variant).group_by(*of_name.keys, named.c.variant),
        select(*whole).select_from(sets).group_by(*of_set.keys),
    ]


MOST_VARIANTS = 63
"""The most variants of a mask: a bit of an integer each."""
MOST_MASKS = 20_000


def _users_by_mask(asked: _Asked) -> list[Statement]:
    """Gather each user's variants as bits, by their places in order: MySQL and MariaDB have no faster kind of set.

    Users go by 16 bytes of a hash. Their temporary tables hold every text in its greatest length, and move to the disk
    where that takes too much.
    """
    columns = asked.columns
    names = _names(asked)
    is_it = and_(names.c.variant == _variant(columns), *(names.c[key.name] == key for key in asked.keys))
    bit = case((names.c.place < MOST_VARIANTS, literal(1).op("<<")(names.c.place)), else_=0)
    user = _user_hash(columns)
    of_user = select(*asked.keys, func.bit_or(bit).label("mask")).where(asked.mine, columns.targeting_key != "", is_it)
    people = of_user.group_by(*asked.keys, user).subquery("people")
    over = asked.over(people)
    masks = select(*over.row(MASKS, count=people.c.mask, number=func.count())).select_from(people)
    return [masks.group_by(*over.keys, people.c.mask).limit(MOST_MASKS + 1)]


def _names(asked: _Asked) -> Any:
    """Return the variants with their places in the order of their names, from 0, as a common table."""
    variant = _variant(asked.columns).label("variant")
    found = select(*asked.keys, variant).where(asked.mine).group_by(*asked.keys, variant).subquery("found_variants")
    over = asked.over(found)
    place = func.row_number().over(order_by=found.c.variant, **over.parted) - 1
    return select(*over.keys, found.c.variant, place.label("place")).cte("names")


def _user_hash(columns: Any) -> Any:
    return cast(func.left(func.unhex(func.sha2(columns.targeting_key, 256)), 16), mysql.BINARY(16)).label("user_hash")


def _weighted_users_by_variant(asked: _Asked) -> list[Statement]:
    """Weigh pairs of user and variant: the highest rate tells if a user is seen, the second if two variants are."""
    columns = asked.columns
    variant = _variant(columns).label("variant")
    user = _user_hash(columns) if asked.family == "mysql" else columns.targeting_key.label("user_hash")
    pairs = (
        select(*asked.keys, variant, user, func.max(columns.sample_rate).label("sample_rate"))
        .where(asked.mine, columns.targeting_key != "")
        .group_by(*asked.keys, variant, user)
        .cte("pairs")
    )
    over = asked.over(pairs)
    weight = _weight(pairs.c.sample_rate, asked.family)
    place = func.row_number().over(partition_by=[*over.keys, pairs.c.user_hash], order_by=pairs.c.sample_rate.desc())
    people = select(*over.keys, weight.label("weight"), place.label("place")).subquery("people")
    of_people = asked.over(people)
    users, crossed = (func.sum(case((people.c.place == nth, people.c.weight))) for nth in (1, 2))
    by_variant = over.row(VARIANT_USERS, variant=pairs.c.variant, weight=func.sum(weight))
    return [
        select(*by_variant).select_from(pairs).group_by(*over.keys, pairs.c.variant),
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


def exposures_query(tables: Tables, family: str, flag_key: str, window: Window, where: EventFilter) -> Statement:
    """Return the statement for exposures of events without sample rates and of one version.

    Its rows are (variant, users who saw it first, crossovers, switches back, least sample rate, first and last version
    by name). The events are of several versions where these two differ; then ``exposures_by_version_query`` is needed.
    """
    asked = _Asked.of_flags(tables, family, [flag_key], conditions(tables, family, window, where), weighted=False)
    first_version = last_version = _version(asked.columns)
    names = None
    if family == "mysql":  # its index tells only whether there is a version
        names = _names(asked)
        first_version = literal(NO_VALUE, Text)
        last_version = case((literal_column(VERSIONED) == 1, OTHER_GROUP), else_=NO_VALUE)
    versions = (func.min(first_version).label("first_version"), func.max(last_version).label("last_version"))
    cells = _cells(asked, names, *versions)
    seen = _in_order(cells, [], cells.c.first_version, cells.c.last_version)
    again = case((seen.c.latest_before > seen.c.first_seen, seen.c.user_key))
    variant = case((seen.c.place == 1, seen.c.variant)).label("variant")
    figures = [
        func.count(case((seen.c.place == 1, 1))).label("people"),
        func.count(case((seen.c.place == 2, 1))).label("crossed"),
        func.count(distinct(again)).label("switched"),
        func.min(seen.c.least_rate).label("least_rate"),
        func.min(seen.c.first_version).label("first_version"),
        func.max(seen.c.last_version).label("last_version"),
    ]
    if family == "mysql":  # it would compute the common table for each arm
        return _with_names(names, select(variant, *figures).group_by(variant))
    # A distinct count of a few is faster than one of all.
    first = select(seen.c.variant, *figures).where(seen.c.place == 1).group_by(seen.c.variant)
    nothing = cast(null(), Text) if family == "postgresql" else null()
    return union_all(first, select(nothing, *figures).where(seen.c.place > 1))


def exposures_by_version_query(
    tables: Tables, family: str, flag_key: str, window: Window, most_versions: int, where: EventFilter
) -> Statement:
    """Return the statement for (version, variant seen first, users, their weight, crossovers, switches back).

    The version is null for all versions together; the last two are weights in millionths.
    """
    asked = _Asked.of_flags(tables, family, [flag_key], conditions(tables, family, window, where), weighted=True)
    names = _names(asked) if family == "mysql" else None
    versions = _cells(asked, names, func.count().label("events"), version=_version(asked.columns).label("version"))
    counted = select(versions.c.version, func.sum(versions.c.events).label("events")).group_by(versions.c.version)
    ranked = _ranked(counted.subquery("counted"), [], "version")
    largest = select(ranked.c.version).where(ranked.c.place <= most_versions).subquery("largest")
    name = func.coalesce(largest.c.version, literal(OTHER_GROUP, Text)).label("version")
    joined = versions.outerjoin(largest, largest.c.version == versions.c.version)
    nothing = (cast(null(), Text) if family == "postgresql" else null()).label("version")
    scopes = [
        select(
            scope,
            versions.c.user_key,
            versions.c.variant,
            func.min(versions.c.first_seen).label("first_seen"),
            func.max(versions.c.last_seen).label("last_seen"),
            func.max(versions.c.sample_rate).label("sample_rate"),
        )
        .select_from(source)
        .group_by(*keys, versions.c.user_key, versions.c.variant)
        for scope, source, keys in ((nothing, versions, []), (name, joined, [name]))
    ]
    scoped = union_all(*scopes).subquery("scoped")
    seen = _in_order(scoped, [scoped.c.version], scoped.c.sample_rate)
    people = (
        select(
            seen.c.version,
            func.max(case((seen.c.place == 1, seen.c.variant))).label("variant"),
            func.max(case((seen.c.latest_before > seen.c.first_seen, 1), else_=0)).label("again"),
            _weight(func.max(seen.c.sample_rate), family).label("weight"),
            _weight(func.max(case((seen.c.rate_place == 2, seen.c.sample_rate))), family).label("second"),
        )
        .group_by(seen.c.version, seen.c.user_key)
        .subquery("people")
    )
    answer = select(
        people.c.version,
        people.c.variant,
        func.count().label("people"),
        func.sum(people.c.weight).label("weight"),
        func.sum(people.c.second).label("crossed"),
        func.sum(people.c.again * people.c.second).label("switched"),
    ).group_by(people.c.version, people.c.variant)
    return _with_names(names, answer)


def outcomes_query(
    tables: Tables, family: str, flag_key: str, metric: str, window: Window, where: EventFilter
) -> Statement:
    """Return the statement for outcomes by the variant that a user saw first.

    Its rows are (variant, users, crossovers, users with the outcome, numbers among its values, their sum, least sample
    rate of exposures, and of outcomes).
    """
    events = tables.events.c
    variant = _variant(events)
    seen = (
        select(
            events.targeting_key.label("user_key"),
            variant.label("variant"),
            func.min(events.timestamp).label("first_seen"),
            func.min(events.sample_rate).label("least_rate"),
        )
        .where(events.flag_key == flag_key, events.targeting_key != "", *conditions(tables, family, window, where))
        .group_by(events.targeting_key, variant)
        .subquery("seen")
    )
    of_user: dict[str, Any] = {"partition_by": seen.c.user_key}
    ordered = select(
        seen.c.user_key,
        seen.c.variant,
        seen.c.first_seen,
        func.min(seen.c.least_rate).over(**of_user).label("least_rate"),
        func.row_number().over(**of_user, order_by=[seen.c.first_seen, seen.c.variant]).label("place"),
        case((func.count().over(**of_user) > 1, 1), else_=0).label("crossed"),
    ).subquery("ordered")
    exposed = select(ordered).where(ordered.c.place == 1).cte("exposed")
    outcome = tables.events.alias("outcome").c
    number = case((_is_number(outcome.value, family), cast(cast(outcome.value, Text), Double)))
    if family == "mysql":
        number = case((_is_number(outcome.value, family), cast(outcome.value, Double)))
    achieved = (
        select(
            exposed.c.user_key,
            func.count(number).label("numbers"),
            func.sum(number).label("number_sum"),
            func.min(outcome.sample_rate).label("least_rate"),
        )
        .select_from(exposed)
        .join(outcome.event_id.table, outcome.targeting_key == exposed.c.user_key)
        .where(
            outcome.flag_key == metric,
            outcome.kind == KIND_CODES["outcome"],
            outcome.timestamp >= exposed.c.first_seen,
            outcome.timestamp <= micros(window.end),
        )
        .group_by(exposed.c.user_key)
        .subquery("achieved")
    )
    return (
        select(
            exposed.c.variant,
            func.count(),
            func.sum(exposed.c.crossed),
            func.count(achieved.c.user_key),
            func.sum(achieved.c.numbers),
            func.sum(achieved.c.number_sum),
            func.min(exposed.c.least_rate),
            func.min(achieved.c.least_rate),
        )
        .select_from(exposed)
        .outerjoin(achieved, achieved.c.user_key == exposed.c.user_key)
        .group_by(exposed.c.variant)
    )


def _is_number(value: Any, family: str) -> Any:
    """Return the condition that a value, which is JSON, is a number."""
    if family == "sqlite":
        return value.op("GLOB")("[-0-9]*")
    return cast(value, Text).regexp_match("^[-0-9]") if family == "postgresql" else value.regexp_match("^[-0-9]")


def _cells(asked: _Asked, names: Any, *further: Any, version: Any = None) -> Any:
    """Return, for each user and variant, the first and the last time, and the least and the highest sample rate.

    Where names are given, a variant is its place among them, and a user is a hash: see ``_users_by_mask``.
    """
    columns = asked.columns
    mine = and_(asked.mine, columns.targeting_key != "")
    variant, user = _variant(columns), columns.targeting_key
    if names is not None:
        mine = and_(mine, names.c.variant == variant)
        variant, user = names.c.place, _user_hash(columns)
    versions = [] if version is None else [version]
    return (
        select(
            *versions,
            user.label("user_key"),
            variant.label("variant"),
            func.min(columns.timestamp).label("first_seen"),
            func.max(columns.timestamp).label("last_seen"),
            func.min(columns.sample_rate).label("least_rate"),
            func.max(columns.sample_rate).label("sample_rate"),
            *further,
        )
        .where(mine)
        .group_by(*versions, user, variant)
        .cte("cells")
    )


def _with_names(names: Any, answer: Any) -> Statement:
    """Return the answer with the names of variants in place of their places."""
    if names is None:
        return answer
    rows = answer.subquery("answer")
    columns = [names.c.variant if column_.name == "variant" else column_ for column_ in rows.c]
    return select(*columns).select_from(rows.outerjoin(names, names.c.place == rows.c.variant))


def _in_order(cells: Any, keys: list[Any], *further: Any) -> Any:
    """Return the cells with their place in the order of first times, and the latest time of those before."""
    of_user: dict[str, Any] = {"partition_by": [*keys, cells.c.user_key]}
    in_time: dict[str, Any] = {**of_user, "order_by": [cells.c.first_seen, cells.c.variant]}
    columns = [
        *keys,
        cells.c.user_key,
        cells.c.variant,
        cells.c.first_seen,
        func.row_number().over(**in_time).label("place"),
        func.max(cells.c.last_seen).over(**in_time, rows=(None, -1)).label("latest_before"),
        *further,
    ]
    if keys:
        by_rate = func.row_number().over(**of_user, order_by=cells.c.sample_rate.desc())
        columns.append(by_rate.label("rate_place"))
    else:
        columns.append(cells.c.least_rate)
    return select(*columns).cte("seen")


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
        # By user first: where MariaDB sorts for a COUNT(DISTINCT …), it reads the generated column behind ``error`` as
        # null (seen with 10.11).
        by_user = (
            select(
                *keys,
                events.c.user_key,
                func.count().label("events"),
                func.sum(events.c.error).label("errors"),
                func.min(events.c.sample_rate).label("least_rate"),
            )
            .group_by(*keys, events.c.user_key)
            .subquery("by_user")
        )
        return select(
            by_user.c.step,
            by_user.c.group_name if groups else null().label("group_name"),
            func.sum(by_user.c.events),
            func.sum(by_user.c.errors),
            func.count(by_user.c.user_key),
            func.min(by_user.c.least_rate),
        ).group_by(*(by_user.c[key.name] for key in keys))
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
