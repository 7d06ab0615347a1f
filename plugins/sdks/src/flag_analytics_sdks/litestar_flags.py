"""litestar-flags: ``instrument(client, pipeline)`` beside its own ``analytics_collector``."""

from __future__ import annotations

import functools
import time
from collections.abc import Iterable
from typing import Any

from flag_analytics.recording import Recorder

from .adapter import Adapter, guarded
from .wrapping import replace

__all__ = ["LitestarFlagsAdapter", "instrument"]


class LitestarFlagsAdapter(Adapter):
    """Records the errors that the client keeps from its ``analytics_collector``.

    Those are flags that are missing or of another type, and errors of its storage; all else the collector is given.
    """

    provider_name = "litestar-flags"

    @guarded
    def tell(self, details: Any, started: int, context: Any) -> None:
        """Record an evaluation that ended in an error."""
        if details.error_code is None:
            return
        self.record(
            details.flag_key,
            details.value,
            reason="ERROR",
            user=getattr(context, "targeting_key", None),
            attributes=getattr(context, "attributes", None),
            started=started,
            error_type=str(details.error_code).removesuffix("_ERROR"),
            error_message=details.error_message,
        )


def instrument(
    client: Any, pipeline: Recorder, *, context_attributes: bool | Iterable[str] = True, targeting_key: bool = True
) -> LitestarFlagsAdapter:
    """Have errors of a client recorded, and return the adapter; the arguments are those of ``Adapter``."""
    adapter = LitestarFlagsAdapter(pipeline, context_attributes=context_attributes, targeting_key=targeting_key)

    def evaluate(original: Any) -> Any:
        @functools.wraps(original)
        async def call(flag_key: str, default: Any, expected_type: Any, context: Any) -> Any:
            started = time.perf_counter_ns()
            details = await original(flag_key, default, expected_type, context)
            adapter.tell(details, started, context)
            return details

        return call

    # Every public method of the client goes through this one.
    replace(client, "_evaluate", evaluate)
    return adapter
