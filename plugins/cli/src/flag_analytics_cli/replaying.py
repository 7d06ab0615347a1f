"""``flag-analytics spool replay``: delivers the events that ended processes have left on disk."""

from __future__ import annotations

import os
import sqlite3
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import attrs
from flag_analytics.config.plan import Plan
from flag_analytics.pipeline import Pipeline
from flag_analytics_delivery.spool import Spool, SpoolCorruptError, SpoolError, orphans
from flag_analytics_delivery.spool_reader import SpoolReader, UnreadableError, is_in_use, reading
from rich.console import Console

from .storing import REPLAY_AGAIN, flush_all, open_patiently, patient_recorder
from .terminal import say
from .visible import visible
from .wording import counted, explained

__all__ = ["ReplayReport", "print_replay", "replay"]

_SPOOL_BYTES = 2**40
"""A replay only takes away: no bound of an application's own must keep a spool from being opened."""


@attrs.define
class ReplayReport:
    """The outcome for the events in spools.

    Attributes:
        delivered: Events that were stored, by sink.
        refused: Events that the sink refused for good, by sink.
        set_aside: Events that cannot be read, by the file that they are kept in from now on.
        left: A line about each part that was left alone, and why.
    """

    delivered: Counter[str] = attrs.field(factory=Counter[str])
    refused: Counter[str] = attrs.field(factory=Counter[str])
    set_aside: Counter[str] = attrs.field(factory=Counter[str])
    left: list[str] = attrs.field(factory=list)

    @property
    def names(self) -> list[str]:
        """The sinks that were delivered to."""
        return sorted({*self.delivered, *self.refused})

    @property
    def found_nothing(self) -> bool:
        return not (self.names or self.set_aside or self.left)

    @property
    def is_complete(self) -> bool:
        """Whether every event that waited is stored."""
        return not (self.refused.total() or self.set_aside or self.left)

    def to_dict(self) -> dict[str, Any]:
        """Return everything by name, the sinks as a list."""
        backends = [
            {"name": name, "delivered": self.delivered[name], "refused": self.refused[name]} for name in self.names
        ]
        unreadable = self.set_aside.total()
        return {"backends": backends, "unreadable": unreadable, "set_aside": [*self.set_aside], "left": self.left}


def replay(plan: Plan, directory: Path, report: ReplayReport) -> None:
    """Deliver the events that ended processes have left, to the backends of the plan with the same names.

    Processors do not run again: they did when the events were recorded. A delivered event leaves the spool, and an
    empty spool is deleted. Events that cannot be read are kept in a file of their own, set aside as a corrupt spool is.
    If this is interrupted, the next replay may deliver up to a stretch of events again, under the same ids.

    Raises:
        NotStoredError: a backend does not take the events; they stay in the spool.
    """
    for path in orphans(directory):
        try:
            # Another kind of file is left as it is: to open it for writing would make it a spool.
            with SpoolReader(path):
                pass
            _replay_spool(plan, path, report)
        except UnreadableError as error:
            problem = "belongs to a living process" if is_in_use(path) else error
            report.left.append(f"{path.name} {problem}")
        except SpoolCorruptError:
            report.left.append(f"{path.name} is corrupt")
        except SpoolError as error:
            problem = str(error)
            report.left.append(problem if path.name in problem else f"{path.name}: {explained(problem)}")


def print_replay(console: Console, outcome: ReplayReport) -> None:
    """Show how many events each sink got and refused."""
    for name in outcome.names:
        refused = f", {outcome.refused[name]:,} refused" if outcome.refused[name] else ""
        say(console, f"{visible(name)}: {counted(outcome.delivered[name], 'event')} delivered{refused}")


def _replay_spool(plan: Plan, path: Path, report: ReplayReport) -> None:
    with reading():
        spool = Spool(path, {}, max_bytes=_SPOOL_BYTES)
    aside = _name_aside(path)
    planned = {sink.name for sink in plan.sinks}
    try:
        with SpoolReader(path) as reader:
            for name in reader.cursors:
                waiting = reader.count_waiting(name)
                if name in planned:
                    _replay_for(plan, name, spool, reader, aside, report)
                elif waiting:
                    report.left.append(
                        f"{counted(waiting, 'event')} in {path.name} for {name!r}, which is not configured"
                    )
    finally:
        spool.close()


def _replay_for(plan: Plan, name: str, spool: Spool, reader: SpoolReader, aside: Path, report: ReplayReport) -> None:
    alone = attrs.evolve(
        plan,
        sinks=tuple(sink for sink in plan.sinks if sink.name == name),
        processors=(),
        delivery={**plan.delivery, "durability": "memory"},
    )
    with open_patiently(alone) as pipeline:
        record = patient_recorder(pipeline, REPLAY_AGAIN)
        dead_before = 0
        for stretch in reader.waiting(name):
            if stretch.unreadable:
                # Before the cursor moves past them, which deletes them.
                report.set_aside[str(aside)] += _keep(stretch.unreadable, aside)
            for event in stretch.events:
                record(event)
            flush_all(pipeline, REPLAY_AGAIN, refuse_dead=False)
            dead = _dead(pipeline)
            if dead > dead_before:
                _keep_dead(pipeline, name, spool, dead - dead_before)
            spool.acknowledge({name: stretch.last_seq})
            report.refused[name] += dead - dead_before
            report.delivered[name] += len(stretch.events) - (dead - dead_before)
            dead_before = dead


def _name_aside(path: Path) -> Path:
    """Return a new name as the delivery engine gives them to corrupt spools, which no process takes over."""
    stamp = time.strftime("%Y%m%dT%H%M%S", time.gmtime())
    return path.with_name(f"{path.name}.corrupt-{stamp}-{time.time_ns() % 1_000_000:06d}")


def _keep(rows: Sequence[tuple[int, Any]], aside: Path) -> int:
    """Keep rows that cannot be read, as they are, in a file of their own; return how many it did not have yet.

    Raises:
        SpoolError: it cannot be written.
    """
    try:
        os.close(os.open(aside, os.O_RDWR | os.O_CREAT, 0o600))
        with closing(sqlite3.connect(aside)) as connection, connection:
            connection.execute("CREATE TABLE IF NOT EXISTS events (seq INTEGER PRIMARY KEY, body)")
            # Several sinks meet the same rows.
            return connection.executemany("INSERT OR IGNORE INTO events VALUES (?, ?)", rows).rowcount
    except (sqlite3.Error, OSError) as error:
        code = getattr(error, "sqlite_errorname", None) or getattr(error, "strerror", None) or type(error).__name__
        raise SpoolError(f"{aside.name} cannot be written ({code})") from None


def _dead(pipeline: Pipeline) -> int:
    return sum(sink.dead for sink in pipeline.stats().sinks.values())


def _keep_dead(pipeline: Pipeline, name: str, spool: Spool, count: int) -> None:
    """Keep the newly refused events in the spool, unless the backend keeps dead letters itself."""
    backend = pipeline.collectors.get(name) or pipeline.exporters.get(name)
    if not callable(getattr(backend, "write_dead_letters", None)):
        spool.add_dead(pipeline.dead_letters()[-count:])
