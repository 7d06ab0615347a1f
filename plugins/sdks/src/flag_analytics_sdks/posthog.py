"""PostHog: ``Posthog(project_key, before_send=AnalyticsHook(pipeline))``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .adapter import Adapter, guarded

__all__ = ["AnalyticsHook"]

_REASONS = {"targeting_match": "TARGETING_MATCH", "experiment_split": "SPLIT", "rollout_miss": "DEFAULT"}


class AnalyticsHook(Adapter):
    """Records the SDK's ``$feature_flag_called`` as an exposure; every message passes through it unchanged.

    The SDK sends one for each user, flag and value that a client has not yet seen: so there are exposures, and no
    evaluations. A ``before_send`` of the application's own goes around it: ``lambda message: own(hook(message))``.
    """

    provider_name = "PostHog"

    def __call__(self, message: dict[str, Any]) -> dict[str, Any]:
        self._record(message)
        return message

    @guarded
    def _record(self, message: Mapping[str, Any]) -> None:
        if message.get("event") != "$feature_flag_called":
            return
        properties = message["properties"]
        value = properties.get("$feature_flag_response")
        error = properties.get("$feature_flag_error")
        failure = error if value is None else None
        self.record(
            properties["$feature_flag"],
            value,
            variant=value if isinstance(value, str) else None,
            reason="ERROR" if failure else _REASONS.get(properties.get("$feature_flag_reason_code", "")),
            user=message.get("distinct_id"),
            attributes={
                name: item for name, item in properties.items() if name[:1] != "$" and name != "locally_evaluated"
            },
            kind="exposure",
            error_type=_error_type(failure) if failure else None,
            error_message=failure,
            flag_version=_text(properties.get("$feature_flag_version")),
        )


def _error_type(error: str) -> str:
    return "FLAG_NOT_FOUND" if "flag_missing" in error else "GENERAL"


def _text(version: Any) -> str | None:
    return None if version is None else str(version)
