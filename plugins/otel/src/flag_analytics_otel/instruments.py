"""The metrics of the exporter: two counters and two histograms, bounded, without a targeting key."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from flag_analytics.frozen import FrozenEvent
from opentelemetry.context import Context
from opentelemetry.metrics import Meter

from .attributes import ERROR_TYPE, KEY, LEGACY_REASON, RESULT_REASON, RESULT_VARIANT
from .cardinality import OTHER, AttributeSets, Labels
from .tally import Tally

__all__ = ["DURATION_BOUNDARIES", "Instruments"]

EVENTS_RECORDED = "feature_flag.analytics.events_recorded"
BATCH_SIZE = "feature_flag.analytics.batch_size"
EVALUATIONS = "feature_flag.evaluations"
DURATION = "feature_flag.evaluation.duration"

DURATION_BOUNDARIES = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0)
"""Seconds, from 100 microseconds to 1 second; advice that a view can override."""

_Share = tuple[dict[str, Any], float, Context]
"""An attribute set, its part of a batch, and the trace its exemplar shows."""


def _no_pause() -> None:
    pass


class Instruments:
    """Records a batch: counters once for each attribute set, durations one by one, exemplars from each event's trace.

    Used from one thread at a time.
    """

    def __init__(
        self,
        meter: Meter,
        *,
        exclude: frozenset[str],
        max_flags: int,
        max_variants: int,
        max_attribute_sets: int,
        tally: Tally,
    ) -> None:
        self.events_recorded = meter.create_counter(EVENTS_RECORDED, "1", "Analytics events recorded.")
        self.batch_size = meter.create_histogram(BATCH_SIZE, "1", "Events in one batch of analytics events.")
        self.evaluations = meter.create_counter(
            EVALUATIONS, "{evaluation}", "Feature flag evaluations; a sampled event counts 1 / sample_rate."
        )
        self.duration = meter.create_histogram(
            DURATION,
            "s",
            "How long feature flag evaluations took.",
            explicit_bucket_boundaries_advisory=DURATION_BOUNDARIES,
        )
        self._labels = Labels(max_flags, max_variants, tally)
        self._recorded_sets = AttributeSets(max_attribute_sets, exclude, tally)
        self._evaluation_sets = AttributeSets(max_attribute_sets, exclude, tally)
        self._duration_sets = AttributeSets(max_attribute_sets, exclude, tally)

    def record(self, events: Iterable[tuple[FrozenEvent, Context]], pause: Callable[[], None] = _no_pause) -> None:
        """Record events with the trace contexts they were recorded in; ``pause`` is called between them."""
        recorded: dict[int, _Share] = {}
        evaluated: dict[int, _Share] = {}
        size = 0
        for event, context in events:
            size += 1
            pause()
            labels = self._labels.of(event)
            self._count(recorded, self._recorded_attributes(labels), context, 1)
            if event.kind != "evaluation":
                continue
            weight = 1 if event.sample_rate == 1.0 else 1.0 / event.sample_rate
            self._count(evaluated, self._evaluation_attributes(labels), context, weight)
            if event.evaluation_duration_ms > 0:  # 0.0 means not measured
                seconds = event.evaluation_duration_ms / 1_000
                self.duration.record(seconds, self._duration_attributes(labels), context)
        for attributes, count, context in recorded.values():
            self.events_recorded.add(count, attributes, context)
        for attributes, count, context in evaluated.values():
            self.evaluations.add(count, attributes, context)
        if size:
            self.batch_size.record(size)

    def _count(self, shares: dict[int, _Share], attributes: dict[str, Any], context: Context, weight: float) -> None:
        """Add to the share of an attribute set, which is one and the same dict each time."""
        share = shares.get(id(attributes))
        if share is None:
            shares[id(attributes)] = (attributes, weight, context)
        else:
            # The exemplar shows one of the traces: prefer any to none.
            shares[id(attributes)] = (attributes, share[1] + weight, context or share[2])

    def _recorded_attributes(self, labels: tuple[str, str, str, str]) -> dict[str, Any]:
        flag_key, _, reason, _ = labels
        # litestar-flags writes reasons in capitals here; the name beyond the limits stays as it is.
        written = reason if reason == OTHER else reason.upper()
        return self._recorded_sets.get((flag_key, reason), lambda: {KEY: flag_key, LEGACY_REASON: written})

    def _evaluation_attributes(self, labels: tuple[str, str, str, str]) -> dict[str, Any]:
        flag_key, variant, reason, error = labels
        return self._evaluation_sets.get(
            labels,
            lambda: {
                KEY: flag_key,
                RESULT_REASON: reason,
                **({RESULT_VARIANT: variant} if variant else {}),
                **({ERROR_TYPE: error} if error else {}),
            },
        )

    def _duration_attributes(self, labels: tuple[str, str, str, str]) -> dict[str, Any]:
        flag_key = labels[0]
        return self._duration_sets.get(flag_key, lambda: {KEY: flag_key})
