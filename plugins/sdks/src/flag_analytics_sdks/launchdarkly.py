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
        contexts = {each.kind: each for each in _each(series.context)}
        main = contexts.pop("user", None) or (contexts.popitem()[1] if contexts else None)
        attributes = {kind: {"key": each.key, **_attributes(each)} for kind, each in contexts.items()}
        self.record(
            series.key,
            detail.value,
            variant=None if detail.variation_index is None else str(detail.variation_index),
            reason="SPLIT" if reason.get("inExperiment") else _REASONS.get(cause, cause),
            user=None if main is None else main.key,
            attributes=attributes if main is None else {**attributes, **_attributes(main)},
            started=data.get("flag_analytics.started"),
            error_type=_ERRORS.get(error, error) if error else None,
        )


def _each(context: Context) -> list[Context]:
    if not context.valid:
        return []
    return [each for at in range(context.individual_context_count) if (each := context.get_individual_context(at))]


def _attributes(context: Context) -> dict[str, Any]:
    private = {reference.removeprefix("/").partition("/")[0] for reference in context.private_attributes}
    names = ("name", *context.custom_attributes)
    return {name: context.get(name) for name in names if name not in private and context.get(name) is not None}
