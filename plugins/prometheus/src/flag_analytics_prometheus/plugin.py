"""The entry point: the exporter as a plugin of flag-analytics."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Literal

import attrs
from flag_analytics.errors import PluginError, SourceError
from flag_analytics.hookspecs import hookimpl
from flag_analytics.logs import get_logger
from flag_analytics.protocols import Backend

from .exporter import PrometheusExporter
from .labels import LabelCaps
from .series import DEFAULT_DURATION_BUCKETS, check_buckets, metric_stem

if TYPE_CHECKING:
    from flag_analytics.pipeline import Pipeline

__all__ = [
    "PrometheusOptions",
    "flag_analytics_pipeline_started",
    "flag_analytics_register_exporters",
]

logger = get_logger(__name__)

_at_least_one = attrs.validators.ge(1)
_above_zero = attrs.validators.gt(0.0)


@attrs.frozen(kw_only=True)
class PrometheusOptions:
    """The options of ``[exporters.prometheus]``. Times are in seconds.

    Attributes:
        prefix: The start of metric names.
        duration_buckets: Upper bounds of the duration histogram.
        max_flag_keys: The most flag keys with labels of their own.
        max_variants: The most variants of one flag with labels of their own.
        max_series: The most combinations of flag key, reason and variant.
        extra_reasons: Reasons with a label of their own besides those of ``EvaluationReason``.
        gauges: ``observed`` by this process since its start, or read from the pipeline's ``aggregator`` at each scrape.
        gauge_flag_keys: The flags to read from the aggregator; empty means those with the most evaluations.
        gauge_window_seconds: The aggregator's window, up to the scrape.
        gauge_timeout_seconds: The longest a scrape waits for the aggregator.
        port: Where to serve ``/metrics`` over HTTP; None means nowhere, 0 any port that is free.
        address: The address to serve on; ``0.0.0.0`` means all of this machine's.
    """

    prefix: str = attrs.field(
        default="", validator=lambda _, __, prefix: metric_stem(prefix), metadata={"discreet_validator": True}
    )
    duration_buckets: tuple[float, ...] = attrs.field(
        default=DEFAULT_DURATION_BUCKETS, validator=lambda _, __, buckets: check_buckets(buckets)
    )
    max_flag_keys: int = attrs.field(default=1_000, validator=_at_least_one)
    max_variants: int = attrs.field(default=50, validator=_at_least_one)
    max_series: int = attrs.field(default=5_000, validator=_at_least_one)
    extra_reasons: tuple[str, ...] = ()
    gauges: Literal["observed", "aggregator"] = attrs.field(
        default="observed", validator=attrs.validators.in_(("observed", "aggregator"))
    )
    gauge_flag_keys: tuple[str, ...] = ()
    gauge_window_seconds: float = attrs.field(default=3600.0, validator=_above_zero)
    gauge_timeout_seconds: float = attrs.field(default=1.0, validator=_above_zero)
    port: int | None = attrs.field(
        default=None,
        validator=attrs.validators.optional(attrs.validators.and_(attrs.validators.ge(0), attrs.validators.le(65535))),
    )
    address: str = "127.0.0.1"


class _ConfiguredExporter(PrometheusExporter):
    """An exporter as configuration describes it."""

    def __init__(self, options: PrometheusOptions) -> None:
        caps = LabelCaps(
            max_flag_keys=options.max_flag_keys,
            max_variants=options.max_variants,
            max_series=options.max_series,
            extra_reasons=options.extra_reasons,
        )
        super().__init__(None, options.prefix, options.duration_buckets, caps=caps)
        self._options = options
        # Here and not once the pipeline runs: a port that is taken is an error of the configuration.
        if options.port is not None:
            try:
                self.serve(options.port, options.address)
            except OSError as error:
                raise PluginError(
                    f"cannot serve metrics on {options.address} port {options.port} ({error.strerror}): "
                    "choose another port, or none and use asgi_app or wsgi_app"
                ) from None

    def start(self, pipeline: Pipeline) -> None:
        options = self._options
        if options.gauges == "aggregator":
            try:
                aggregator: object = pipeline.aggregator
            except SourceError:
                logger.warning(
                    "exporters.prometheus.gauges is 'aggregator', but no collector of the pipeline keeps events: "
                    "the gauges stay empty. Add one, for example [collectors.memory]"
                )
                aggregator = None  # every scrape counts a failure, so that it is visible there, too
            self.read_gauges_from(
                aggregator,
                options.gauge_flag_keys or None,
                window_seconds=options.gauge_window_seconds,
                timeout_seconds=options.gauge_timeout_seconds,
            )


@hookimpl
def flag_analytics_register_exporters() -> Sequence[Backend[PrometheusOptions]]:
    return (Backend("prometheus", PrometheusOptions, _ConfiguredExporter),)


@hookimpl
def flag_analytics_pipeline_started(pipeline: Pipeline) -> None:
    for exporter in _exporters(pipeline):
        exporter.exposition.ledgers.add(pipeline)
        if isinstance(exporter, _ConfiguredExporter):
            exporter.start(pipeline)


def _exporters(pipeline: Pipeline) -> Iterator[PrometheusExporter]:
    for exporter in pipeline.exporters.values():
        if isinstance(exporter, PrometheusExporter):
            yield exporter
