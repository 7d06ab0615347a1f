"""The interfaces of a backend: collectors, exporters, sinks and processors."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from enum import Enum
from typing import Any, Generic, Protocol, TypeVar, runtime_checkable

import attrs

from .events import FlagEvaluationEvent
from .frozen import FrozenEvent
from .sources import EventSource

__all__ = [
    "AnalyticsCollector",
    "AnalyticsExporter",
    "Backend",
    "Batch",
    "BatchSink",
    "InlineSink",
    "Processor",
    "ProcessorFactory",
    "RecordResult",
]

Options = TypeVar("Options")
"""The attrs class of a backend's options."""


class RecordResult(Enum):
    """What became of one recorded event; true if it was accepted, else the reason it was not."""

    ACCEPTED = "accepted"
    OVERFLOW = "overflow"
    CLOSED = "closed"
    FILTERED = "filtered"
    ERROR = "error"

    def __bool__(self) -> bool:
        return self is RecordResult.ACCEPTED


@runtime_checkable
class AnalyticsCollector(Protocol):
    """What applications and flag SDKs hold: it takes evaluation events. None of its methods raises for an event."""

    async def record(self, event: FlagEvaluationEvent) -> None:
        """Take one event; never waits for the backend."""
        ...

    async def flush(self) -> object:
        """Return when the events recorded before are stored, or cannot be for now."""
        ...

    async def close(self) -> object:
        """Flush and release everything; further events are refused and counted."""
        ...


@runtime_checkable
class AnalyticsExporter(Protocol):
    """A collector that pushes to a monitoring system instead of keeping events; the methods are the same."""

    async def record(self, event: FlagEvaluationEvent) -> None: ...

    async def flush(self) -> object: ...

    async def close(self) -> object: ...


@attrs.frozen(repr=False)
class Batch:
    """Events that are delivered together: the same members, order and id at every attempt until resolved.

    A refused batch is split; a part's id is its parent's with the range appended, so that it too is always the same.
    """

    id: str
    events: tuple[FrozenEvent, ...]

    def __len__(self) -> int:
        return len(self.events)

    def __iter__(self) -> Iterator[FrozenEvent]:
        return iter(self.events)

    def __repr__(self) -> str:
        return f"Batch({self.id!r}, {len(self.events)} events)"


@runtime_checkable
class BatchSink(Protocol):
    """A backend that is written to in batches; log, retries, deadlines and accounting are the delivery engine's.

    ``write`` is all it needs. It runs on the sink's own delivery thread, in its event loop, never concurrently, as do
    the others but where they say otherwise. Further attributes are used where present:

    - ``async def open(self)``: called before the first write, and again after a failed open;
    - ``async def close(self)``: releases connections; called once, after the last write;
    - ``def prepare(self, event: FrozenEvent)``: called once for each event before its batch is written, without any
      I/O; an exception says that the event itself is bad;
    - ``async def ping(self)``: raises unless the backend answers on a fresh connection; it is how a batch that
      breaks connections is told from a backend that is down;
    - ``async def write_dead_letters(self, letters: Sequence[DeadLetter])``: keeps events that were refused;
    - ``def after_fork_in_child(self)``: called in a forked child, in the thread that forked: forgets, without closing,
      what belongs to the parent; the next write opens anew. It must not wait, log or open anything;
    - ``delivery: DeliveryOptions``: how this sink is delivered to, below the user's own settings;
    - ``def traceparent(self) -> str | None``: called in ``record`` for the caller's trace context.
    """

    async def write(self, batch: Batch) -> object:
        """Store the whole batch, or raise; a ``BadBatch`` may be returned as well.

        The same ids may come again after ``CommitUnknown``, a timeout or a crash: store each id once.

        Raises:
            BadBatch: the content is refused: the events that it names, or else the batch is split until they are found.
            SinkUnavailable: nothing was stored; the same batch is tried again after a pause.
            CommitUnknown: it may have been stored; likewise.
            FatalConfiguration: no attempt can succeed before ``reopen``.
            Exception: anything else counts as not stored and is tried again. A batch that goes on failing is set aside,
                so that others flow; no event is given up without proof that it is the cause.
        """
        ...


@runtime_checkable
class InlineSink(Protocol):
    """A backend that only touches memory and takes each event in the caller's thread, without a queue.

    It gets the caller's own event object or a ``FrozenEvent``, must be safe from any thread, and must not keep a
    reference to anything mutable in the event.
    """

    def record_nowait(self, event: Any) -> RecordResult:
        """Take one event; never raises, never waits."""
        ...

    async def flush(self) -> object: ...

    async def close(self) -> object: ...


class Processor(Protocol):
    """Changes or drops events before any sink sees them; runs in the caller's thread, so it must be quick."""

    def __call__(self, event: FlagEvaluationEvent) -> FlagEvaluationEvent | None:
        """Return the event to record, or None to drop it."""
        ...


def _check_options(factory: Any, _: attrs.Attribute[Any], options: Any) -> None:
    if not (isinstance(options, type) and attrs.has(options)):
        raise TypeError(f"options of {factory.name!r} is {options!r}: expected an attrs class")
    for field in attrs.fields(options):
        if type(field.default).__hash__ is None:
            raise TypeError(
                f"{options.__name__}.{field.name} has a mutable default, which all instances would share: "
                f"write attrs.field(factory={type(field.default).__name__})"
            )


def _check_create(factory: Any, _: attrs.Attribute[Any], create: Any) -> None:
    expected = f"create of {factory.name!r} is wrong: expected a plain function create(options)"
    if not callable(create) or inspect.iscoroutinefunction(create):
        raise TypeError(expected)
    try:
        signature = inspect.signature(create)
    except ValueError:
        return  # built in, without a signature
    try:
        signature.bind(None)
    except TypeError as error:
        raise TypeError(f"{expected}, and it has {signature} ({error})") from None


@attrs.frozen
class Backend(Generic[Options]):
    """A collector, exporter or source that a plugin offers: its name, an attrs class of options, and its factory.

    ``create(options)`` does no I/O and returns a ``BatchSink``, an ``InlineSink`` or a plain ``AnalyticsCollector``, or
    of a source an ``EventSource``. It
    runs in a thread without an event loop, for at most 60 seconds. Fields of the options whose metadata has
    ``secret=True`` are never shown. One that is a setting of the delivery engine under another name says so with
    ``delivery="flush_interval_seconds"``.

    Raises:
        TypeError: the options are no attrs class or have a mutable default, or ``create`` does not take options.
    """

    name: str
    options: type[Options] = attrs.field(validator=_check_options)
    create: Callable[[Options], BatchSink | InlineSink | AnalyticsCollector | EventSource] = attrs.field(
        repr=False, validator=_check_create
    )


@attrs.frozen
class ProcessorFactory(Generic[Options]):
    """A processor that a plugin offers, as ``Backend`` is a sink: ``create(options)`` returns a ``Processor``."""

    name: str
    options: type[Options] = attrs.field(validator=_check_options)
    create: Callable[[Options], Processor] = attrs.field(repr=False, validator=_check_create)
