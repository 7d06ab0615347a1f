"""The questions of an event source as SQL. Values are bound; what is put into a text here is our own.

A weight is a sum of the column ``weight``, in millionths of an event, as in ``flag_analytics.weighting``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import attrs
from flag_analytics.sources import NO_VALUE, OTHER_GROUP, EventFilter, Grouping, Window

from .conditions import VARIANT, conditions
from .json_values import attribute_name
from .parameters import Parameters
from .rows import EVENT_COLUMNS, micros
from .schema import HOUR_MICROS, Tables

__all__ = [
    "GROUPS",
    "LATENCY",
    "USERS",
    "Query",
    "activity_query",
    "events_query",
    "exposures_by_version_query",
    "exposures_query",
    "future_query",
    "hours_query",
    "nth_newest_query",
    "outcomes_query",
    "steps_query",
    "summary_query",
    "weighted_steps_query",
]

GROUPS, USERS, LATENCY = range(3)
"""The kinds of rows of ``summary_query``: its first column."""

VERSION = f"ifNull(nullIf(flag_version, ''), '{NO_VALUE}')"
_USER = "ifNull(targeting_key, '')"
_NOTHING = "''"
_NO_NAMES = "CAST([], 'Array(String)')"
_NO_WEIGHTS = "CAST([], 'Array(UInt64)')"
_NO_DURATIONS = "CAST([], 'Array(Tuple(Int64, Float64, UInt64))')"
_PER_USER = "arraySort(groupArray((first_seen, seen_variant, last_seen, least_weight)))"
"""What one user saw, in the order of the first times."""
_SWITCHED_BACK = (
    "arrayExists((latest, cell) -> latest > cell.1, "
    "arrayPopBack(arrayFold((latest, cell) -> arrayPushBack(latest, greatest(latest[-1], cell.3)), "
    "arrayPopFront(seen), [seen[1].3])), arrayPopFront(seen))"
)


@attrs.frozen
class Query:
    """A statement with its values."""

    sql: str
    values: Mapping[str, Any]


def summary_query(
    tables: Tables,
    flag_keys: Sequence[str],
    window: Window,
    parts: frozenset[str],
    percentiles: Sequence[float],
    where: EventFilter,
    group_by: Grouping | None = None,
    *,
    weighted: bool = False,
    every_group: bool = False,
) -> Query:
    """Return one statement for everything asked about these flags; with ``every_group``, the small ones have names too.

    Its rows are (kind, flag key, group, variant, reason, count, first time, weight, further weight, names, weights,
    durations):

    - ``GROUPS``: the events with this variant and reason: their count, first time, weight, and the weight of errors;
    - ``USERS``: the weight of distinct users, and of those with more than one variant; by variant, the names and the
      weights of its users. Users weigh one event each unless the statement is weighted;
    - ``LATENCY``: (place, milliseconds, weight) for each duration beside a percentile. Plain, the place is the rank
      from 0, of as many as the count says; weighted, it is the weight up to the duration, it included, and the
      weight is that of all.
    """
    parameters = Parameters()
    mine = [_of_flags(parameters, flag_keys), *conditions(parameters, window, where)]
    found = _events(parameters, tables, mine, group_by, every_group=every_group)
    if len(flag_keys) == 1 and group_by is None:
        # Of one flag, to group by its key as well takes up to twice as long.
        events = _Events(found, (), parameters.text(flag_keys[0]), "''")
    else:
        events = _Events(found, ("flag_key", "group_name"), "toString(flag_key)", "group_name")
    arms = [_groups(events, parts)]
    if "variant_users" in parts:
        arms.append(_weighted_users_by_variant(events) if weighted else _users_by_variant(events))
    elif "users" in parts:
        arms.append(_weighted_users(events) if weighted else _users(events))
    if "latency" in parts and percentiles:
        ratios = parameters.numbers(percent / 100 for percent in percentiles)
        arms.append(_weighted_latency(events, ratios) if weighted else _latency(events, ratios))
    return Query("\nUNION ALL\n".join(arms), parameters.values)


@attrs.frozen
class _Events:
    """The events asked about, and what tells apart whose they are.

    Attributes:
        source: Something to select from.
        keys: The columns to group by.
        flag_key: The flag's key in a row.
        group: The group's name in a row.
    """

    source: str
    keys: tuple[str, ...]
    flag_key: str
    group: str

    def by(self, *further: str) -> str:
        """Return the clause that groups by whose the events are, and by further columns."""
        columns = (*self.keys, *further)
        return f" GROUP BY {', '.join(columns)}" if columns else ""

    def columns(self, *further: str) -> str:
        """Return the columns of a subquery."""
        return ", ".join((*self.keys, *further))

    def row(
        self,
        kind: int,
        *,
        variant: str = "''",
        reason: str = "''",
        count: str = "toUInt64(0)",
        first: str = "toInt64(0)",
        weight: str = "toUInt64(0)",
        further: str = "toUInt64(0)",
        names: str = _NO_NAMES,
        weights: str = _NO_WEIGHTS,
        durations: str = _NO_DURATIONS,
    ) -> str:
        """Return the beginning of one arm of the union."""
        variant, reason = f"toString({variant})", f"toString({reason})"
        columns = (kind, self.flag_key, self.group, variant, reason, count, first, weight, further, names)
        return f"SELECT {', '.join(map(str, (*columns, weights, durations)))}"


def _of_flags(parameters: Parameters, flag_keys: Sequence[str]) -> str:
    if len(flag_keys) == 1:
        return f"flag_key = {parameters.text(flag_keys[0])}"
    return f"flag_key IN {parameters.texts(flag_keys)}"


def _events(
    parameters: Parameters,
    tables: Tables,
    mine: Sequence[str],
    group_by: Grouping | None,
    *,
    every_group: bool = False,
) -> str:
    """Return the events with a ``group_name`` each, as something to select from."""
    where = " AND ".join(f"({condition})" for condition in mine)
    if group_by is None:
        return f"(SELECT *, weight, is_error, '' AS group_name FROM {tables.events} WHERE {where})"
    name = _group_name(parameters, group_by)
    labelled = f"(SELECT *, weight, is_error, toString({name}) AS label FROM {tables.events} WHERE {where})"
    if every_group:
        return f"(SELECT *, label AS group_name FROM {labelled})"
    largest = (
        f"(SELECT flag_key, label FROM {labelled} GROUP BY flag_key, label "
        f"ORDER BY count() DESC, label LIMIT {group_by.most} BY flag_key)"
    )
    kept = f"if((flag_key, label) IN {largest}, label, '{OTHER_GROUP}')"
    return f"(SELECT *, {kept} AS group_name FROM {labelled})"


def _group_name(parameters: Parameters, group_by: Grouping) -> str:
    if group_by.attribute == "environment":
        return "environment"
    if group_by.attribute is not None:
        return attribute_name(parameters, group_by.attribute)
    return {"variant": VARIANT, "reason": "reason", "flag_version": VERSION}[group_by.by]


def _groups(events: _Events, parts: frozenset[str]) -> str:
    variant = VARIANT if "variants" in parts else _NOTHING
    reason = "reason" if "reasons" in parts else _NOTHING
    row = events.row(
        GROUPS,
        variant=variant,
        reason=reason,
        count="count()",
        first="min(timestamp)",
        weight="sum(weight)",
        further="sumIf(weight, is_error)",
    )
    return f"{row} FROM {events.source}{events.by(*(each for each in (variant, reason) if each != _NOTHING))}"


def _users(events: _Events) -> str:
    row = events.row(USERS, weight=f"1000000 * uniqExactIf({_USER}, {_USER} != '')")
    return f"{row} FROM {events.source}{events.by()}"


def _weighted_users(events: _Events) -> str:
    """The highest rate tells if a user is seen, so the least weight counts."""
    users = (
        f"SELECT {events.columns('min(weight) AS least_weight')} FROM {events.source} WHERE targeting_key != ''"
        f"{events.by('targeting_key')}"
    )
    return f"{events.row(USERS, weight='sum(least_weight)')} FROM ({users}){events.by()}"


def _users_by_variant(events: _Events) -> str:
    """Gather the set of each user's variants, and count equal sets: users are hashed only once."""
    gathered = f"arraySort(groupUniqArray({VARIANT})) AS seen"
    users = (
        f"SELECT {events.columns(gathered)} FROM {events.source} WHERE targeting_key != ''"
        f"{events.by('assumeNotNull(targeting_key)')}"
    )
    sets = f"SELECT {events.columns('seen', '1000000 * count() AS people')} FROM ({users}){events.by('seen')}"
    each = "sumMap(arrayMap(name -> toString(name), seen), arrayMap(name -> people, seen))"
    row = events.row(
        USERS,
        weight="sum(people)",
        further="sumIf(people, length(seen) > 1)",
        names=f"{each}.1",
        weights=f"{each}.2",
    )
    return f"{row} FROM ({sets}){events.by()}"


def _weighted_users_by_variant(events: _Events) -> str:
    """Two variants must be seen to tell a crossover: of a user's weights by variant, the second counts."""
    pairs = (
        f"SELECT {events.columns('targeting_key', f'{VARIANT} AS seen_variant', 'min(weight) AS least_weight')} "
        f"FROM {events.source} WHERE targeting_key != ''{events.by('targeting_key', 'seen_variant')}"
    )
    gathered = (
        "groupArray(toString(seen_variant)) AS names",
        "groupArray(least_weight) AS weights",
        "arraySort(weights) AS in_order",
    )
    users = f"SELECT {events.columns(*gathered)} FROM ({pairs}){events.by('targeting_key')}"
    row = events.row(
        USERS,
        weight="sum(in_order[1])",
        further="sum(in_order[2])",  # 0 beyond the end
        names="sumMap(names, weights).1",
        weights="sumMap(names, weights).2",
    )
    return f"{row} FROM ({users}){events.by()}"


_MEASURED = "evaluation_duration_ms > 0 AND isFinite(evaluation_duration_ms)"


def _latency(events: _Events, ratios: str) -> str:
    """The nearest place and its neighbours are the right ones, however the last digit of a ratio was read."""
    beside = "ratio -> arrayMap(beside -> toInt64(floor(ratio * (many - 1) + 0.5)) + beside, [-1, 0, 1])"
    columns = (
        "arraySort(groupArray(evaluation_duration_ms)) AS durations",
        "length(durations) AS many",
        f"arrayDistinct(arrayFlatten(arrayMap({beside}, {ratios}))) AS near",
        "arrayFilter(place -> place >= 0 AND place < many, near) AS places",
    )
    ordered = f"SELECT {events.columns(*columns)} FROM {events.source} WHERE {_MEASURED}{events.by()}"
    found = "arrayMap(place -> (place, durations[place + 1], toUInt64(0)), places)"
    return f"{events.row(LATENCY, count='many', durations=found)} FROM ({ordered})"


def _weighted_latency(events: _Events, ratios: str) -> str:
    """See ``flag_analytics.weighting.weighted_percentile``; some neighbours more than it needs."""
    position = "up_to -> up_to > ratio * (toFloat64(whole) - 1000000)"
    beside = f"ratio -> arrayMap(beside -> toInt64(arrayFirstIndex({position}, reach)) + beside, [-2, -1, 0, 1, 2])"
    columns = (
        "arraySort(groupArray((evaluation_duration_ms, weight))) AS pairs",
        "arrayCumSum(arrayMap(pair -> pair.2, pairs)) AS reach",
        "reach[-1] AS whole",
        f"arrayDistinct(arrayFlatten(arrayMap({beside}, {ratios}))) AS near",
        "arrayFilter(place -> place >= 1 AND place <= length(pairs), near) AS places",
    )
    ordered = f"SELECT {events.columns(*columns)} FROM {events.source} WHERE {_MEASURED}{events.by()}"
    found = "arrayMap(place -> (toInt64(reach[place]), pairs[place].1, toUInt64(place)), places)"
    return f"{events.row(LATENCY, weight='whole', durations=found)} FROM ({ordered})"


def exposures_query(tables: Tables, flag_key: str, window: Window, where: EventFilter) -> Query:
    """Return the statement for (variant seen first, users, their weight, crossovers, switches back, versions).

    Crossovers and switches back are weights; versions is a row of at most two of their names.
    """
    parameters = Parameters()
    cells = _cells(parameters, tables, flag_key, window, where, f"groupUniqArray(2)({VERSION}) AS versions")
    names = "groupUniqArrayArray(2)(versions) AS versions"
    users = f"SELECT {_PER_USER} AS seen, {names} FROM ({cells}) GROUP BY targeting_key"
    return Query(
        f"SELECT {_FIRST_SEEN}, groupUniqArrayArray(2)(versions) FROM ({users}) GROUP BY first_variant",
        parameters.values,
    )


_FIRST_SEEN = (
    "toString(seen[1].2) AS first_variant, count(), "
    "sum(arrayMin(cell -> cell.4, seen)), "
    "sum(arraySort(arrayMap(cell -> cell.4, seen))[2]), "
    f"sumIf(arraySort(arrayMap(cell -> cell.4, seen))[2], length(seen) > 1 AND {_SWITCHED_BACK})"
)


def _cells(
    parameters: Parameters,
    tables: Tables,
    flag_key: str,
    window: Window,
    where: EventFilter,
    *further: str,
    by: str = "",
) -> str:
    """Return, for each user and variant, the first and the last time, and the least weight."""
    mine = [_of_flags(parameters, [flag_key]), "targeting_key != ''", *conditions(parameters, window, where)]
    columns = [
        "targeting_key",
        f"{VARIANT} AS seen_variant",
        "min(timestamp) AS first_seen",
        "max(timestamp) AS last_seen",
        "min(weight) AS least_weight",
        *further,
    ]
    condition = " AND ".join(f"({one})" for one in mine)
    return (
        f"SELECT {', '.join(columns)} FROM {tables.events} WHERE {condition} GROUP BY {by}targeting_key, seen_variant"
    )


def exposures_by_version_query(
    tables: Tables, flag_key: str, window: Window, most_versions: int, where: EventFilter
) -> Query:
    """Return the statement for (version, variant seen first, users, their weight, crossovers, switches back)."""
    parameters = Parameters()
    mine = [_of_flags(parameters, [flag_key]), "targeting_key != ''", *conditions(parameters, window, where)]
    condition = " AND ".join(f"({one})" for one in mine)
    largest = (
        f"(SELECT toString({VERSION}) AS name FROM {tables.events} WHERE {condition} GROUP BY name "
        f"ORDER BY count() DESC, name LIMIT {most_versions})"
    )
    name = f"if(toString({VERSION}) IN {largest}, toString({VERSION}), '{OTHER_GROUP}') AS version"
    cells = _cells(parameters, tables, flag_key, window, where, name, by="version, ")
    users = f"SELECT version, {_PER_USER} AS seen FROM ({cells}) GROUP BY version, targeting_key"
    return Query(f"SELECT version, {_FIRST_SEEN} FROM ({users}) GROUP BY version, first_variant", parameters.values)


def outcomes_query(tables: Tables, flag_key: str, metric: str, window: Window, where: EventFilter) -> Query:
    """Return the statement for outcomes by the variant that a user saw first.

    Its rows are (variant, users, crossovers, users with the outcome, numbers among its values, their sum, whether
    there are sampled events).
    """
    parameters = Parameters()
    cells = _cells(parameters, tables, flag_key, window, where, "max(sample_rate < 1) AS sampled")
    exposed = (
        f"SELECT assumeNotNull(targeting_key) AS user, {_PER_USER} AS seen, toString(seen[1].2) AS first_variant, "
        f"seen[1].1 AS since, max(sampled) AS sampled FROM ({cells}) GROUP BY targeting_key"
    )
    number = "if(match(value, '^[-0-9]'), toFloat64OrNull(value), NULL)"
    mine = [
        _of_flags(parameters, [metric]),
        "kind = 'outcome'",
        "targeting_key != ''",
        *conditions(parameters, Window(None, window.end), None),
    ]
    condition = " AND ".join(f"({one})" for one in mine)
    outcomes = (
        f"SELECT assumeNotNull(targeting_key) AS user, timestamp, {number} AS number, sample_rate < 1 AS sampled "
        f"FROM {tables.events} WHERE {condition}"
    )
    achieved = (
        "SELECT outcomes.user AS user, count(outcomes.number) AS numbers, sumKahan(outcomes.number) AS number_sum, "
        "max(outcomes.sampled) AS sampled, 1 AS done "
        f"FROM ({outcomes}) AS outcomes INNER JOIN ({exposed}) AS exposed ON outcomes.user = exposed.user "
        "WHERE outcomes.timestamp >= exposed.since GROUP BY outcomes.user"
    )
    return Query(
        "SELECT exposed.first_variant AS variant, count(), countIf(length(exposed.seen) > 1), sum(achieved.done), "
        "sum(achieved.numbers), sumKahan(ifNull(achieved.number_sum, 0)), "
        "max(greatest(exposed.sampled, achieved.sampled)) "
        f"FROM ({exposed}) AS exposed LEFT JOIN ({achieved}) AS achieved ON achieved.user = exposed.user "
        "GROUP BY variant",
        parameters.values,
    )


def activity_query(tables: Tables, window: Window, where: EventFilter) -> Query:
    """Return the statement for (flag key, count, weight, first time, last time) of every flag."""
    parameters = Parameters()
    return Query(
        f"SELECT toString(flag_key), count(), sum(weight), min(timestamp), max(timestamp) FROM {tables.events}"
        f"{_where(conditions(parameters, window, where))} GROUP BY flag_key",
        parameters.values,
    )


def steps_query(
    tables: Tables,
    flag_key: str,
    window: Window,
    step: int,
    last: int,
    where: EventFilter,
    group_by: Grouping | None = None,
    *,
    since: int | None = None,
    every_group: bool = False,
) -> Query:
    """Return the statement for (number, group, count, errors, users, weight) of every step of so many microseconds.

    Errors and weight are weights; a user counts as one. With ``since`` it is about events from this time on, in
    microseconds; with ``every_group`` small groups have their names, too.
    """
    parameters = Parameters()
    number = _step_number(parameters, window, step, last)
    mine = [_of_flags(parameters, [flag_key]), *conditions(parameters, window, where)]
    if since is not None:
        mine.append(f"timestamp >= {parameters.whole(since)}")
    events = _events(parameters, tables, mine, group_by, every_group=every_group)
    return Query(
        f"SELECT {number} AS step, group_name, count(), sumIf(weight, is_error), "
        f"uniqExactIf({_USER}, {_USER} != ''), sum(weight) FROM {events} GROUP BY step, group_name",
        parameters.values,
    )


def weighted_steps_query(
    tables: Tables,
    flag_key: str,
    window: Window,
    step: int,
    last: int,
    where: EventFilter,
    group_by: Grouping | None = None,
) -> Query:
    """Return the statement for (number, group, weight of the users) of every step that has users."""
    parameters = Parameters()
    number = _step_number(parameters, window, step, last)
    events = _events(
        parameters, tables, [_of_flags(parameters, [flag_key]), *conditions(parameters, window, where)], group_by
    )
    users = (
        f"SELECT {number} AS step, group_name, min(weight) AS least_weight FROM {events} "
        "WHERE targeting_key != '' GROUP BY step, group_name, targeting_key"
    )
    return Query(
        f"SELECT step, group_name, sum(least_weight) FROM ({users}) GROUP BY step, group_name", parameters.values
    )


def _step_number(parameters: Parameters, window: Window, step: int, last: int) -> str:
    assert window.start is not None
    since = f"timestamp - {parameters.whole(micros(window.start))}"
    return f"least(intDiv({since}, {parameters.whole(step)}), {parameters.whole(last)})"


def future_query(tables: Tables, now: int) -> Query:
    """Return the statement that counts events dated after a time in microseconds."""
    parameters = Parameters()
    return Query(f"SELECT count() FROM {tables.events} WHERE timestamp > {parameters.whole(now)}", parameters.values)


def events_query(
    tables: Tables,
    flag_key: str | None,
    window: Window | None,
    where: EventFilter | None,
    *,
    span: tuple[int, int] | None = None,
    after: tuple[int, str] | None = None,
    limit: int,
) -> Query:
    """Return the statement for whole events by time and then by id, with the columns of ``rows.event_from``.

    Args:
        tables: The tables.
        flag_key: Only events of this flag.
        window: Only events of this window.
        where: Only events that pass this filter.
        span: Only events from the first of these times to before the second, in microseconds.
        after: Only events after the one with this time and id.
        limit: At most so many.
    """
    parameters = Parameters()
    mine = _mine(parameters, flag_key, window, where)
    if span is not None:
        mine += [f"timestamp >= {parameters.whole(span[0])}", f"timestamp < {parameters.whole(span[1])}"]
    if after is not None:
        mine.append(_after(parameters, *after))
    return Query(
        f"SELECT {', '.join(EVENT_COLUMNS)} FROM {tables.events}{_where(mine)} "
        f"ORDER BY timestamp, toString(event_id) LIMIT {limit}",
        parameters.values,
    )


def hours_query(
    tables: Tables,
    flag_key: str | None,
    window: Window | None,
    where: EventFilter | None,
    after: tuple[int, str] | None,
) -> Query:
    """Return the statement for (hour, count) of every hour with such events, in order: see ``events_query``."""
    parameters = Parameters()
    mine = _mine(parameters, flag_key, window, where)
    if after is not None:
        mine.append(_after(parameters, *after))
    return Query(
        f"SELECT timestamp - positiveModulo(timestamp, {HOUR_MICROS}) AS hour, count() FROM {tables.events}"
        f"{_where(mine)} GROUP BY hour ORDER BY hour",
        parameters.values,
    )


def nth_newest_query(
    tables: Tables, flag_key: str | None, window: Window | None, where: EventFilter | None, nth: int
) -> Query:
    """Return the statement for time and id of the nth newest of such events, from 1."""
    parameters = Parameters()
    return Query(
        f"SELECT timestamp, toString(event_id) AS id FROM {tables.events}"
        f"{_where(_mine(parameters, flag_key, window, where))} "
        f"ORDER BY timestamp DESC, id DESC LIMIT 1 OFFSET {nth - 1}",
        parameters.values,
    )


def _mine(parameters: Parameters, flag_key: str | None, window: Window | None, where: EventFilter | None) -> list[str]:
    own = [] if flag_key is None else [_of_flags(parameters, [flag_key])]
    return [*own, *conditions(parameters, window, where)]


def _after(parameters: Parameters, timestamp: int, event_id: str) -> str:
    time, text = parameters.whole(timestamp), parameters.text(event_id)
    return f"timestamp >= {time} AND (timestamp > {time} OR toString(event_id) > {text})"


def _where(found: Sequence[str]) -> str:
    return " WHERE " + " AND ".join(f"({condition})" for condition in found) if found else ""
