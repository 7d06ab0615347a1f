"""Every option of the OpenTelemetry exporter, its unit and its default."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal

import attrs
from flag_analytics.reports import DeliveryOptions

from .shaping import AttributeMapper, EventMutator

__all__ = ["OTelOptions", "Parent", "Semconv"]

Semconv = Literal["legacy", "stable", "both"]
Parent = Literal["link", "child"]

_NEVER_SECONDS = 365 * 86_400.0
"""Stands for "no timer": longer than any process waits, and still a number every clock can add."""


def _names(names: Iterable[str]) -> frozenset[str]:
    if isinstance(names, str):
        raise TypeError("exclude_attributes is one string: expected several names, such as ['feature_flag.value']")
    return frozenset(names)


@attrs.frozen(kw_only=True)
class OTelOptions:
    """Options of the exporter. Sizes are in events, times in seconds.

    Attributes:
        tracer_name: The instrumentation scope of spans.
        meter_name: The instrumentation scope of metrics.
        logger_name: The instrumentation scope of log records.
        batch_size: The most events in one batch; 0 for each event on its own, at once.
        flush_interval: The longest an event waits for its batch to fill; 0 for no timer: a batch goes when it is full
            or asked for.
        record_values: Whether flag values are recorded. In ``stable``, a value without a variant always is, as the
            convention requires; exclude ``feature_flag.result.value`` to prevent that too.
        create_spans: Whether ``legacy`` makes a span for each event.
        semconv: ``legacy`` (spans with litestar-flags' attributes), ``stable`` (log records as in the semantic
            conventions), or ``both``.
        parent: How a span belongs to the trace that was current when the event was recorded: ``link`` (a trace of its
            own, linked) or ``child``.
        attribute_mapper: Called with each event for further attributes of its span and log record.
        exclude_attributes: Names of attributes to leave out, of spans, log records and metrics.
        event_mutator: Called with each span and log record before it is emitted; returns it, changed or not, or None
            to drop it.
        max_flags: The most flag keys on metrics; further ones are ``__other__``.
        max_variants: The most variants of one flag on metrics; further ones are ``__other__``.
        max_attribute_sets: The most attribute sets of one metric; the last one is ``otel.metric.overflow``.
    """

    tracer_name: str = "flag_analytics"
    meter_name: str = "flag_analytics"
    logger_name: str = "flag_analytics"
    batch_size: int = attrs.field(default=100, validator=attrs.validators.ge(0))
    flush_interval: float = attrs.field(
        default=30.0, validator=attrs.validators.ge(0), metadata={"delivery": "flush_interval_seconds"}
    )
    record_values: bool = False
    create_spans: bool = True
    semconv: Semconv = attrs.field(default="legacy", validator=attrs.validators.in_(("legacy", "stable", "both")))
    parent: Parent = attrs.field(default="link", validator=attrs.validators.in_(("link", "child")))
    attribute_mapper: AttributeMapper | None = None
    exclude_attributes: frozenset[str] = attrs.field(default=frozenset(), converter=_names)
    event_mutator: EventMutator | None = None
    max_flags: int = attrs.field(default=1_000, validator=attrs.validators.ge(1))
    max_variants: int = attrs.field(default=50, validator=attrs.validators.ge(1))
    max_attribute_sets: int = attrs.field(default=2_000, validator=attrs.validators.ge(2))

    @property
    def spans(self) -> bool:
        return self.create_spans and self.semconv != "stable"

    @property
    def logs(self) -> bool:
        return self.semconv != "legacy"

    def engine_options(self, base: DeliveryOptions | None = None) -> DeliveryOptions:
        """Return ``base``, or the engine's defaults, changed as ``batch_size`` and ``flush_interval`` ask for."""
        changes: dict[str, Any] = {"batch_size": self.batch_size, "flush_interval_seconds": self.flush_interval}
        if self.batch_size == 0:
            changes = {"batch_size": 1, "flush_interval_seconds": 0.0}
        elif self.flush_interval == 0:
            changes["flush_interval_seconds"] = _NEVER_SECONDS
        return (base or DeliveryOptions()).evolve(**changes)
