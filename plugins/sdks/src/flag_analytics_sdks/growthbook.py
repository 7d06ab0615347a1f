"""GrowthBook: ``GrowthBook(on_feature_usage=hook.on_feature_usage, on_experiment_viewed=hook.on_experiment_viewed)``.

The asynchronous client's ``Options`` take the same two.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from flag_analytics.recording import Recorder
from growthbook.common_types import Experiment, FeatureResult, Result, UserContext

from .adapter import Adapter, guarded

__all__ = ["AnalyticsHook"]

_REASONS = {
    "defaultValue": "DEFAULT",
    "force": "TARGETING_MATCH",
    "experiment": "SPLIT",
    "override": "OVERRIDE",
    "prerequisite": "DISABLED",
    "unknownFeature": "ERROR",
    "cyclicPrerequisite": "ERROR",
}
_ERRORS = {"unknownFeature": "FLAG_NOT_FOUND", "cyclicPrerequisite": "GENERAL"}


class AnalyticsHook(Adapter):
    """Records every evaluation of a feature, and each user's first view of an experiment that is run without one.

    Args:
        pipeline: Where to: a pipeline, or a collector with ``record_nowait(event)``.
        user_attribute: The attribute that says who the user is; in an experiment, it is the one that was hashed.
        context_attributes: Which attributes to record: all (True), none (False), or the names to keep.
        targeting_key: Whether to record for whom the flag was evaluated.
    """

    provider_name = "GrowthBook"

    def __init__(
        self,
        pipeline: Recorder,
        *,
        user_attribute: str = "id",
        context_attributes: bool | Iterable[str] = True,
        targeting_key: bool = True,
    ) -> None:
        super().__init__(pipeline, context_attributes=context_attributes, targeting_key=targeting_key)
        self._user_attribute = user_attribute

    @guarded
    def on_feature_usage(self, key: str, result: FeatureResult[Any], user_context: UserContext) -> None:
        """Record the evaluation of a feature."""
        split = result.experimentResult if result.source == "experiment" else None
        attributes = user_context.attributes
        self.record(
            key,
            result.value,
            variant=None if split is None else split.key,
            reason=_REASONS.get(result.source, result.source),
            user=attributes.get(self._user_attribute) if split is None else split.hashValue,
            attributes=attributes,
            error_type=_ERRORS.get(result.source),
        )

    # The SDK passes these by keyword: other names would fail, silently.
    @guarded
    def on_experiment_viewed(self, experiment: Experiment[Any], result: Result[Any], user_context: UserContext) -> None:
        """Record who met an experiment that belongs to no feature: the evaluation of a feature has said it already."""
        if result.featureId is None:
            self.record(
                experiment.key,
                result.value,
                variant=result.key,
                reason="SPLIT",
                user=result.hashValue,
                attributes=user_context.attributes,
                kind="exposure",
            )
