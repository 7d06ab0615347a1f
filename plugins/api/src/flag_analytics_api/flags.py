"""``/flags`` and ``/flags/{key}``: the list of flags, and all figures of one."""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import timedelta

from flag_analytics.aggregator import FlagMetrics
from flag_analytics.sources import Exposures, FlagActivity
from starlette.requests import Request
from starlette.responses import Response

from .answers import Exposure, Figures, FlagDetail, FlagItem, Flags, VariantUsers
from .csv_text import csv_response, csv_text
from .parameters import FlagQuery, FlagsQuery, check_attribute, read_query
from .problems import ProblemError
from .service import Service, is_fast, key_in, pack_cursor, unpack_cursor
from .windows import Asked, aligned, usual_step

__all__ = ["flag", "flags"]

_FAILING_PERCENT = 1.0
_SERIES_STEPS = 24
_COLUMNS = ("key", "count", "first_seen", "last_seen", "status", "users", "error_rate", "latency_p99", "estimated")


async def flags(service: Service, request: Request) -> Response:
    """Answer ``/flags``."""
    query = read_query(FlagsQuery, request.query_params)
    asked = service.asked(query)
    scope = service.scope(query, asked)
    after = None
    if query.cursor:
        sort, *after = unpack_cursor(query.cursor, tuple[str, str, str])
        if sort != query.sort:
            raise ProblemError(400, "the cursor is of another order", parameter="sort", expected=sort[:20])

    async def found() -> Flags:
        aggregator = service.aggregator
        listed = await aggregator.list_flags(asked.seconds, **scope)
        wanted = query.search.casefold()
        matching = [one for one in listed if wanted in one.flag_key.casefold()]
        ordered = _ordered(matching, query.sort)
        begin = 0 if after is None else _position(ordered, query.sort, after)
        page = ordered[begin : begin + query.limit]
        items = [_item(one, asked) for one in page]
        accuracies = [one.accuracy for one in page]
        estimated = any(one.estimated for one in page)
        if query.detail == "full" and items:
            metrics = await aggregator.get_metrics([item.key for item in items], asked.seconds, **scope)
            accuracies += [one.accuracy for one in metrics.values()]
            for item in items:
                _add_figures(item, metrics[item.key])
                item.series = await _small_series(service, item.key, asked, query)
        more = begin + query.limit < len(ordered)
        last = (query.sort, *_place(page[-1], query.sort)) if page and more else None
        return Flags(
            flags=items,
            total=len(matching),
            next_cursor=pack_cursor(*last) if last else None,
            **await service.envelope(asked, estimated=estimated, accuracies=accuracies),
        )

    if query.format == "csv":

        async def as_csv() -> bytes:
            rows = (await found()).flags
            return csv_text(_COLUMNS, ([getattr(item, name) for name in _COLUMNS] for item in rows))

        return csv_response(await service.bounded(f"flags {request.url.query}", as_csv), "flags")
    return await service.answer(f"flags {request.url.query}", found)


def _ordered(found: list[FlagActivity], sort: str) -> list[FlagActivity]:
    # With the keys in turn, only where they are what is sorted by: equal counts stay in the order of their keys.
    return sorted(found, key=lambda one: _rank(one, sort), reverse=sort == "-key")


def _rank(one: FlagActivity, sort: str) -> tuple[float, str]:
    """Return where a flag stands: the smallest first, equal ones by their keys."""
    if sort.endswith("key"):
        return (0.0, one.flag_key)
    value = one.count if sort.endswith("count") else one.last_seen.timestamp()
    return (-value if sort.startswith("-") else value, one.flag_key)


def _place(one: FlagActivity, sort: str) -> tuple[str, str]:
    return (repr(_rank(one, sort)[0]), one.flag_key)


def _position(ordered: list[FlagActivity], sort: str, after: list[str]) -> int:
    """Return where the page after this place begins; flags may have come and gone meanwhile."""
    try:
        place = (float(after[0]), after[1])
    except ValueError:
        place = (math.nan, "")
    if math.isnan(place[0]):
        raise ProblemError(400, "cursor cannot be read", parameter="cursor", expected="next_cursor of an answer")
    if sort == "-key":
        return sum(one.flag_key >= after[1] for one in ordered)
    return sum(_rank(one, sort) <= place for one in ordered)


def _item(one: FlagActivity, asked: Asked) -> FlagItem:
    span = timedelta(seconds=asked.seconds) if asked.seconds is not None else asked.end - one.first_seen
    quiet = one.last_seen < asked.end - span / 10
    return FlagItem(
        key=one.flag_key,
        count=one.count,
        first_seen=one.first_seen,
        last_seen=one.last_seen,
        status="quiet" if quiet else "active",
        estimated=one.estimated,
    )


def _add_figures(item: FlagItem, metrics: FlagMetrics) -> None:
    found = figures(metrics)
    item.users, item.error_rate, item.latency_p99 = found.users, found.error_rate, found.latency_p99
    if metrics.error_rate > _FAILING_PERCENT:
        item.status = "failing"


async def _small_series(service: Service, key: str, asked: Asked, query: FlagsQuery) -> list[int]:
    """Return the counts of at most 24 steps, without the last one where it is unfinished."""
    seconds = asked.seconds
    if seconds is None:
        return []
    step = max(1, usual_step(seconds * 72 / _SERIES_STEPS))
    window = aligned(asked, step)
    steps = await service.aggregator.get_time_series(key, window.seconds, step, **service.scope(query, window))
    return [one.count for one in steps if not one.unfinished]


async def flag(service: Service, request: Request) -> Response:
    """Answer ``/flags/{key}``."""
    query = read_query(FlagQuery, request.query_params)
    key = key_in(request)
    check_group(service, query)
    asked = service.asked(query)
    scope = service.scope(query, asked)

    async def found() -> FlagDetail:
        aggregator = service.aggregator
        metrics = await aggregator.get_flag_metrics(key, asked.seconds, **scope)
        accuracies = [metrics.accuracy]
        exposure = None
        if not is_fast(query):
            seen = await aggregator.get_exposures(key, asked.seconds, **scope)
            exposure = _exposure(seen)
            accuracies.append(seen.accuracy)
        groups = None
        if query.group_by is not None:
            by_group = await aggregator.get_metrics(
                [key], asked.seconds, group_by=query.group_by, max_groups=query.groups, **scope
            )
            groups = {name: figures(of_group) for name, of_group in by_group[key].items()}
            accuracies += [of_group.accuracy for of_group in by_group[key].values()]
        return FlagDetail(
            key=key,
            figures=figures(metrics),
            exposure=exposure,
            group_by=query.group_by,
            groups=groups,
            **await service.envelope(asked, estimated=metrics.estimated, accuracies=accuracies),
        )

    return await service.answer(f"flag {key!r} {request.url.query}", found)


def check_group(service: Service, query: FlagQuery) -> None:
    """Refuse to group by what may tell about people."""
    if query.group_by is not None and query.group_by.startswith("context."):
        check_attribute(query.group_by.removeprefix("context."), "group_by", service.options)


def figures(metrics: FlagMetrics) -> Figures:
    """Return the figures of an answer, null for those that are missing."""
    told = metrics.to_dict()
    return Figures(
        evaluations=metrics.total_evaluations,
        evaluation_rate=metrics.evaluation_rate,
        users=told["unique_users"],
        error_rate=metrics.error_rate,
        latency_p50=told["latency_p50"],
        latency_p90=told["latency_p90"],
        latency_p99=told["latency_p99"],
        variants=_largest_first(metrics.variant_distribution),
        variant_users=_largest_first(metrics.variant_users),
        reasons=_largest_first(metrics.reason_distribution),
        crossover_users=told["crossover_users"],
    )


def _largest_first(counts: Mapping[str, int]) -> dict[str, int]:
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def _exposure(found: Exposures) -> Exposure:
    variants = []
    for variant, users in _largest_first(found.first_variant_users).items():
        low, high = wilson(users, found.users)
        variants.append(VariantUsers(variant, users, users / found.users * 100 if found.users else 0.0, low, high))
    return Exposure(found.users, variants, found.crossover_users, found.switch_back_users)


def wilson(successes: int, trials: int) -> tuple[float, float]:
    """Return the 95 % interval of a proportion in percent: Wilson's score interval (JASA 22, 1927)."""
    if trials <= 0:
        return 0.0, 100.0
    z = 1.959963984540054
    share = successes / trials
    centre = share + z * z / (2 * trials)
    spread = z * math.sqrt(share * (1 - share) / trials + z * z / (4 * trials * trials))
    scale = 1 + z * z / trials
    return max(0.0, (centre - spread) / scale * 100), min(100.0, (centre + spread) / scale * 100)
