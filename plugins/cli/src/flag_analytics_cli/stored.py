"""Where questions are asked: a backend that keeps events, or a file that is only read."""

from __future__ import annotations

import asyncio
import shutil
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, Protocol, TypeVar

import attrs
from flag_analytics.aggregator import AnalyticsAggregator
from flag_analytics.canonical import canonical_key
from flag_analytics.config.plan import Plan, PlannedSink
from flag_analytics.errors import SourceError
from flag_analytics.events import FlagEvaluationEvent
from flag_analytics.freezer import Freezer
from flag_analytics.metrics import canonical_filter, select
from flag_analytics.pipeline import Pipeline, open_pipeline
from flag_analytics.registry import default_registry
from flag_analytics.sources import EventSource
from flag_analytics_memory import InMemoryAnalyticsCollector

from .file_errors import FileError
from .importing import EventFile, ImportReport, read_file, say_left_out
from .selection import Range, Selection
from .settings import chosen_plan, is_embedded, is_lasting, missing_file
from .tallies import Needs, TallySource
from .terminal import note
from .visible import visible
from .wording import counted

__all__ = ["Answers", "Place", "ask", "check_file", "each_event", "lasting_plan", "say_future"]

T = TypeVar("T")


class _Readable(Protocol):
    """A collector whose events can be read back."""

    def get_events(self, flag_key: str | None = None, limit: int | None = None, **_: Any) -> Any: ...


@attrs.frozen
class Place:
    """Where the events are.

    Attributes:
        config: A configuration file.
        collector: A collector's name in configuration; by default the first that outlives a process and can be asked.
        file: A file of events, in place of a backend.
        strict: Whether the first line of it that is no event ends it.
    """

    config: Path | None = None
    collector: str | None = None
    file: EventFile | None = None
    strict: bool = False


@attrs.frozen
class Answers:
    """An open source of events.

    Attributes:
        aggregator: Answers questions about them.
        collector: Has the events themselves; None where only counts are kept.
        bad_lines: How many lines of a file are no events.
        name: The name of the source.
    """

    aggregator: AnalyticsAggregator
    collector: Any = None
    bad_lines: int = 0
    name: str = ""

    async def events(
        self, flag_key: str | None, selection: Selection | Range, limit: int | None = None
    ) -> AsyncIterator[FlagEvaluationEvent]:
        """Yield the stored events by time.

        Raises:
            SourceError: this source does not give its events back.
        """
        collector: _Readable | None = self.collector
        if collector is None or not hasattr(collector, "get_events"):
            raise SourceError(f"{self.name or 'the source'} answers questions but does not give its events back")
        async for event in collector.get_events(flag_key, limit, window=selection.window, where=selection.where):
            yield event


def ask(
    place: Place, selection: Selection | Range, question: Callable[[Answers], Awaitable[T]], needs: Needs | None = None
) -> tuple[T, int]:
    """Return the answer to a question, and how many lines of a file are no events.

    Args:
        place: Where the events are.
        selection: The window and filter that a file is read for.
        question: Asks.
        needs: What the question asks of a file beyond sums.

    Raises:
        SourceError: there is no such backend.
        OSError, FileError: the file cannot be read.
    """
    if place.file is not None:
        with _rereadable(place.file, needs or Needs()) as file:
            answers = _read(place.file, file, selection, place.strict, needs or Needs())
            return asyncio.run(_answered(question, answers)), answers.bad_lines

    async def asked() -> T:
        async with _opened(place) as answers:
            return await question(answers)

    return asyncio.run(asked()), 0


def each_event(
    place: Place, flags: Sequence[str], selection: Selection | Range, take: Callable[[FlagEvaluationEvent], None]
) -> int:
    """Give every event of some flags, by default of all, to a function; return how many lines of a file are none.

    Those of a backend come by time, those of a file in its order.
    """
    keys = frozenset(map(canonical_key, flags))
    if place.file is None:

        async def read(answers: Answers) -> None:
            async for event in answers.events(next(iter(keys)) if len(keys) == 1 else None, selection):
                if not keys or event.flag_key in keys:
                    take(event)

        return ask(place, selection, read)[1]
    freeze, where, window = Freezer().freeze, canonical_filter(selection.where), selection.window

    def record(event: FlagEvaluationEvent) -> None:
        frozen = freeze(event)
        if (not keys or frozen.flag_key in keys) and select([frozen], window, where):
            take(frozen.thaw())

    outcome = ImportReport()
    try:
        read_file(place.file, record, outcome, strict=place.strict)
    finally:
        say_left_out(place.file, outcome)
    return outcome.bad_lines


async def _answered(question: Callable[[Answers], Awaitable[T]], answers: Answers) -> T:
    return await question(answers)


async def say_future(answers: Answers) -> None:
    """Say how many events are dated in the future, and so missing from every window."""
    future = await answers.aggregator.count_future()
    if future:
        note(f"dated in the future, and so in no window yet: {counted(future, 'event')}", "yellow")


@contextmanager
def _rereadable(file: EventFile, needs: Needs) -> Iterator[EventFile]:
    """Yield the file; of a pipe that has to be read twice a copy, which is gone afterwards."""
    if not needs.reads_again or (file.name != "-" and not _is_pipe(Path(file.name))):
        yield file
        return
    with tempfile.TemporaryDirectory(prefix="flag-analytics-") as directory:
        copy = Path(directory, "events")
        with copy.open("wb") as kept:
            if file.name == "-":
                shutil.copyfileobj(sys.stdin.buffer, kept)
            else:
                with Path(file.name).open("rb") as stream:
                    shutil.copyfileobj(stream, kept)
        yield attrs.evolve(file, name=str(copy))


def _is_pipe(path: Path) -> bool:
    return path.exists() and not path.is_file()


def _read(named: EventFile, file: EventFile, selection: Selection | Range, strict: bool, needs: Needs) -> Answers:
    # A tally needs no ids, which take a good part of the time.
    file = attrs.evolve(file, options=attrs.evolve(file.options, ids=False))
    outcome = ImportReport()

    def read_again(record: Callable[[FlagEvaluationEvent], object]) -> None:
        again = ImportReport()
        read_file(file, record, again, strict=strict)
        if (again.events, again.bad_lines) != (outcome.events, outcome.bad_lines):
            raise FileError(f"{named.title}: the file changed while it was read: make a copy, and read that")

    source = TallySource(selection.window, selection.where, needs, read_again)
    try:
        read_file(file, source.record, outcome, strict=strict)
    except FileError as error:
        raise type(error)(str(error).replace(file.title, named.title, 1)) from None
    finally:
        say_left_out(named, outcome)
    return Answers(AnalyticsAggregator(source), None, outcome.bad_lines, named.title)


@asynccontextmanager
async def _opened(place: Place) -> AsyncIterator[Answers]:
    """Yield the chosen backend, and say which one it is where there are several."""
    plan = chosen_plan(place.config)
    own = tuple(source for source in plan.sources if source.name == place.collector)
    if own and place.collector not in {sink.name for sink in plan.sinks}:
        async with open_pipeline(attrs.evolve(plan, sinks=(), sources=own, processors=())) as pipeline:
            source = pipeline.sources[own[0].name]
            yield Answers(AnalyticsAggregator(source), source, name=own[0].name)
        return
    lasting = _lasting_collectors(plan, place.collector)
    if is_embedded(plan) and any(missing_file(sink) for sink in lasting):
        # To ask a database that is not there would create it.
        note("nothing is stored here yet: try `flag-analytics demo`, or `flag-analytics import FILE`")
        empty = InMemoryAnalyticsCollector(1)
        yield Answers(AnalyticsAggregator(empty), empty)
        return
    asked = attrs.evolve(plan, sinks=lasting, processors=())
    async with open_pipeline(asked) as pipeline:
        name, source = _askable(pipeline)
        check_file(asked, name)
        if sum(sink.role == "collector" for sink in plan.sinks) > 1:
            note(f"from {visible(name)}")
        collector = pipeline.collectors[name]
        yield Answers(AnalyticsAggregator(source), collector if hasattr(collector, "get_events") else source, name=name)


def lasting_plan(place: Place) -> Plan:
    """Return the plan of the chosen backends that outlive a process; exporters have no part in a question.

    Raises:
        SourceError: there is none, or nothing is stored yet.
    """
    plan = chosen_plan(place.config)
    lasting = _lasting_collectors(plan, place.collector)
    if is_embedded(plan) and any(missing_file(sink) for sink in lasting):
        raise SourceError(
            "nothing is stored here yet: try `flag-analytics demo --serve`, or `flag-analytics import FILE`"
        )
    return attrs.evolve(plan, sinks=lasting, processors=())


def check_file(plan: Plan, name: str) -> None:
    """Refuse to ask a database that is not there: that would create it, and hide that its name is wrong.

    Raises:
        SourceError: the collector of this name keeps its events in an SQLite file, and there is none.
    """
    missing = missing_file(next(sink for sink in plan.sinks if sink.name == name))
    if missing is not None:
        raise SourceError(
            f"{name}: there is no database {missing}: expected the file that an application or "
            "`flag-analytics import` has made; is the path in its connection_string right?"
        )


def _lasting_collectors(plan: Plan, wanted: str | None) -> tuple[PlannedSink, ...]:
    """Return the collectors that outlive a process, or the wanted one alone."""
    collectors = tuple(sink for sink in plan.sinks if sink.role == "collector")
    if wanted is not None:
        names = ", ".join(sink.name for sink in collectors) or "none"
        collectors = tuple(sink for sink in collectors if sink.name == wanted)
        if not collectors:
            raise SourceError(f"--collector {wanted}: no collector of this name is configured; configured are: {names}")
    lasting = tuple(filter(is_lasting, collectors))
    if not lasting:
        raise SourceError(
            f"--collector {wanted}: it keeps no events after the process that recorded them"
            if wanted is not None
            else "no backend is configured that keeps events after the process that recorded them: add one, such as "
            "[collectors.database], or report on a file with --file FILE"
        )
    return lasting


def _askable(pipeline: Pipeline) -> tuple[str, EventSource]:
    """Return the first collector that can be asked about its events."""
    for name, collector in pipeline.collectors.items():
        try:
            return name, default_registry().event_source_for(collector)
        except SourceError:
            continue
    raise SourceError(
        f"{', '.join(pipeline.collectors)} cannot be asked about events: expected a collector that can, such as "
        "[collectors.database]"
    )
