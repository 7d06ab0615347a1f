"""``with_outcomes``: what an application tracks through OpenFeature becomes outcomes.

``client.track`` calls the provider and no hook, so that the provider is where it can be seen.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Mapping
from typing import Any, TypeVar

from flag_analytics.recording import record_evaluation

from .once import once_for
from .recording import recorder_for

__all__ = ["with_outcomes"]

_logger = logging.getLogger("flag_analytics.openfeature")
_Provider = TypeVar("_Provider")


def with_outcomes(provider: _Provider, target: Any) -> _Provider:
    """Return the provider, which from now on records as an outcome whatever is tracked through it.

    The name of the tracking event is the outcome, its value the value, its other attributes the attributes, and the
    context's targeting key the user. The provider's own ``track`` is called afterwards, as before.

    Args:
        provider: Any provider; to be given to ``api.set_provider``.
        target: A pipeline, or a collector; see ``AnalyticsHook``.

    Raises:
        TypeError: ``target`` cannot record events, or the provider does not let its ``track`` be replaced.
    """
    before = getattr(provider, "track", None)
    once = once_for(target)
    if getattr(before, "records_for", None) is once:
        return provider
    recorder = recorder_for(target, _failed)

    def track(tracking_event_name: str, evaluation_context: Any = None, tracking_event_details: Any = None) -> None:
        try:
            attributes = getattr(tracking_event_details, "attributes", None)
            record_evaluation(
                recorder,
                tracking_event_name,
                getattr(tracking_event_details, "value", None),
                user=getattr(evaluation_context, "targeting_key", None),
                attributes=dict(attributes) if isinstance(attributes, Mapping) else None,
                kind="outcome",
            )
        except Exception as error:
            _failed(type(error).__name__)
        if before is not None:
            before(tracking_event_name, evaluation_context, tracking_event_details)

    track.records_for = once  # type: ignore[attr-defined]
    try:
        provider.track = track  # type: ignore[attr-defined]
    except AttributeError:
        raise TypeError(
            f"{type(provider).__name__} has a track() that cannot be replaced: call pipeline.record_outcome() yourself"
        ) from None
    return provider


def _failed(cause: str) -> None:
    # The application's own logging filters run in there, and must not reach the application's tracking.
    with contextlib.suppress(Exception):
        _logger.warning("could not record an outcome: %s", cause)
