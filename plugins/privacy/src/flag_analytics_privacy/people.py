"""``forget`` and ``person``: what is stored of one person, in every place that this configuration writes to.

Each place may know the person under another targeting key: as it was recorded, or as processors left it, with the key
of today or the one before. All of them are looked for.
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import attrs
from flag_analytics.canonical import canonical_key
from flag_analytics.config.plan import Plan
from flag_analytics.errors import PluginError
from flag_analytics.events import FlagEvaluationEvent
from flag_analytics.pipeline import Pipeline
from flag_analytics.protocols import Processor
from flag_analytics.sources import EventFilter
from flag_analytics_delivery.spool_reader import UnreadableError

from .spools import erase_from_spool

__all__ = ["Place", "Receipt", "forget", "forms_of", "person", "sent_on"]

_EVERY_KIND = ("evaluation", "exposure", "outcome")


@attrs.frozen
class Place:
    """What was done in one place.

    Attributes:
        name: The collector or exporter, ``dead letters``, or a spool's file.
        erased: How many events were erased; None where that is not possible.
        note: Why not, and what to do.
    """

    name: str
    erased: int | None
    note: str = ""


@attrs.frozen
class Receipt:
    """What ``forget`` did. It does not hold the targeting key.

    Attributes:
        cut_off: Events recorded before this time are erased; of later ones nothing is said.
        places: What was done in each place.
    """

    cut_off: datetime
    places: tuple[Place, ...]

    @property
    def complete(self) -> bool:
        """Whether nothing is left in any place of this configuration."""
        return all(place.erased is not None for place in self.places)

    def to_dict(self) -> dict[str, Any]:
        """Return everything by name, the time in ISO 8601."""
        return {
            "cut_off": self.cut_off.isoformat(),
            "complete": self.complete,
            "places": [attrs.asdict(place) for place in self.places],
        }


async def forget(
    pipeline: Pipeline, targeting_key: str, *, spools: Iterable[Path] = (), timeout: float = 30.0
) -> Receipt:
    """Erase what is stored of a person, and return a receipt.

    What waits is delivered first. It can be interrupted and called again: what is erased stays erased.

    Args:
        pipeline: An open pipeline; it must have been made from configuration.
        targeting_key: The person's, as the application records it.
        spools: Spool files of processes that have ended.
        timeout: The most seconds to wait for what is to be delivered first.
    """
    plan = _plan_of(pipeline)
    cut_off = datetime.now(UTC)
    flushed = await pipeline.flush(timeout)
    waiting = [name for name, sink in flushed.sinks.items() if sink.pending]
    places = [Place(name, None, "events wait for it: call again once they are delivered") for name in waiting]
    forms = {sink.name: forms_of(plan, sink.name, targeting_key) for sink in plan.sinks}
    for name, collector in pipeline.collectors.items():
        places.append(await _forget_in(name, collector, forms[name]))
    places += map(sent_on, pipeline.exporters)
    everywhere = frozenset().union(*forms.values())
    places.append(Place("dead letters", pipeline.forget_dead_letters(everywhere)))
    places += [_forget_in_spool(path, everywhere) for path in spools]
    return Receipt(cut_off, tuple(places))


async def person(
    pipeline: Pipeline, targeting_key: str, *, timeout: float = 30.0
) -> dict[str, list[dict[str, Any]] | None]:
    """Return the events that are stored of a person, by collector; None of one that cannot be asked.

    Args:
        pipeline: An open pipeline; it must have been made from configuration.
        targeting_key: The person's, as the application records it.
        timeout: The most seconds to wait for what is to be delivered first.
    """
    plan = _plan_of(pipeline)
    await pipeline.flush(timeout)
    found: dict[str, list[dict[str, Any]] | None] = {}
    everywhere: set[str] = set()
    for name, collector in pipeline.collectors.items():
        forms = forms_of(plan, name, targeting_key)
        everywhere |= forms
        where = EventFilter(targeting_key=forms, kinds=_EVERY_KIND)
        read = _reader_of(collector)
        found[name] = None if read is None else [event.to_dict() for event in await read(where=where)]
    letters = [letter.event for letter in pipeline.dead_letters() if letter.event.targeting_key in everywhere]
    found["dead letters"] = [event.to_dict() for event in letters]
    return found


def _reader_of(collector: Any) -> Any:
    """Return what reads the events of a collector through a filter; None if nothing does."""
    with contextlib.suppress(PluginError):  # what reads is not installed
        for source in (collector, getattr(collector, "event_source", None)):
            read = getattr(source, "get_events", None)
            if read is not None and "where" in inspect.signature(read).parameters:
                return read
    return None


def forms_of(plan: Plan, sink: str, targeting_key: str) -> frozenset[str]:
    """Return the targeting keys under which a sink may know a person: as recorded, and after each processor."""
    (planned,) = (each for each in plan.sinks if each.name == sink)
    current = {canonical_key(targeting_key)} - {""}
    found = set(current)
    for processor in (*plan.processors, *planned.processors):
        step = processor.create()
        current = {form for key in current for form in _forms_after(step, key)}
        found |= current
    return frozenset(found)


def _forms_after(processor: Processor, targeting_key: str) -> Sequence[str]:
    forms = getattr(processor, "forms", None)
    if forms is not None:
        return tuple(forms(targeting_key))
    # An error, which samples keep.
    probe = FlagEvaluationEvent.now("flag", None, "ERROR", targeting_key=targeting_key)
    try:
        left = processor(probe)
    except Exception:
        left = None  # it drops such an event, and others not: the key stays as it is
    return (targeting_key,) if left is None or not left.targeting_key else (left.targeting_key,)


def sent_on(exporter: str) -> Place:
    """Return what can be done about an exporter."""
    if exporter.partition("/")[0] == "prometheus":
        return Place(exporter, 0, "it holds no targeting keys")
    return Place(exporter, None, "it was sent on: erase it there")


async def _forget_in(name: str, collector: Any, forms: frozenset[str]) -> Place:
    erase = getattr(collector, "forget", None)
    if erase is None:
        return Place(name, None, "it cannot erase single events: remove them there, or let them expire")
    try:
        return Place(name, await erase(sorted(forms)))
    except Exception as error:
        return Place(name, None, f"it failed with {type(error).__name__}: call again")


def _forget_in_spool(path: Path, forms: frozenset[str]) -> Place:
    try:
        erased = erase_from_spool(path, forms)
    except UnreadableError as error:
        return Place(str(path), None, f"it {error}: delete the file")
    return Place(str(path), erased, "" if erased is not None else "a process uses it: stop it, and call again")


def _plan_of(pipeline: Pipeline) -> Plan:
    if pipeline.plan is None:
        raise ValueError("the pipeline was put together by hand: expected one of open_pipeline, whose plan is known")
    return pipeline.plan
