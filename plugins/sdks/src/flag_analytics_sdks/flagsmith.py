"""Flagsmith: ``instrument(client, pipeline)``."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from typing import Any

from flag_analytics.recording import Recorder
from flagsmith import Flagsmith
from flagsmith.exceptions import FlagsmithFeatureDoesNotExistError

from .adapter import Adapter, guarded
from .wrapping import observe

__all__ = ["FlagsmithAdapter", "instrument"]


class FlagsmithAdapter(Adapter):
    """Records every flag that is asked for: ``get_flag``, ``is_feature_enabled``, ``get_feature_value``."""

    provider_name = "Flagsmith"

    @guarded
    def identity_flags(
        self, flags: Any, error: Exception | None, _: int, /, identifier: Any, traits: Any = None, **__: Any
    ) -> None:
        """Watch the flags of an identity."""
        self._watch(flags, error, identifier, traits)

    @guarded
    def environment_flags(self, flags: Any, error: Exception | None, _: int, /) -> None:
        """Watch the flags of the environment, which are of no one in particular."""
        self._watch(flags, error, None, None)

    def _watch(self, flags: Any, error: Exception | None, user: Any, traits: Mapping[str, Any] | None) -> None:
        if error is not None:
            return  # no flag has been asked for yet
        values = {
            name: trait["value"] if isinstance(trait, Mapping) and "value" in trait else trait
            for name, trait in (traits or {}).items()
        }

        @guarded
        def tell(
            adapter: FlagsmithAdapter, flag: Any, error: Exception | None, started: int, feature_name: str
        ) -> None:
            missing = flag is None or flag.is_default
            unknown = missing and (error is None or isinstance(error, FlagsmithFeatureDoesNotExistError))
            reason = "ERROR" if missing else _reason(flag)
            adapter.record(
                feature_name,
                None if flag is None else flag.enabled if flag.value is None else flag.value,
                variant=getattr(flag, "variant", None),
                reason=reason,
                user=user,
                attributes=values,
                started=started,
                error_type=None if not missing else "FLAG_NOT_FOUND" if unknown else "GENERAL",
            )

        # For each request anew, so without what ``observe`` copies of the original.
        original = type(flags).get_flag

        def get_flag(feature_name: str) -> Any:
            started = time.perf_counter_ns()
            try:
                flag = original(flags, feature_name)
            except Exception as raised:
                tell(self, None, raised, started, feature_name)
                raise
            tell(self, flag, None, started, feature_name)
            return flag

        flags.get_flag = get_flag


def instrument(
    client: Flagsmith,
    pipeline: Recorder,
    *,
    context_attributes: bool | Iterable[str] = True,
    targeting_key: bool = True,
) -> FlagsmithAdapter:
    """Have every evaluation of a client recorded, and return the adapter; the arguments are those of ``Adapter``."""
    adapter = FlagsmithAdapter(pipeline, context_attributes=context_attributes, targeting_key=targeting_key)
    observe(client, "get_identity_flags", adapter.identity_flags)
    observe(client, "get_environment_flags", adapter.environment_flags)
    return adapter


def _reason(flag: Any) -> str | None:
    if not flag.enabled:
        return "DISABLED"
    # The engine's reason goes on with its details, as in "SPLIT; weight=50".
    text = getattr(flag, "reason", None)
    return text.partition(";")[0] if isinstance(text, str) and text else None
