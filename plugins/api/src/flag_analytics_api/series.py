"""``/flags/{key}/series``: one flag step by step."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec
from flag_analytics.sources import TimeStep
from starlette.requests import Request
from starlette.responses import Response

from .answers import Series, SeriesLine, Step
from .csv_text import csv_response, csv_text
from .flags import check_group
from .parameters import SeriesQuery, read_query
from .problems import ProblemError
from .service import Service, key_in
from .windows import MAX_STEPS, Asked, aligned, duration, usual_step

__all__ = ["series"]

_COLUMNS = ("group", "start", "end", "count", "errors", "users", "unfinished")


async def series(service: Service, request: Request) -> Response:
    """Answer ``/flags/{key}/series``."""
    query = read_query(SeriesQuery, request.query_params)
    key = key_in(request)
    check_group(service, query)
    asked = service.asked(query)

    async def found() -> Series:
        window = await _bounded_by_events(service, key, query, asked)
        step = usual_step(window.seconds or 0) if query.step == "auto" else duration(query.step, "step")
        window = aligned(window, step)
        if (window.seconds or 0) / step > MAX_STEPS:
            raise ProblemError(
                400,
                f"the window would have more than {MAX_STEPS:,} steps",
                parameter="step",
                expected=f"at least {int((window.seconds or 0) // MAX_STEPS) + 1}s, or a shorter window",
            )
        lines = await _lines(service, key, query, window, step)
        estimated = any(one.estimated for _, steps in lines for one in steps)
        return Series(
            key=key,
            step_seconds=step,
            group_by=query.group_by,
            lines=[SeriesLine(group, [_step(one) for one in steps]) for group, steps in lines],
            **await service.envelope(
                window, estimated=estimated, accuracies=(one.accuracy for _, steps in lines for one in steps)
            ),
        )

    if query.format == "csv":

        async def as_csv() -> bytes:
            return csv_text(_COLUMNS, _rows(await found()))

        return csv_response(await service.bounded(f"series {key!r} {request.url.query}", as_csv), "series")
    return await service.answer(f"series {key!r} {request.url.query}", found)


async def _bounded_by_events(service: Service, key: str, query: SeriesQuery, asked: Asked) -> Asked:
    """Return the window with a start; all time begins with the flag's first event."""
    if asked.seconds is not None:
        return asked
    metrics = await service.aggregator.get_flag_metrics(key, None, **service.scope(query, asked))
    first = metrics.window_start or asked.end
    return Asked(max((asked.end - first).total_seconds(), 0.0), asked.end)


async def _lines(
    service: Service, key: str, query: SeriesQuery, window: Asked, step: int
) -> list[tuple[str | None, Sequence[TimeStep]]]:
    ask, scope = service.aggregator.get_time_series, service.scope(query, window)
    if query.group_by is None:
        return [(None, await ask(key, window.seconds, step, **scope))]
    groups = await ask(key, window.seconds, step, group_by=query.group_by, max_groups=query.groups, **scope)
    return sorted(groups.items(), key=lambda group: (-sum(one.count for one in group[1]), group[0]))


def _step(one: TimeStep) -> Step:
    users = None if "users" in one.accuracy.missing else one.unique_users
    return Step(one.start, one.end, one.count, one.errors, users, _is_unfinished(one))


def _is_unfinished(one: TimeStep) -> bool:
    # A step that ends in this moment may still get events that are on their way to the store.
    return one.unfinished or one.end >= datetime.now(UTC)


def _rows(answer: Series) -> Iterator[list[Any]]:
    for line in answer.lines:
        for step in line.steps:
            yield [line.group, *msgspec.structs.astuple(step)]
