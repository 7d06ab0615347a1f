"""Log records of OpenTelemetry as JSON, with evaluations as its semantic conventions for feature flags have them.

Both the present names of attributes and those of earlier releases are read.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from .fields import FieldError, Fields, given
from .skipping import Skipped

__all__ = ["adapt", "unpack"]

_EVENTS = frozenset({"feature_flag.evaluation", "feature_flag"})
_NAMES: Mapping[str, tuple[str, ...]] = {
    "flag_key": ("feature_flag.key",),
    "value": ("feature_flag.result.value", "feature_flag.evaluation.value"),
    "reason": ("feature_flag.result.reason", "feature_flag.evaluation.reason", "feature_flag.reason"),
    "variant": ("feature_flag.result.variant", "feature_flag.variant"),
    "targeting_key": ("feature_flag.context.id",),
    "error_type": ("error.type",),
    "error_message": ("error.message", "feature_flag.error.message", "feature_flag.evaluation.error.message"),
    "flag_version": ("feature_flag.version",),
    "flag_set_id": ("feature_flag.set.id",),
    "provider_name": ("feature_flag.provider.name", "feature_flag.provider_name", "feature_flag.system"),
}
_ENVIRONMENTS = ("deployment.environment.name", "deployment.environment")


def unpack(document: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield each log record, its attributes and its resource's by name."""
    for resource_logs in _objects(document.get("resourceLogs")):
        resource = _attributes(resource_logs.get("resource") or {})
        for scope_logs in _objects(resource_logs.get("scopeLogs")):
            for record in _objects(scope_logs.get("logRecords")):
                yield {**record, "attributes": _attributes(record), "resource": resource}


def adapt(record: Mapping[str, Any]) -> Fields:
    """Return the fields of an event.

    Raises:
        Skipped: the record is about something else than a feature flag.
    """
    if "resource" not in record:
        raise FieldError("has no resourceLogs")
    attributes, resource = record["attributes"], record["resource"]
    name = record.get("eventName") or attributes.get("event.name") or "feature_flag"
    if "feature_flag.key" not in attributes or not isinstance(name, str) or name not in _EVENTS:
        raise Skipped("other log record")
    fields = {
        field: next((attributes[name] for name in names if name in attributes), None) for field, names in _NAMES.items()
    }
    environment = next((resource[name] for name in _ENVIRONMENTS if name in resource), None)
    moment = record.get("timeUnixNano")
    if moment in (None, "", "0", 0):
        moment = record.get("observedTimeUnixNano")
    return Fields(
        moment,
        fields.pop("flag_key"),
        fields.pop("value"),
        fields.pop("reason"),
        fields.pop("variant"),
        fields.pop("targeting_key"),
        {} if environment is None else {"environment": environment},
        given(fields),
    )


def _objects(values: Any) -> Iterable[Mapping[str, Any]]:
    if values is None:
        return ()
    if not isinstance(values, list) or not all(isinstance(value, Mapping) for value in values):
        raise FieldError("is not a list of OpenTelemetry's objects")
    return values


def _attributes(owner: Any) -> dict[str, Any]:
    if not isinstance(owner, Mapping):
        raise FieldError("is not made of OpenTelemetry's objects")
    return {str(pair.get("key")): _value(pair.get("value")) for pair in _objects(owner.get("attributes"))}


def _value(value: Any) -> Any:
    """Return the plain value of OpenTelemetry's tagged one."""
    if not isinstance(value, Mapping) or len(value) != 1:
        return None
    [(tag, content)] = value.items()
    if tag == "intValue":
        return int(content) if isinstance(content, str) and content.lstrip("-").isdigit() else content
    if tag == "arrayValue" and isinstance(content, Mapping):
        return [_value(part) for part in _objects(content.get("values"))]
    if tag == "kvlistValue" and isinstance(content, Mapping):
        return {str(pair.get("key")): _value(pair.get("value")) for pair in _objects(content.get("values"))}
    return content
