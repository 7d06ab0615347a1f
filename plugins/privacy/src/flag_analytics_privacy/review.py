"""What of an event reaches which sink, in which form: for people who review a configuration, and for CI."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal

import attrs
from flag_analytics.config.plan import Plan, PlannedProcessor, PlannedSink

__all__ = ["RULES", "Rule", "SinkReview", "broken_rules", "review"]

Rule = Literal["all-attributes", "free-text", "raw-targeting-key", "unkeyed-hash", "value"]
RULES: Mapping[Rule, str] = {
    "all-attributes": "attributes leave the process without a list of those that are allowed",
    "free-text": "texts that people may have written leave the process uncut",
    "raw-targeting-key": "targeting keys leave the process as they are",
    "unkeyed-hash": "targeting keys leave the process under a hash that anyone can recompute",
    "value": "values of flags leave the process",
}

_AS_RECORDED = "as recorded"
_NOT_SENT = "not sent"
_PERSONAL: tuple[str, ...] = ("targeting_key", "context_attributes", "value", "error_message")


@attrs.frozen
class SinkReview:
    """What a sink gets.

    Attributes:
        name: The sink's name in configuration.
        leaves: Whether the events leave the process.
        fields: The form of each field that may say something of a person; the others are sent as recorded.
        rules: The rules that it breaks.
    """

    name: str
    leaves: bool
    fields: Mapping[str, str]
    rules: tuple[Rule, ...]


def review(plan: Plan) -> tuple[SinkReview, ...]:
    """Return what each sink of a configuration gets."""
    return tuple(_review(plan, sink) for sink in plan.sinks)


def broken_rules(reviews: Iterable[SinkReview], rules: Iterable[Rule]) -> list[tuple[str, Rule]]:
    """Return the sinks that break one of the rules, each with the rule."""
    wanted = tuple(rules)
    return [(each.name, rule) for each in reviews for rule in each.rules if rule in wanted]


def _review(plan: Plan, sink: PlannedSink) -> SinkReview:
    kind = sink.name.partition("/")[0]
    fields = dict.fromkeys(_PERSONAL, _AS_RECORDED)
    for processor in (*plan.processors, *sink.processors):
        _DESCRIBED.get(processor.name, _unknown)(fields, processor)
    if kind == "prometheus":  # whose labels are the flag's, its variant and its reason
        fields = dict.fromkeys(_PERSONAL, _NOT_SENT)
    elif kind == "otel" and not getattr(sink.options, "record_values", True):
        fields["value"] = _NOT_SENT
    leaves = kind != "memory"
    return SinkReview(sink.name, leaves, fields, tuple(_rules(fields)) if leaves else ())


def _rules(fields: Mapping[str, str]) -> Iterable[Rule]:
    attributes = fields["context_attributes"]
    if not attributes.startswith((_NOT_SENT, "only ", "none")):
        yield "all-attributes"
        if "cut to" not in attributes:
            yield "free-text"
    elif "cut to" not in fields["error_message"] and fields["error_message"] != _NOT_SENT:
        yield "free-text"
    if fields["targeting_key"] == _AS_RECORDED:
        yield "raw-targeting-key"
    if "unkeyed" in fields["targeting_key"]:
        yield "unkeyed-hash"
    if fields["value"] not in {_NOT_SENT, "none"}:
        yield "value"


Fields = dict[str, str]


def _then(before: str, now: str) -> str:
    return now if before == _AS_RECORDED else f"{before}, {now}"


def _hashed(fields: Fields, processor: PlannedProcessor) -> None:
    options = processor.options
    form = "SHA-256, unkeyed" if options.unkeyed else f"HMAC-SHA-256 with the key {options.key_id}"
    fields["targeting_key"] = _then(fields["targeting_key"], form)


def _redacted(fields: Fields, processor: PlannedProcessor) -> None:
    names = ", ".join(processor.options.attributes)
    if names:
        fields["context_attributes"] = _then(fields["context_attributes"], f"without {names}")
    if getattr(processor.options, "value", False):
        fields["value"] = "none"


def _allowed(fields: Fields, processor: PlannedProcessor) -> None:
    names = ", ".join(processor.options.attributes)
    fields["context_attributes"] = f"only {names}" if names else "none"


def _dropped(fields: Fields, processor: PlannedProcessor) -> None:
    flags = ", ".join(processor.options.flag_keys)
    fields["value"] = _then(fields["value"], f"none for {flags}") if flags else "none"


def _cut(fields: Fields, processor: PlannedProcessor) -> None:
    for name in ("context_attributes", "value", "error_message"):
        if fields[name] != "none":
            fields[name] = _then(fields[name], f"cut to {processor.options.max_chars} characters")


def _set(fields: Fields, processor: PlannedProcessor) -> None:
    added = ", ".join(processor.options.attributes)
    fields["context_attributes"] = f"{fields['context_attributes']}, and {added}"


def _coarser(fields: Fields, processor: PlannedProcessor) -> None:
    form = f"{processor.options.attribute} coarser"
    fields["context_attributes"] = _then(fields["context_attributes"], form)


def _unchanged(fields: Fields, processor: PlannedProcessor) -> None:
    """Describe a processor that drops events, or adds nothing of a person."""


def _unknown(fields: Fields, processor: PlannedProcessor) -> None:
    fields.update({name: f"{form}, changed by {processor.name}" for name, form in fields.items()})


_DESCRIBED: Mapping[str, Callable[[Fields, PlannedProcessor], Any]] = {
    "allow_attributes": _allowed,
    "bucket": _coarser,
    "deduplicate_exposures": _unchanged,
    "drop_value": _dropped,
    "hash_targeting_key": _hashed,
    "only_providers": _unchanged,
    "redact": _redacted,
    "redact_attributes": _redacted,
    "sample": _unchanged,
    "set_attributes": _set,
    "truncate": _cut,
}
