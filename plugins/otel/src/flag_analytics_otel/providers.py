"""Finds out whether an SDK takes the telemetry of a signal, and whether it was shut down."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

from opentelemetry import _logs, metrics, trace
from opentelemetry._logs import _internal as _logs_internal
from opentelemetry.metrics import _internal as _metrics_internal

__all__ = ["Signal", "log_signal", "metric_signal", "trace_signal"]

_API_MODULES = ("opentelemetry.trace", "opentelemetry.metrics", "opentelemetry._logs")
"""Classes defined here belong to the API: they do nothing, or stand in for a provider that is set later."""
_NOOP = (trace.NoOpTracer, metrics.NoOpMeter, _logs.NoOpLogger)
_UNKNOWN = object()


class Signal:
    """One signal, by its emitter: a tracer, a meter or a logger.

    A provider can be set once in the life of a process, so the answer is final as soon as there is one. Until then it
    is looked for at each call, for about 100 ns: the slot that holds the provider is read directly, since the public
    getter reads the environment each time. Where a version of the API has no such slot, the getter is asked.

    ``is_global``: the emitter came from the global provider.
    """

    def __init__(
        self,
        emitter: Any,
        slot_owner: ModuleType,
        slot: str,
        get_provider: Callable[[], Any],
        get_emitter: str,
        *,
        is_global: bool = False,
    ) -> None:
        self._emitter = emitter
        self._is_global = is_global or _is_of_the_api(emitter)
        self._slot_owner = slot_owner
        self._slot = slot
        self._get_provider = get_provider
        self._get_emitter = get_emitter
        self._taken: bool | None = None
        if not _is_of_the_api(emitter):
            self._taken = True
        elif isinstance(emitter, _NOOP):
            self._taken = False

    def taken(self) -> bool:
        """Return whether an SDK takes this signal."""
        taken = self._taken
        if taken is not None:
            return taken
        if getattr(self._slot_owner, self._slot, _UNKNOWN) is None:
            return False
        return self._look()

    def shut_down(self) -> bool:
        """Return whether the SDK that took this signal was shut down, so that it drops new telemetry.

        It has no public answer: the flags of the official SDK are read, and those of another are not known.
        """
        if not self.taken():
            return False
        provider = getattr(self._slot_owner, self._slot, None) if self._is_global else None
        try:
            return _has_ended(self._emitter) or _has_ended(provider)
        except Exception:
            return False

    def _look(self) -> bool:
        provider = getattr(self._slot_owner, self._slot, _UNKNOWN)
        if provider is _UNKNOWN:
            provider = self._get_provider()
            if _is_of_the_api(provider) and "Proxy" in type(provider).__name__:
                return False
        # An SDK that is switched off (OTEL_SDK_DISABLED) hands out emitters that do nothing.
        self._taken = not isinstance(getattr(provider, self._get_emitter)("flag_analytics"), _NOOP)
        return self._taken


def _is_of_the_api(thing: Any) -> bool:
    return type(thing).__module__.startswith(_API_MODULES)


def _has_ended(owner: Any) -> bool:
    """Return whether a provider, or every processor of a provider, a tracer or a logger, was shut down."""
    if getattr(owner, "_shutdown", False) is True:
        return True
    for name in ("_active_span_processor", "span_processor", "_multi_log_record_processor"):
        group = getattr(owner, name, None)
        processors = getattr(group, "_span_processors", None) or getattr(group, "_log_record_processors", None)
        if processors:
            return all(
                getattr(one, "_shutdown", False) is True
                or getattr(getattr(one, "_batch_processor", None), "_shutdown", False) is True
                for one in processors
            )
    return False


def trace_signal(tracer: trace.Tracer, *, is_global: bool = False) -> Signal:
    return Signal(tracer, trace, "_TRACER_PROVIDER", trace.get_tracer_provider, "get_tracer", is_global=is_global)


def metric_signal(meter: metrics.Meter, *, is_global: bool = False) -> Signal:
    get_provider = metrics.get_meter_provider
    return Signal(meter, _metrics_internal, "_METER_PROVIDER", get_provider, "get_meter", is_global=is_global)


def log_signal(logger: _logs.Logger, *, is_global: bool = False) -> Signal:
    get_provider = _logs.get_logger_provider
    return Signal(logger, _logs_internal, "_LOGGER_PROVIDER", get_provider, "get_logger", is_global=is_global)
