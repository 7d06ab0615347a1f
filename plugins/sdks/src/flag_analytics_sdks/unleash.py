"""Unleash: ``instrument(client, pipeline)``, for ``UnleashClient`` and ``AsyncUnleashClient``.

The client's own ``event_callback`` tells only of flags with impression data, and is given up under load.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from flag_analytics.recording import Recorder

from .adapter import Adapter, guarded
from .wrapping import observe, replace

__all__ = ["UnleashAdapter", "instrument"]


class UnleashAdapter(Adapter):
    """Records every call of ``is_enabled`` and ``get_variant``."""

    provider_name = "Unleash"

    @guarded
    def flag(
        self, key: str, context: Any, started: int, answer: Any, error: Exception | None, *, missing: bool
    ) -> None:
        """Record a call of ``is_enabled``."""
        self.record(
            key,
            answer,
            reason="ERROR" if missing or error else None,
            error_type="FLAG_NOT_FOUND" if missing else None if error is None else "GENERAL",
            started=started,
            **_whom(context),
        )

    @guarded
    def variant(
        self, answer: Any, error: Exception | None, started: int, feature_name: str, context: Any = None
    ) -> None:
        """Record a call of ``get_variant``; the value is the variant's payload, else whether it is enabled."""
        variant = answer or {}
        enabled = bool(variant.get("enabled"))
        payload = variant.get("payload") or {}
        self.record(
            feature_name,
            payload.get("value", enabled),
            variant=variant.get("name") if enabled else None,
            reason="ERROR" if error else "SPLIT" if enabled else None,
            error_type=None if error is None else "GENERAL",
            started=started,
            **_whom(context),
        )


def instrument(
    client: Any, pipeline: Recorder, *, context_attributes: bool | Iterable[str] = True, targeting_key: bool = True
) -> UnleashAdapter:
    """Have every evaluation of a client recorded, and return the adapter; the arguments are those of ``Adapter``."""
    adapter = UnleashAdapter(pipeline, context_attributes=context_attributes, targeting_key=targeting_key)

    def is_enabled(original: Callable[..., bool]) -> Callable[..., bool]:
        def call(feature_name: str, context: Any = None, fallback_function: Callable[..., Any] | None = None) -> bool:
            unknown = []

            # The client asks for a fallback of flags that it does not know, and of no others.
            def fallback(name: str, given: Any) -> Any:
                unknown.append(name)
                return False if fallback_function is None else fallback_function(name, given)

            started = time.perf_counter_ns()
            try:
                answer = original(feature_name, context, fallback)
            except Exception as error:
                adapter.flag(feature_name, context, started, None, error, missing=bool(unknown))
                raise
            adapter.flag(feature_name, context, started, answer, None, missing=bool(unknown))
            return answer

        return call

    replace(client, "is_enabled", is_enabled)
    observe(client, "get_variant", adapter.variant)
    return adapter


def _whom(context: Mapping[str, Any] | None) -> dict[str, Any]:
    given = dict(context or {})
    user = given.pop("userId", None)
    properties = given.pop("properties", None) or {}
    return {"user": user, "attributes": {**given, **properties}}
