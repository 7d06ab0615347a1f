"""The questions that rollups answer, as SQL: counts by the hour, and sketches by the day.

Values are bound; what is put into a text here is our own.
"""

from __future__ import annotations

from collections.abc import Sequence

from flag_analytics.metrics import DEFAULT_VARIANT
from flag_analytics.sources import EventFilter, Grouping, Window

from .conditions import is_plain_environment
from .cutting import Span
from .parameters import Parameters
from .queries import Query
from .rows import micros
from .schema import DAY_MICROS, HOUR_MICROS, Tables

__all__ = [
    "ZONES",
    "can_count",
    "can_group",
    "count_steps_query",
    "counts_query",
    "removed_query",
    "sketches_query",
]

_VARIANT = f"if(variant = '', '{DEFAULT_VARIANT}', toString(variant))"
_GROUPS = {"variant": _VARIANT, "reason": "reason", "environment": "environment"}
_KINDS = {"evaluation", "exposure"}


def can_count(where: EventFilter) -> bool:
    """Return whether the counts can tell the events that pass a filter, which is in canonical form."""
    texts = where.required_texts().keys()
    context = where.required_context()
    environments = context.get("environment", "-")
    values = getattr(environments, "values", (environments,))
    return (
        set(where.kinds) == _KINDS
        and texts <= {"variant", "reason"}
        and context.keys() <= {"environment"}
        and all(map(is_plain_environment, values))
    )


def can_group(group_by: Grouping | None) -> bool:
    """Return whether the counts can tell the groups."""
    return group_by is None or group_by.by in _GROUPS or group_by.attribute == "environment"


def _group_name(group_by: Grouping | None) -> str:
    if group_by is None:
        return "''"
    return _GROUPS["environment" if group_by.attribute is not None else group_by.by]


def _filtered(parameters: Parameters, flag_keys: Sequence[str] | None, where: EventFilter) -> list[str]:
    found = []
    if flag_keys is not None:
        found.append(f"flag_key IN {parameters.texts(flag_keys)}")
    return [
        *found,
        *(
            f"{_VARIANT if field == 'variant' else field} IN {parameters.texts(texts)}"
            for field, texts in where.required_texts().items()
        ),
        *(
            f"environment IN {parameters.texts(getattr(wanted, 'values', (wanted,)))}"
            for wanted in where.required_context().values()
        ),
    ]


ZONES = ("before", "first", "early", "whole", "last", "after")


def counts_query(
    tables: Tables,
    flag_keys: Sequence[str] | None,
    window: Window,
    where: EventFilter,
    parts: frozenset[str],
    group_by: Grouping | None = None,
) -> Query:
    """Return the statement for counts of the days that a window touches.

    Its rows are (zone, flag key, group, variant, reason, events, first time, weight, weight of errors, last time); the
    variant is as it was recorded. The zones, by their place in ``ZONES``: ``before`` and ``after`` are the hours of
    these days outside the window, ``first`` and ``last`` those in which it begins and ends, ``early`` the further ones
    of its first day, and ``whole`` all others.
    """
    parameters = Parameters()
    start, end = None if window.start is None else micros(window.start), micros(window.end)
    last_hour, last_day = end - end % HOUR_MICROS, end - end % DAY_MICROS
    mine = [*_filtered(parameters, flag_keys, where), f"hour < {parameters.whole(last_day + DAY_MICROS)}"]
    zones = [f"hour > {parameters.whole(last_hour)}, 5", f"hour = {parameters.whole(last_hour)}, 4"]
    if start is not None:
        first_hour, first_day = start - start % HOUR_MICROS, start - start % DAY_MICROS
        mine.append(f"hour >= {parameters.whole(first_day)}")
        zones = [
            f"hour < {parameters.whole(first_hour)}, 0",
            f"hour = {parameters.whole(first_hour)}, 1",
            *zones,
            f"hour < {parameters.whole(first_day + DAY_MICROS)}, 2",
        ]
    # The columns themselves: texts made of them take twice as long to group by.
    keys = ["flag_key", *(name for name, part in (("variant", "variants"), ("reason", "reasons")) if part in parts)]
    group = _group_name(group_by)
    keys += [] if group_by is None else [group]
    variant, reason = ("variant" if "variant" in keys else "''"), ("reason" if "reason" in keys else "''")
    return Query(
        f"SELECT multiIf({', '.join(zones)}, 3) AS zone, flag_key, {group}, {variant}, {reason}, sum(events) AS many, "
        "min(first_event), sum(weight), sum(error_weight), max(last_event) "
        f"FROM {tables.counts} WHERE {' AND '.join(mine)} GROUP BY zone, {', '.join(dict.fromkeys(keys))} "
        "HAVING many > 0",
        parameters.values,
    )


def count_steps_query(
    tables: Tables,
    flag_key: str,
    window: Window,
    step: int,
    last: int,
    where: EventFilter,
    group_by: Grouping | None = None,
) -> Query:
    """Return the statement for steps of whole hours: (number, is the last hour, group, events, weights, last time).

    The weights are those of errors and of all.
    """
    parameters = Parameters()
    assert window.start is not None
    start, end = micros(window.start), micros(window.end)
    last_hour = parameters.whole(end - end % HOUR_MICROS)
    number = f"least(intDiv(hour - {parameters.whole(start)}, {parameters.whole(step)}), {parameters.whole(last)})"
    mine = [
        *_filtered(parameters, [flag_key], where),
        f"hour >= {parameters.whole(start)}",
        f"hour <= {last_hour}",
    ]
    return Query(
        f"SELECT {number} AS step, hour = {last_hour} AS is_last, {_group_name(group_by)} AS group_name, "
        "sum(events) AS many, sum(error_weight), sum(weight), max(last_event) "
        f"FROM {tables.counts} WHERE {' AND '.join(mine)} GROUP BY step, is_last, group_name HAVING many > 0",
        parameters.values,
    )


def removed_query(tables: Tables, window: Window, kept: int) -> Query:
    """Return the statement for a row if the counts know of events in the window from before a time."""
    parameters = Parameters()
    mine = [f"hour < {parameters.whole(kept)}", f"hour <= {parameters.whole(micros(window.end))}"]
    if window.start is not None:
        mine.append(f"last_event >= {parameters.whole(micros(window.start))}")
    return Query(f"SELECT 1 FROM {tables.counts} WHERE {' AND '.join(mine)} LIMIT 1", parameters.values)


def sketches_query(
    tables: Tables, flag_keys: Sequence[str], days: Span, spans: Sequence[Span], percentiles: Sequence[float]
) -> Query:
    """Return the statement for (flag key, users, weight of the durations, durations beside each percentile).

    A duration is (weight up to its bucket, it included, number of the bucket).

    Args:
        tables: The tables.
        flag_keys: The flags.
        days: The first day, and the end of the last, that come from sketches.
        spans: The times that come from events.
        percentiles: Which, from 0 to 100.
    """
    parameters = Parameters()
    keys = parameters.texts(flag_keys)
    first, end = map(parameters.whole, days)
    within_days = f"day >= {first} AND day < {end}"
    arms = [f"SELECT flag_key, users, durations FROM {tables.sketches} WHERE flag_key IN {keys} AND {within_days}"]
    for start, last in spans:
        within = f"e.timestamp >= {parameters.whole(start)} AND e.timestamp <= {parameters.whole(last)}"
        mine = f"e.flag_key IN {keys} AND {within} AND "
        durations = "CAST(durations, 'Map(Int32, Int64)') AS durations"
        arms.append(f"SELECT flag_key, users, {durations} FROM ({tables.select_sketches(tables.events, mine)})")
    ratios = parameters.numbers(percent / 100 for percent in percentiles)
    near = (
        "arrayDistinct(arrayFlatten(arrayMap(ratio -> arrayMap(beside -> toInt64(arrayFirstIndex("
        "up_to -> up_to > ratio * (toFloat64(whole) - 1000000), reach)) + beside, [-1, 0, 1]), "
        f"{ratios})))"
    )
    merged = (
        "SELECT flag_key, uniqCombined64Merge(16)(users) AS people, sumMap(durations) AS buckets, "
        "arraySort(arrayFilter(pair -> pair.2 > 0, CAST(buckets, 'Array(Tuple(Int32, Int64))'))) AS pairs, "
        "arrayCumSum(arrayMap(pair -> pair.2, pairs)) AS reach, reach[-1] AS whole, "
        f"arrayFilter(place -> place >= 1 AND place <= length(pairs), {near}) AS places "
        f"FROM ({' UNION ALL '.join(arms)}) GROUP BY flag_key"
    )
    return Query(
        "SELECT toString(flag_key), people, whole, arrayMap(place -> (reach[place], pairs[place].1), places) "
        f"FROM ({merged})",
        parameters.values,
    )
