"""``flag-analytics spool replay``: delivers what processes that are gone have left on disk."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import attrs
from flag_analytics.config import Plan
from flag_analytics.delivery.spool import Spool, SpoolCorruptError, SpoolError, orphans
from flag_analytics.pipeline import Pipeline
from rich.console import Console

from .storing import REPLAY_AGAIN, flush_all, open_patiently, patient_recorder
from .terminal import say
from .visible import visible
from .wording import counted

__all__ = ["ReplayReport", "print_replay", "replay"]

_SPOOL_BYTES = 2**40
"""A replay only takes away: no bound of an application's own must keep a spool from being opened."""
_STRETCH_EVENTS = 500
_STRETCH_BYTES = 4 * 2**20


@attrs.define
class ReplayReport:
    """What became of the events in spools: delivered and refused by sink, and what was left alone, by reason."""

    delivered: Counter[str] = attrs.field(factory=Counter[str])
    refused: Counter[str] = attrs.field(factory=Counter[str])
    left: list[str] = attrs.field(factory=list)

    @property
    def names(self) -> list[str]:
        """The sinks that were delivered to."""
        return sorted({*self.delivered, *self.refused})

    def to_dict(self) -> dict[str, Any]:
        """Return everything by name, the sinks as a list."""
        backends = [
            {"name": name, "delivered": self.delivered[name], "refused": self.refused[name]} for name in self.names
        ]
        return {"backends": backends, "left": self.left}


def replay(plan: Plan, directory: Path, report: ReplayReport) -> None:
    """Deliver what processes that are gone have left, to the backends of the plan with the same names.

    Processors do not run again: they did when the events were recorded. What is delivered leaves the spool, and an
    empty spool is deleted. If this is interrupted, the next replay may deliver up to a stretch of events again, under
    the same ids.

    Raises:
        NotStoredError: a backend does not take the events; they stay in the spool.
    """
    for path in orphans(directory):
        try:
            spool = Spool(path, (), max_bytes=_SPOOL_BYTES)
        except SpoolCorruptError:
            report.left.append(f"{path.name} is corrupt")
            continue
        except SpoolError as error:
            report.left.append(str(error))
            continue
        try:
            planned = {sink.name for sink in plan.sinks}
            for name in sorted(spool.sinks):
                waiting = spool.pending(name)
                if name in planned:
                    _replay_for(plan, name, spool, report)
                elif waiting:
                    report.left.append(
                        f"{counted(waiting, 'event')} in {path.name} for {name!r}, which is not configured"
                    )
        finally:
            spool.close()


def print_replay(console: Console, outcome: ReplayReport) -> None:
    """Show how many events each sink got and refused."""
    for name in outcome.names:
        refused = f", {outcome.refused[name]:,} refused" if outcome.refused[name] else ""
        say(console, f"{visible(name)}: {counted(outcome.delivered[name], 'event')} delivered{refused}")


def _replay_for(plan: Plan, name: str, spool: Spool, report: ReplayReport) -> None:
    alone = attrs.evolve(
        plan,
        sinks=tuple(sink for sink in plan.sinks if sink.name == name),
        processors=(),
        delivery={**plan.delivery, "durability": "memory"},
    )
    with open_patiently(alone) as pipeline:
        record = patient_recorder(pipeline, REPLAY_AGAIN)
        dead_before = 0
        while True:
            loaded = spool.read(name, _STRETCH_EVENTS, _STRETCH_BYTES)
            if not loaded.events and not loaded.unreadable:
                return
            for event in loaded.events:
                record(event)
            flush_all(pipeline, REPLAY_AGAIN, refuse_dead=False)
            dead = _dead(pipeline)
            if dead > dead_before:
                _keep_dead(pipeline, name, spool, dead - dead_before)
            spool.acknowledge(name, loaded.last_seq)
            report.refused[name] += dead - dead_before
            report.delivered[name] += len(loaded.events) - (dead - dead_before)
            dead_before = dead


def _dead(pipeline: Pipeline) -> int:
    return sum(sink.dead for sink in pipeline.stats().sinks.values())


def _keep_dead(pipeline: Pipeline, name: str, spool: Spool, count: int) -> None:
    """Keep what the backend has just refused in the spool, unless it keeps dead letters itself."""
    backend = pipeline.collectors.get(name) or pipeline.exporters.get(name)
    if not callable(getattr(backend, "write_dead_letters", None)):
        spool.add_dead(pipeline.dead_letters()[-count:])
