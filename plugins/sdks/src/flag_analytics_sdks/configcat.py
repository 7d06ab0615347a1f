"""ConfigCat: ``ConfigCatOptions(hooks=Hooks(on_flag_evaluated=AnalyticsHook(pipeline)))``."""

from __future__ import annotations

import json
from typing import Any

from configcatclient.evaluationdetails import EvaluationDetails

from .adapter import Adapter, guarded

__all__ = ["AnalyticsHook"]


class AnalyticsHook(Adapter):
    """Records every evaluation of a flag or setting; the variant is ConfigCat's variation ID."""

    provider_name = "ConfigCat"

    @guarded
    def __call__(self, details: EvaluationDetails) -> None:
        user: Any = details.user
        error = None if details.error is None else str(details.error)
        self.record(
            details.key,
            details.value,
            variant=details.variation_id,
            reason=_reason(details),
            user=None if user is None else user.get_identifier(),
            attributes=None if user is None else self._attributes(user),
            error_type=None if error is None else _error_type(error),
            error_message=error,
        )

    def _attributes(self, user: Any) -> dict[str, Any]:
        if self.names is False:
            return {}
        if self.names is not True:
            found = {name: user.get_attribute(name) for name in self.names}
            return {name: value for name, value in found.items() if value is not None}
        # The SDK lists a user's attributes in no other way than as text, which takes longer than an evaluation.
        held = vars(user)
        known, custom = held.get("_User__data"), held.get("_User__custom")
        if type(known) is not dict:
            known, custom = json.loads(str(user)), None
        attributes = {name: value for name, value in known.items() if value is not None and name != "Identifier"}
        return {**attributes, **custom} if custom else attributes


def _reason(details: EvaluationDetails) -> str:
    if details.error is not None:
        return "ERROR"
    if details.matched_percentage_option is not None:
        return "SPLIT"
    return "DEFAULT" if details.matched_targeting_rule is None else "TARGETING_MATCH"


def _error_type(error: str) -> str:
    # The SDK has no codes, and these words in each of its versions.
    if "was not found in config" in error:
        return "FLAG_NOT_FOUND"
    return "PROVIDER_NOT_READY" if error.startswith("Config JSON is not present") else "GENERAL"
