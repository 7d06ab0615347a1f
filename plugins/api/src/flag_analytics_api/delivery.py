"""``/health``, ``/delivery`` and ``/plugins``: the state, the ledger and the parts of the pipeline. No I/O."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

import attrs
import msgspec
from flag_analytics.config.plan import PlannedProcessor, PlannedSink
from flag_analytics.registry import default_registry
from flag_analytics.reports import DeadLetter, SinkStats
from starlette.requests import Request
from starlette.responses import Response

from .answers import DeadLetterCount, Delivery, Health, Installed, Ledger, Live, Plugin, Plugins, SinkHealth
from .parameters import NoQuery, read_query
from .service import JSON, Service

__all__ = ["delivery_of", "health", "plugins"]

_MOST_DEAD_LETTERS = 100
_encode = msgspec.json.Encoder().encode


async def health(service: Service, request: Request) -> Response:
    """Answer ``/health``: 200 while the pipeline takes events, else 503."""
    read_query(NoQuery, request.query_params)
    found = service.pipeline.health()
    sinks = {
        name: SinkHealth(**{field: sink[field] for field in SinkHealth.__struct_fields__})
        for name, sink in found["sinks"].items()
    }
    body = _encode(Health(status=found["status"], sinks=sinks))
    return Response(body, 503 if found["status"] == "closed" else 200, media_type=JSON)


def delivery_of(service: Service, live: Live) -> Delivery:
    """Return the ledger."""
    service.losses.look()
    stats = service.pipeline.stats()
    state = service.pipeline.health()
    return Delivery(
        as_of=datetime.now(UTC),
        status=state["status"],
        recorded=stats.recorded,
        accepted=stats.accepted,
        refused=dict(stats.refused),
        sanitised=dict(stats.sanitised),
        future_events=stats.future_events,
        balanced=stats.balanced(),
        sinks={name: _ledger(sink, state["sinks"][name]) for name, sink in stats.sinks.items()},
        dead_letters=_counted(service.pipeline.dead_letters()),
        live=live,
    )


def _ledger(sink: SinkStats, state: dict[str, Any]) -> Ledger:
    success = sink.last_success
    return Ledger(
        role=state["role"],
        status=state["status"],
        breaker=sink.breaker,
        accepted=sink.accepted,
        recovered=sink.recovered,
        delivered=sink.delivered,
        waiting=sink.pending,
        queued=sink.queued,
        in_flight=sink.in_flight,
        spooled=sink.spooled,
        set_aside=sink.set_aside,
        refused=sink.dead,
        lost=dict(sink.dropped),
        attempts=sink.attempts,
        retries=sink.retries,
        lag=sink.lag,
        backlog_bytes=sink.backlog_bytes,
        backlog_age_seconds=sink.backlog_age_seconds,
        last_success=None if success is None else datetime.fromtimestamp(success, UTC),
        last_error=sink.last_error,
    )


def _counted(letters: Iterable[DeadLetter]) -> list[DeadLetterCount]:
    """Return dead letters by sink and error; their events are not shown."""
    groups: defaultdict[tuple[str, str], list[float]] = defaultdict(list)
    for letter in letters:
        groups[letter.sink, letter.code or letter.error.partition(":")[0][:80]].append(letter.at)
    counted = [
        DeadLetterCount(sink, error, len(times), datetime.fromtimestamp(max(times), UTC))
        for (sink, error), times in groups.items()
    ]
    return sorted(counted, key=lambda one: one.latest, reverse=True)[:_MOST_DEAD_LETTERS]


async def plugins(service: Service, request: Request) -> Response:
    """Answer ``/plugins``."""
    read_query(NoQuery, request.query_params)
    installed = [
        Installed(name, owner.distribution, owner.version)
        for name, owners in default_registry().installed().items()
        for owner in owners
    ]
    found = Plugins(
        parts=_parts(service), installed=installed, show_people=service.options.show_people, panels=[*service.panels]
    )
    return Response(_encode(found), media_type=JSON)


def _parts(service: Service) -> list[Plugin]:
    pipeline, plan = service.pipeline, service.plan
    if plan is not None:
        sinks = [_planned(sink.role, sink) for sink in plan.sinks if sink.name in pipeline.stats().sinks]
        return sinks + [_planned("processor", processor) for processor in plan.processors]
    created = (("collector", pipeline.collectors), ("exporter", pipeline.exporters))
    return [
        Plugin(role=role, name=name, kind=type(one).__name__, options={})
        for role, ones in created
        for name, one in ones.items()
    ]


def _planned(role: str, planned: PlannedSink | PlannedProcessor) -> Plugin:
    return Plugin(role=role, name=planned.name, kind=planned.plugin, options=_shown_options(planned.options))


def _shown_options(options: Any) -> dict[str, int | float | bool | str]:
    """Return numbers and switches as they are; any text may be a secret, or come from the environment."""
    shown: dict[str, int | float | bool | str] = {}
    for field in attrs.fields(type(options)):
        value = getattr(options, field.name)
        if isinstance(value, bool | int | float) and not field.metadata.get("secret"):
            shown[field.name] = value
        elif value not in (None, "", (), {}, frozenset()):
            shown[field.name] = "***"
    return shown
