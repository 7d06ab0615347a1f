"""The shapes that other tools write their events in: how each is recognised, and where its fields are.

A shape with ``adapt`` makes an event's fields of a record itself; one with ``unpack`` has many records in one document.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any

import attrs
from flag_analytics.events import EventKind

from . import goff, launchdarkly, otlp
from .fields import Fields

__all__ = ["EVENTS", "SHAPES", "TABLE", "Shape", "shape_of"]

Record = Mapping[str, Any]


@attrs.frozen(kw_only=True)
class Shape:
    """One shape of file.

    Attributes:
        key: Its name for ``--file-format``.
        name: Its name for people.
        marks: Sets of names; a file that has all of one set is of this shape.
        fields: Field of an event to the names or dotted paths it may be at, the first that is not empty counts.
        context: Attribute of the evaluation context to path; ``*`` takes all members of an object.
        only: The one name of event that is about a flag, as (path, names); others are skipped.
        kind: The kind of its events.
        provider: The name of the provider, where the file has none.
        adapt: Returns the fields of an event by name, from a record.
        document: The member of a document that has many records.
        unpack: Returns the records in such a document.
    """

    key: str
    name: str
    marks: tuple[frozenset[str], ...] = ()
    fields: Mapping[str, tuple[str, ...]] = attrs.field(factory=dict[str, tuple[str, ...]])
    context: Mapping[str, str] = attrs.field(factory=dict[str, str])
    only: tuple[str, frozenset[str]] | None = None
    kind: EventKind = "exposure"
    provider: str | None = None
    adapt: Callable[[Record], Fields] | None = None
    document: str = ""
    unpack: Callable[[Record], Iterable[Record]] | None = None

    def matches(self, names: Collection[str]) -> bool:
        return any(mark <= set(names) for mark in self.marks)


def _marks(*sets: str) -> tuple[frozenset[str], ...]:
    return tuple(frozenset(names.split()) for names in sets)


_TRACK_FIELDS = {
    "timestamp": ("timestamp", "originalTimestamp", "original_timestamp", "receivedAt", "received_at", "sentAt"),
    "flag_key": (
        *("properties.experiment_id", "properties.experimentId", "experiment_id"),
        *("properties.experiment_name", "properties.experimentName", "experiment_name"),
    ),
    "variant": (
        *("properties.variation_id", "properties.variationId", "variation_id"),
        *("properties.variation_name", "properties.variationName", "variation_name"),
    ),
    "targeting_key": ("userId", "user_id", "anonymousId", "anonymous_id"),
    "event_id": ("messageId", "id"),
}
_VIEWED = ("event", frozenset({"Experiment Viewed", "experiment_viewed"}))
_EXPERIMENT = {
    "timestamp": ("timestamp", "received_at", "event_timestamp", "time", "first_exposure_utc"),
    "targeting_key": ("user_id", "unit_id", "stable_id", "anonymous_id", "device_id"),
}

EVENTS = Shape(key="jsonl", name="flag-analytics events", kind="evaluation")
TABLE = Shape(key="csv", name="a table of exposures")
SHAPES = (
    Shape(
        key="otlp",
        name="OpenTelemetry log records",
        marks=_marks("resourceLogs"),
        kind="evaluation",
        adapt=otlp.adapt,
        document="resourceLogs",
        unpack=otlp.unpack,
    ),
    Shape(
        key="goff",
        name="GO Feature Flag events",
        marks=_marks("kind userKey creationDate key", "meta events"),
        kind="evaluation",
        provider=goff.PROVIDER,
        adapt=goff.adapt,
        document="events",
        unpack=goff.unpack,
    ),
    Shape(
        key="launchdarkly",
        name="LaunchDarkly events",
        marks=_marks(
            *(f"kind creationDate {name}" for name in ("context", "contextKeys", "contextKey", "user", "userKey")),
            "kind startDate features",
        ),
        kind="evaluation",
        provider=launchdarkly.PROVIDER,
        adapt=launchdarkly.adapt,
    ),
    Shape(
        key="launchdarkly",
        name="LaunchDarkly evaluations from a warehouse",
        marks=_marks("flag_key context_key variation_id"),
        fields={
            "timestamp": ("creation_time", "received_time"),
            "flag_key": ("flag_key",),
            "variant": ("variation_id",),
            "value": ("variation_value",),
            "targeting_key": ("context_key",),
            "reason": ("reason_kind",),
            "context_attributes": ("context_attributes",),
        },
        context={"context_kind": "context_kind", "environment": "environment_id"},
        kind="evaluation",
        provider=launchdarkly.PROVIDER,
    ),
    Shape(
        key="posthog",
        name="PostHog events",
        marks=_marks("event distinct_id", "event properties.distinct_id"),
        fields={
            "timestamp": ("timestamp",),
            "flag_key": ("$feature_flag", "properties.$feature_flag"),
            "variant": ("$feature_flag_response", "properties.$feature_flag_response"),
            "targeting_key": ("distinct_id", "properties.distinct_id"),
            "flag_version": ("$feature_flag_version", "properties.$feature_flag_version"),
            "event_id": ("uuid",),
        },
        only=("event", frozenset({"$feature_flag_called"})),
        provider="PostHog",
    ),
    Shape(
        key="flagsmith",
        name="Flagsmith events",
        marks=_marks("environment_key event identifier"),
        fields={
            "timestamp": ("timestamp",),
            "flag_key": ("feature_name",),
            "variant": ("value",),
            "value": (),
            "targeting_key": ("identifier",),
            "context_attributes": ("traits",),
        },
        only=("event", frozenset({"$flag_exposure"})),
        provider="Flagsmith",
    ),
    Shape(
        key="rudderstack",
        name="RudderStack track calls",
        marks=_marks("type messageId rudderId", "type messageId channel originalTimestamp"),
        fields=_TRACK_FIELDS,
        only=_VIEWED,
    ),
    Shape(
        key="segment",
        name="Segment track calls",
        marks=_marks("type messageId", "event_text anonymous_id experiment_id"),
        fields=_TRACK_FIELDS,
        only=_VIEWED,
    ),
    Shape(
        key="datadog",
        name="Datadog exposures",
        marks=_marks("timestamp flag allocation variant subject"),
        fields={
            "timestamp": ("timestamp",),
            "flag_key": ("flag.key",),
            "variant": ("variant.key",),
            "targeting_key": ("subject.id",),
            "context_attributes": ("subject.attributes",),
        },
        context={"allocation": "allocation.key"},
        provider="Datadog",
    ),
    Shape(
        key="eppo",
        name="Eppo assignments",
        marks=_marks("subject variation featureflag", "subject variation experiment"),
        fields={
            "timestamp": ("timestamp",),
            "flag_key": ("featureFlag", "experiment"),
            "variant": ("variation",),
            "targeting_key": ("subject",),
            "context_attributes": ("subjectAttributes",),
        },
        context={"allocation": "allocation"},
        provider="Eppo",
    ),
    Shape(
        key="statsig",
        name="Statsig exposures",
        marks=_marks("experimentid groupid", "experimentid groupname", "name experimentgroup firstexposureutc"),
        fields={
            **_EXPERIMENT,
            "flag_key": ("experiment_id", "name"),
            "variant": ("group_name", "experiment_group", "group_id"),
            "context_attributes": ("user_dimensions",),
        },
        context={"rule": "rule"},
        provider="Statsig",
    ),
    Shape(
        key="growthbook",
        name="GrowthBook exposures",
        marks=_marks("experimentid variationid"),
        fields={**_EXPERIMENT, "flag_key": ("experiment_id",), "variant": ("variation_id",)},
    ),
)


def shape_of(names: Collection[str], otherwise: Shape, key: str | None = None) -> Shape:
    """Return the shape of a file with these columns or members, among those of a key where one is given.

    Names match as they are, or without their case and separators.
    """
    from .columns import plain

    candidates = [shape for shape in SHAPES if key in {None, shape.key}]
    every = {*names, *map(plain, names)}
    found = next((shape for shape in candidates if shape.matches(every)), None)
    if found is not None:
        return found
    return candidates[0] if key is not None and candidates else otherwise
