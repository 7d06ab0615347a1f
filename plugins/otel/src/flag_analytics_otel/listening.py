"""Whether anyone takes what is emitted: without an SDK nothing is worth doing."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

import attrs
from opentelemetry import _logs, metrics, trace
from opentelemetry._logs import _internal as _logs_internal
from opentelemetry.metrics import _internal as _metrics_internal

__all__ = ["Ear", "logger_ear", "meter_ear", "tracer_ear"]

_API_MODULES = ("opentelemetry.trace", "opentelemetry.metrics", "opentelemetry._logs")
"""Classes defined here belong to the API: they do nothing, or stand in for a provider that is set later."""
_NOOP = (trace.NoOpTracer, metrics.NoOpMeter, _logs.NoOpLogger)
_UNKNOWN = object()


@attrs.define
class Ear:
    """Answers whether one signal's emitter (a tracer, a meter, a logger) has someone behind it.

    A provider can be set at most once, so a yes is kept; a no is looked at anew each time, for about 100 ns: the slot
    that holds the provider is read directly, since the public getter reads the environment on each call. Where a
    version of the API has no such slot, the getter is asked.
    """

    emitter: Any
    _slot_owner: ModuleType
    _slot: str
    _get_provider: Callable[[], Any]
    _get_emitter: str
    _heard: bool = False

    def __call__(self) -> bool:
        return self._heard or self._look()

    def _look(self) -> bool:
        kind = self.emitter.__class__
        if not kind.__module__.startswith(_API_MODULES):
            self._heard = True
            return True
        if issubclass(kind, _NOOP):
            return False
        provider = getattr(self._slot_owner, self._slot, _UNKNOWN)
        if provider is None:
            return False
        if provider is _UNKNOWN:
            provider = self._get_provider()
        if provider.__class__.__module__.startswith(_API_MODULES):
            return False
        # An SDK that is switched off (OTEL_SDK_DISABLED) hands out emitters that do nothing.
        self._heard = not isinstance(getattr(provider, self._get_emitter)("flag_analytics"), _NOOP)
        return self._heard


def tracer_ear(tracer: trace.Tracer) -> Ear:
    return Ear(tracer, trace, "_TRACER_PROVIDER", trace.get_tracer_provider, "get_tracer")


def meter_ear(meter: metrics.Meter) -> Ear:
    return Ear(meter, _metrics_internal, "_METER_PROVIDER", metrics.get_meter_provider, "get_meter")


def logger_ear(logger: _logs.Logger) -> Ear:
    return Ear(logger, _logs_internal, "_LOGGER_PROVIDER", _logs.get_logger_provider, "get_logger")
