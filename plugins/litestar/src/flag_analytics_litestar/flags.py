"""The bridge to litestar-flags: its client records into the pipeline, and its admin API answers from it.

litestar-flags (0.2) gives its plugin's client no collector, and its admin API takes objects of its own classes alone.
So a client with the same storage, context and cache takes the place of the plugin's in the application's state, which
is where it is looked up, and the collector and aggregator there are of its classes, over the pipeline.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from flag_analytics.pipeline import Pipeline

if TYPE_CHECKING:
    from litestar import Litestar

__all__ = ["FlagsBridge", "flags_plugin"]


def flags_plugin(app: Litestar) -> Any:
    """Return the application's plugin of litestar-flags, None without one."""
    try:
        from litestar_flags import FeatureFlagsPlugin  # type: ignore[import-untyped]
    except ImportError:
        return None
    return next((plugin for plugin in app.plugins if isinstance(plugin, FeatureFlagsPlugin)), None)


class FlagsBridge:
    """Connects an application's litestar-flags with a pipeline.

    Args:
        pipeline: Open.
        most_events: The most events that a question of the admin API looks at, the newest.
    """

    def __init__(self, pipeline: Pipeline, most_events: int) -> None:
        self._pipeline = pipeline
        self._most_events = most_events

    def join(self, app: Litestar) -> None:
        """Put client, collector and aggregator into the application's state; litestar-flags has started."""
        from litestar_flags import FeatureFlagClient

        plugin = flags_plugin(app)
        client: Any = app.state.feature_flags
        collector = _collector(self._pipeline, self._most_events)
        app.state.feature_flags = FeatureFlagClient(
            storage=client.storage,
            default_context=plugin.config.default_context,
            rate_limiter=client.rate_limiter,
            cache=client.cache,
            analytics_collector=collector,
        )
        app.state.feature_flags_analytics_collector = collector
        app.state.feature_flags_analytics_aggregator = _aggregator(self._pipeline, collector)


def _collector(pipeline: Pipeline, most_events: int) -> Any:
    from litestar_flags.analytics import InMemoryAnalyticsCollector  # type: ignore[import-untyped]

    class PipelineCollector(InMemoryAnalyticsCollector):  # type: ignore[misc]
        """Records into the pipeline, and reads the newest events of its collector."""

        async def record(self, event: Any) -> None:
            pipeline.record_nowait(event)

        async def flush(self) -> None:
            await pipeline.flush()

        async def close(self) -> None:
            """Leave the pipeline open: it ends with the application's lifespan."""

        async def get_events(self, flag_key: str | None = None, limit: int | None = None) -> list[Any]:
            asked = most_events if limit is None else min(limit, most_events)
            return _as_theirs(await _readable(pipeline).get_events(flag_key, asked))

        async def get_event_count(self, flag_key: str | None = None) -> int:
            return len(await self.get_events(flag_key))

        async def clear(self) -> None:
            """Keep the events: they are the pipeline's."""

        def __len__(self) -> int:
            return pipeline.stats().accepted

    return PipelineCollector(max_size=most_events)


def _aggregator(pipeline: Pipeline, collector: Any) -> Any:
    from litestar_flags.analytics import AnalyticsAggregator

    class PipelineAggregator(AnalyticsAggregator):  # type: ignore[misc]
        """Asks the pipeline's own aggregator, which counts in the database."""

        async def get_flag_metrics(self, flag_key: str, window_seconds: int = 3600) -> Any:
            return await pipeline.aggregator.get_flag_metrics(flag_key, window_seconds)

    return PipelineAggregator(collector)


def _readable(pipeline: Pipeline) -> Any:
    source = pipeline.event_source
    for collector in pipeline.collectors.values():
        if source in (collector, getattr(collector, "event_source", None)):
            return collector
    return source


def _as_theirs(events: Iterable[Any]) -> list[Any]:
    """Return events as litestar-flags knows them; a reason that it does not know is its ``DEFAULT``."""
    from litestar_flags.analytics import FlagEvaluationEvent
    from litestar_flags.types import EvaluationReason  # type: ignore[import-untyped]

    known = {reason.value: reason for reason in EvaluationReason}
    return [
        FlagEvaluationEvent(
            timestamp=event.timestamp,
            flag_key=event.flag_key,
            value=event.value,
            reason=known.get(str(event.reason), EvaluationReason.DEFAULT),
            variant=event.variant,
            targeting_key=event.targeting_key,
            context_attributes=dict(event.context_attributes),
            evaluation_duration_ms=event.evaluation_duration_ms,
        )
        for event in events
    ]
