"""LaunchDarkly: ``Config(sdk_key, hooks=[AnalyticsHook(pipeline)])``."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from ldclient import Context
from ldclient.evaluation import EvaluationDetail
from ldclient.hook import EvaluationSeriesContext, Hook, Metadata

from .adapter import Adapter, guarded

__all__ = ["AnalyticsHook"]

_METADATA = Metadata("flag-analytics")
_REASONS = {
    "OFF": "DISABLED",
    "PREREQUISITE_FAILED": "DISABLED",
    "FALLTHROUGH": "DEFAULT",
    "TARGET_MATCH": "TARGETING_MATCH",
    "RULE_MATCH": "TARGETING_MATCH",
}
_ERRORS = {
    "CLIENT_NOT_READY": "PROVIDER_NOT_READY",
    "MALFORMED_FLAG": "PARSE_ERROR",
    "USER_NOT_SPECIFIED": "TARGETING_KEY_MISSING",
    "WRONG_TYPE": "TYPE_MISMATCH",
    "EXCEPTION": "GENERAL",
}


class AnalyticsHook(Adapter, Hook):
    """Records every ``variation``, ``variation_detail`` and ``migration_variation``; the variant is its index.

    Attributes of the context that are marked as private are left out, each with all that is below its name.
    """

    provider_name = "LaunchDarkly"

    @property
    def metadata(self) -> Metadata:
        return _METADATA

    def before_evaluation(self, series_context: EvaluationSeriesContext, data: dict[str, Any]) -> dict[str, Any]:  # noqa: ARG002 - the SDK's signature
        return {**data, "flag_analytics.started": time.perf_counter_ns()}

    def after_evaluation(
        self, series_context: EvaluationSeriesContext, data: dict[str, Any], detail: EvaluationDetail
    ) -> dict[str, Any]:
        self._record(series_context, data, detail)
        return data

    @guarded
    def _record(self, series: EvaluationSeriesContext, data: dict[str, Any], detail: EvaluationDetail) -> None:
        reason: Mapping[str, Any] = detail.reason
        cause = reason.get("kind", "UNKNOWN")
        error = reason.get("errorKind")
        main, attributes = _whom(series.context)
        self.record(
            series.key,
            detail.value,
            variant=None if detail.variation_index is None else str(detail.variation_index),
            reason="SPLIT" if reason.get("inExperiment") else _REASONS.get(cause, cause),
            user=None if main is None else main.key,
            attributes=attributes,
            started=data.get("flag_analytics.started"),
            error_type=_ERRORS.get(error, error) if error else None,
        )


def _whom(context: Context) -> tuple[Context | None, dict[str, Any]]:
    """Return the context that says for whom, and the attributes of all."""
    if not context.multiple:
        return (context, _attributes(context)) if context.valid else (None, {})
    contexts = [context.get_individual_context(at) for at in range(context.individual_context_count)]
    by_kind = {each.kind: each for each in contexts if each is not None}
    main = by_kind.pop("user", None) or by_kind.popitem()[1]
    others = {kind: {"key": each.key, **_attributes(each)} for kind, each in by_kind.items()}
    return main, {**others, **_attributes(main)}


def _attributes(context: Context) -> dict[str, Any]:
    attributes = {name: context.get(name) for name in context.custom_attributes}
    if context.name is not None:
        attributes["name"] = context.name
    for reference in context.private_attributes:
        attributes.pop(reference.removeprefix("/").partition("/")[0], None)
    return attributes
