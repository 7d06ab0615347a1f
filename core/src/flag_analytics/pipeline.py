"""One pipeline: events in, processors over them, out to every configured collector and exporter.

::

    async with open_pipeline() as pipeline:       # or `with`, in code without an event loop
        pipeline.record_nowait(event)
        metrics = await pipeline.aggregator.get_flag_metrics("my_flag")
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, cast

from .collector_sink import as_sink
from .config.plan import Plan
from .config.reading import Source, read_config
from .errors import PluginNotInstalledError, SourceError
from .fanout import Fanout, Record
from .inline import InlineSinks, run_inline
from .processes import new_event_loop, start_thread, wait_for_end
from .processing import Processing
from .protocols import BatchSink, InlineSink, Processor, RecordResult
from .recording import record_evaluation
from .registry import Registry, default_registry
from .reports import DeadLetter, DeliveryOptions, DeliveryReport, DeliveryStats
from .sink_processing import ProcessedSink, processed
from .sources import EventSource
from .waiting import in_thread

if TYPE_CHECKING:
    from .aggregator import AnalyticsAggregator

__all__ = ["Pipeline", "open_pipeline"]

_CLOSE_TIMEOUT_SECONDS = 5.0


class Pipeline:
    """Takes evaluation events and delivers each to every collector and exporter.

    Made by ``open_pipeline``. Use it as a context manager, ``async with`` or ``with``, or call ``close``. Every method
    is safe from any thread and any number of event loops.

    Attributes:
        record_nowait: Takes one event: ``FlagEvaluationEvent`` or any object with the same attributes. Returns an
            ``RecordResult``: accepted, or why not. Never raises, never waits for a backend.
        collectors: What the collector backends created, by name in configuration.
        exporters: What the exporter backends created, by name in configuration.
        sources: The event sources that are no collectors, by name in configuration.
        plan: The configuration it was composed of; None for one that was put together by hand.
    """

    record_nowait: Record

    def __init__(
        self,
        fanout: Fanout,
        *,
        collectors: Mapping[str, Any],
        exporters: Mapping[str, Any],
        sources: Mapping[str, EventSource] | None = None,
        processors: Sequence[tuple[str, Processor]] = (),
        plugins: Sequence[str] = (),
        registry: Registry | None = None,
        plan: Plan | None = None,
    ) -> None:
        self.plan = plan
        self.collectors = dict(collectors)
        self.exporters = dict(exporters)
        self.sources = dict(sources or {})
        self._fanout = fanout
        self._plugins = tuple(plugins)
        self._registry = registry or default_registry()
        self._aggregator: AnalyticsAggregator | None = None
        self._to_announce = ["closing"]
        # Bound here, once: without processors an event costs what its destinations cost, and nothing more.
        self.record_nowait = Processing(processors, fanout).record_nowait if processors else fanout.record_nowait

    async def record(self, event: Any) -> None:
        """Take one event, as ``record_nowait``; never waits, and never raises for an event."""
        self.record_nowait(event)

    def record_outcome(
        self,
        metric: str,
        *,
        user: str | None,
        value: float | None = None,
        attributes: Mapping[str, Any] | None = None,
    ) -> RecordResult:
        """Record what a user did, such as a purchase, as an event of the kind ``outcome``; never raises, never waits.

        It is no evaluation, and ``metric`` no flag: ``aggregator.get_outcomes`` counts it for the flags that the user
        met before.

        Args:
            metric: The name of the outcome.
            user: Who: the targeting key of evaluations.
            value: A number that belongs to it, such as a price.
            attributes: Further attributes.
        """
        return record_evaluation(self, metric, value, user=user, attributes=attributes, kind="outcome")

    async def flush(self, timeout: float = 30.0) -> DeliveryReport:
        """Wait, at most ``timeout`` seconds, until all that was recorded before is stored; the report is true if so."""
        return await self._fanout.flush(timeout)

    def flush_sync(self, timeout: float = 30.0) -> DeliveryReport:
        """``flush`` for callers without an event loop."""
        return self._fanout.flush_sync(timeout)

    async def close(self, timeout: float | None = None) -> DeliveryReport:
        """Refuse further events, deliver what waits within ``timeout`` seconds, close every backend.

        Every caller gets the same report, however often it is called. The default timeout is the configuration's
        ``delivery.close_timeout_seconds``.
        """
        self._announce_closing()
        report = await self._fanout.close(timeout)
        if self.sources:
            await in_thread(_close_all, self.sources.values())
        return report

    def close_sync(self, timeout: float | None = None) -> DeliveryReport:
        """``close`` for callers without an event loop."""
        self._announce_closing()
        report = self._fanout.close_sync(timeout)
        if self.sources:
            _close_all(self.sources.values())
        return report

    def reopen(self, sink: str) -> None:
        """Try a sink again that raised ``FatalConfiguration``, once its cause is mended.

        Raises:
            ValueError: there is no such sink.
        """
        self._fanout.reopen(sink)

    def stats(self) -> DeliveryStats:
        """Return the ledger: what became of every event, by sink and by reason. Does no I/O."""
        stats = self._fanout.stats()
        future = self._count_future()
        return stats if future is None else _with_future(stats, future)

    def health(self) -> dict[str, Any]:
        """Return ``status`` (``ok``, ``degraded``, ``closed``) and the state and role of each sink; no I/O."""
        health = self._fanout.stats().health(closed=self.closed)
        for name, sink in health["sinks"].items():
            sink["role"] = "collector" if name in self.collectors else "exporter"
        return health

    def dead_letters(self) -> tuple[DeadLetter, ...]:
        """Return the latest events that backends refused for good, at most 1,000."""
        return self._fanout.dead_letters()

    def forget_dead_letters(self, targeting_keys: Collection[str]) -> int:
        """Forget the dead letters in memory of these targeting keys; return how many there were."""
        return self._fanout.forget_dead_letters(targeting_keys)

    @property
    def closed(self) -> bool:
        """Whether ``close`` was called."""
        return self._fanout.closed

    @property
    def aggregator(self) -> AnalyticsAggregator:
        """Metrics over the first source, else the first collector that can be asked, those in memory last.

        Its ``source_name`` says which; ``aggregator_of`` asks another.

        Raises:
            SourceError: no collector keeps events that can be read back.
        """
        if self._aggregator is None:
            from .aggregator import AnalyticsAggregator

            name, source = self._readable()
            self._aggregator = AnalyticsAggregator(source, name=name)
        return self._aggregator

    def aggregator_of(self, name: str) -> AnalyticsAggregator:
        """Return metrics over one source or collector, by its name in configuration.

        Raises:
            SourceError: there is none of this name, or it cannot be asked.
        """
        from .aggregator import AnalyticsAggregator

        known = {**self.sources, **self.collectors}
        if name not in known:
            raise SourceError(f"this pipeline has no source or collector {name!r}: it has {', '.join(known) or 'none'}")
        return AnalyticsAggregator(self._source_of(name, known[name]), name=name)

    @property
    def event_source(self) -> EventSource:
        """What ``aggregator`` reads.

        Raises:
            SourceError: no collector keeps events that can be read back.
        """
        return self._readable()[1]

    def _readable(self) -> tuple[str, EventSource]:
        # What keeps events beyond this process knows more than what keeps them in memory.
        collectors = sorted(self.collectors.items(), key=lambda item: isinstance(item[1], InlineSink))
        for name, kept in (*self.sources.items(), *collectors):
            try:
                return name, self._source_of(name, kept)
            except SourceError:
                continue
        names = ", ".join(self.collectors) or "none"
        raise SourceError(
            f"no collector of this pipeline can be asked about its events (collectors: {names}): "
            "add one that keeps them, for example [collectors.memory]"
        )

    def _source_of(self, name: str, kept: Any) -> EventSource:
        return self._fanout.in_loop_of(name, self._registry.event_source_for(kept))

    def _count_future(self) -> int | None:
        """Return how many events are dated in the future, as far as sources in memory can tell without waiting."""
        counts = []
        for collector in self.collectors.values():
            if isinstance(collector, EventSource) and isinstance(collector, InlineSink):
                try:
                    counts.append(run_inline(collector.count_future(datetime.now(UTC))))
                except Exception:
                    pass  # the ledger is not worth less for a source that does not answer
        return sum(counts) if counts else None

    def _announce_closing(self) -> None:
        try:
            self._to_announce.pop()  # one step, so that of several callers only one announces
        except IndexError:
            return
        self._registry.pipeline_closing(self, self._plugins)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close_sync()

    def __repr__(self) -> str:
        names = ", ".join([*self.collectors, *self.exporters])
        return f"<Pipeline to {names}{' (closed)' if self.closed else ''}>"


def open_pipeline(
    source: Source | Plan = None,
    *,
    environ: Mapping[str, str] | None = None,
    registry: Registry | None = None,
    name: str = "pipeline",
) -> Pipeline:
    """Return an open pipeline of what configuration describes.

    It connects to nothing yet, but for a backend whose own options ask for that (``require_database``).

    Args:
        source: A mapping, the path of a TOML file, a ``Plan``, or None; see ``flag_analytics.config``.
        environ: The environment, by default that of the process.
        registry: Where plugins come from, by default those that are installed.
        name: Tells the spools of this pipeline from those of others in the same directory.

    Raises:
        ConfigError: everything that is wrong with the configuration, before anything is created.
        PluginError: a backend could not be created; those that were are closed again.
    """
    registry = registry or default_registry()
    plan = source if isinstance(source, Plan) else read_config(source, environ=environ, registry=registry)
    created: dict[str, Any] = {}
    try:
        for planned in plan.sinks:
            created[planned.name] = planned.create()
        sinks = {
            planned.name: processed(as_sink(created[planned.name]), [each.create() for each in planned.processors])
            for planned in plan.sinks
        }
        created |= {planned.name: planned.create() for planned in plan.sources}
        processors = [(planned.name, planned.create()) for planned in plan.processors]
        fanout = _fan_out(plan, sinks, name, partial(_tell_of_dead_letters, registry, plan.plugins))
    except BaseException:
        _close_all(created.values())
        raise
    pipeline = Pipeline(
        fanout,
        collectors={planned.name: created[planned.name] for planned in plan.sinks if planned.role == "collector"},
        exporters={planned.name: created[planned.name] for planned in plan.sinks if planned.role == "exporter"},
        sources={planned.name: created[planned.name] for planned in plan.sources},
        processors=processors,
        plugins=plan.plugins,
        registry=registry,
        plan=plan,
    )
    registry.pipeline_started(pipeline, plan.plugins)
    return pipeline


def _fan_out(
    plan: Plan,
    sinks: Mapping[str, BatchSink | InlineSink],
    name: str,
    on_dead_letters: Callable[[str, str, Sequence[DeadLetter]], None],
) -> Fanout:
    options = plan.delivery_options()
    inline = {name: sink for name, sink in sinks.items() if not _is_batch_sink(sink)}
    batch = {name: sink for name, sink in sinks.items() if name not in inline}
    engine = None
    if batch:
        engine = _delivery_class()(
            batch,
            options,
            sink_options={
                planned.name: plan.sink_options(planned, _sink_defaults(sinks[planned.name]))
                for planned in plan.sinks
                if planned.name in batch
            },
            name=name,
            on_dead_letters=on_dead_letters,
        )
    inline_sinks = InlineSinks(cast("dict[str, InlineSink]", inline))
    return Fanout(
        tuple(sinks),
        inline_sinks,
        engine,
        close_timeout_seconds=options.close_timeout_seconds,
        filtering={name: sink for name, sink in batch.items() if isinstance(sink, ProcessedSink)},
    )


def _delivery_class() -> Any:
    try:
        from flag_analytics_delivery import Delivery
    except ModuleNotFoundError as error:
        missing = error.name
    else:
        return Delivery
    raise PluginNotInstalledError(
        f"a backend that is written to in batches needs the delivery engine, and {missing} is not installed: "
        "run `pip install flag-analytics-delivery`"
    )


def _is_batch_sink(created: Any) -> bool:
    return callable(getattr(created, "write", None))


def _sink_defaults(sink: Any) -> DeliveryOptions | None:
    defaults = getattr(sink, "delivery", None)
    return defaults if isinstance(defaults, DeliveryOptions) else None


def _tell_of_dead_letters(
    registry: Registry, plugins: Sequence[str], sink: str, error: str, letters: Sequence[DeadLetter]
) -> None:
    registry.delivery_failed(sink, error, letters, plugins)


def _close_all(created: Iterable[Any]) -> None:
    """Close what was created, where it can be closed, in a thread: there may be a loop in this one, or none."""

    async def close_each() -> None:
        for one in created:
            try:
                result = one.close()
                if inspect.isawaitable(result):
                    await result
            except Exception:
                pass  # there is no close, or what is reported is why the pipeline could not be opened

    def run() -> None:
        with asyncio.Runner(loop_factory=new_event_loop) as runner:
            runner.run(close_each())

    thread = start_thread(run, name="close")
    if thread is not None:
        wait_for_end(thread, _CLOSE_TIMEOUT_SECONDS)


def _with_future(stats: DeliveryStats, future: int) -> DeliveryStats:
    import attrs

    return attrs.evolve(stats, future_events=future)
