"""Whether anyone takes what is emitted: without an SDK nothing is worth doing."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

from opentelemetry import _logs, metrics, trace
from opentelemetry._logs import _internal as _logs_internal
from opentelemetry.metrics import _internal as _metrics_internal

__all__ = ["Ear", "logger_ear", "meter_ear", "tracer_ear"]

_API_MODULES = ("opentelemetry.trace", "opentelemetry.metrics", "opentelemetry._logs")
"""Classes defined here belong to the API: they do nothing, or stand in for a provider that is set later."""
_NOOP = (trace.NoOpTracer, metrics.NoOpMeter, _logs.NoOpLogger)
_UNKNOWN = object()


class Ear:
    """Answers whether one signal's emitter (a tracer, a meter, a logger) has someone behind it.

    A provider can be set once in the life of a process, so the answer is final as soon as there is one. Until then it
    is looked for at each call, for about 100 ns: the slot that holds the provider is read directly, since the public
    getter reads the environment each time. Where a version of the API has no such slot, the getter is asked.
    """

    def __init__(
        self, emitter: Any, slot_owner: ModuleType, slot: str, get_provider: Callable[[], Any], get_emitter: str
    ) -> None:
        self._slot_owner = slot_owner
        self._slot = slot
        self._get_provider = get_provider
        self._get_emitter = get_emitter
        self._answer: bool | None = None
        if not _is_of_the_api(emitter):
            self._answer = True
        elif isinstance(emitter, _NOOP):
            self._answer = False

    def __call__(self) -> bool:
        answer = self._answer
        if answer is not None:
            return answer
        if getattr(self._slot_owner, self._slot, _UNKNOWN) is None:
            return False
        return self._look()

    def _look(self) -> bool:
        provider = getattr(self._slot_owner, self._slot, _UNKNOWN)
        if provider is _UNKNOWN:
            provider = self._get_provider()
            if _is_of_the_api(provider) and "Proxy" in type(provider).__name__:
                return False
        # An SDK that is switched off (OTEL_SDK_DISABLED) hands out emitters that do nothing.
        self._answer = not isinstance(getattr(provider, self._get_emitter)("flag_analytics"), _NOOP)
        return self._answer


def _is_of_the_api(thing: Any) -> bool:
    return type(thing).__module__.startswith(_API_MODULES)


def tracer_ear(tracer: trace.Tracer) -> Ear:
    return Ear(tracer, trace, "_TRACER_PROVIDER", trace.get_tracer_provider, "get_tracer")


def meter_ear(meter: metrics.Meter) -> Ear:
    return Ear(meter, _metrics_internal, "_METER_PROVIDER", metrics.get_meter_provider, "get_meter")


def logger_ear(logger: _logs.Logger) -> Ear:
    return Ear(logger, _logs_internal, "_LOGGER_PROVIDER", _logs.get_logger_provider, "get_logger")
