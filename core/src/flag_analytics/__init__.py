"""What are our feature flags really doing? Capture, deliver and aggregate flag evaluations.

Everything a user needs is here, and each name is imported when it is first used, so that ``import flag_analytics``
costs next to nothing and loads no backend::

    from flag_analytics import FlagEvaluationEvent, open_pipeline

The classes of the backends are here too where their distributions are installed; where one is not, using its name
raises ``PluginNotInstalledError``, an ``ImportError`` that says what to install.
"""

from __future__ import annotations

TYPE_CHECKING = False  # as in typing, whose import costs more than all the rest of this one
if TYPE_CHECKING:
    from typing import Any

    from .aggregator import AnalyticsAggregator, FlagMetrics
    from .config import Plan, read_config
    from .delivery import (
        DeadLetter,
        Delivery,
        DeliveryOptions,
        DeliveryReport,
        DeliveryStats,
        SinkStats,
        install_signal_handlers,
    )
    from .errors import (
        BadBatch,
        CommitUnknown,
        ConfigError,
        ConfigProblem,
        DeliveryError,
        EventError,
        FlagAnalyticsError,
        PluginError,
        PluginNotInstalledError,
        SinkUnavailable,
        SourceError,
    )
    from .events import EvaluationReason, FlagEvaluationEvent
    from .hookspecs import hookimpl
    from .normal_form import FrozenEvent, normal_key
    from .pipeline import Pipeline, open_pipeline
    from .protocols import (
        AnalyticsCollector,
        AnalyticsExporter,
        Backend,
        Batch,
        BatchSink,
        EventFilter,
        EventSource,
        FlagActivity,
        FlagSummary,
        InlineSink,
        Outcome,
        Processor,
        TimeStep,
        Window,
    )

    __version__: str

__all__ = [
    "AnalyticsAggregator",
    "AnalyticsCollector",
    "AnalyticsExporter",
    "Backend",
    "BadBatch",
    "Batch",
    "BatchSink",
    "CommitUnknown",
    "ConfigError",
    "ConfigProblem",
    "DeadLetter",
    "Delivery",
    "DeliveryError",
    "DeliveryOptions",
    "DeliveryReport",
    "DeliveryStats",
    "EvaluationReason",
    "EventError",
    "EventFilter",
    "EventSource",
    "FlagActivity",
    "FlagAnalyticsError",
    "FlagEvaluationEvent",
    "FlagMetrics",
    "FlagSummary",
    "FrozenEvent",
    "InlineSink",
    "Outcome",
    "Pipeline",
    "Plan",
    "PluginError",
    "PluginNotInstalledError",
    "Processor",
    "SinkStats",
    "SinkUnavailable",
    "SourceError",
    "TimeStep",
    "Window",
    "__version__",
    "hookimpl",
    "install_signal_handlers",
    "normal_key",
    "open_pipeline",
    "read_config",
]

_CORE = {
    "aggregator": ("AnalyticsAggregator", "FlagMetrics"),
    "config": ("Plan", "read_config"),
    "delivery": (
        "DeadLetter",
        "Delivery",
        "DeliveryOptions",
        "DeliveryReport",
        "DeliveryStats",
        "SinkStats",
        "install_signal_handlers",
    ),
    "errors": (
        "BadBatch",
        "CommitUnknown",
        "ConfigError",
        "ConfigProblem",
        "DeliveryError",
        "EventError",
        "FlagAnalyticsError",
        "PluginError",
        "PluginNotInstalledError",
        "SinkUnavailable",
        "SourceError",
    ),
    "events": ("EvaluationReason", "FlagEvaluationEvent"),
    "hookspecs": ("hookimpl",),
    "normal_form": ("FrozenEvent", "normal_key"),
    "pipeline": ("Pipeline", "open_pipeline"),
    "protocols": (
        "AnalyticsCollector",
        "AnalyticsExporter",
        "Backend",
        "Batch",
        "BatchSink",
        "EventFilter",
        "EventSource",
        "FlagActivity",
        "FlagSummary",
        "InlineSink",
        "Outcome",
        "Processor",
        "TimeStep",
        "Window",
    ),
}
_BACKENDS = {
    "AnalyticsHook": "openfeature",
    "DatabaseAnalyticsCollector": "database",
    "InMemoryAnalyticsCollector": "memory",
    "OTelAnalyticsExporter": "otel",
    "OTelHook": "otel",
    "PrometheusExporter": "prometheus",
    "create_exporter_from_hook": "otel",
}
"""Not in ``__all__``: ``from flag_analytics import *`` must not fail for a backend that nobody installed."""

_MODULES = {name: module for module, names in _CORE.items() for name in names}


def __getattr__(name: str) -> Any:
    from importlib import import_module

    if name in _MODULES:
        value = getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
    elif name in _BACKENDS:
        value = _backend(name)
    elif name == "__version__":
        from importlib_metadata import version

        value = version("flag-analytics")
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def _backend(name: str) -> Any:
    from importlib import import_module

    from .errors import PluginNotInstalledError

    plugin = _BACKENDS[name]
    module = f"flag_analytics_{plugin}"
    line = f"pip install flag-analytics-{plugin}"
    try:
        return getattr(import_module(module), name)
    except ModuleNotFoundError as error:
        missing = error.name
    if missing == module:
        raise PluginNotInstalledError(f"{name} is in flag-analytics-{plugin}, which is not installed: run `{line}`")
    raise PluginNotInstalledError(f"{name} needs {missing}, which is not installed: run `{line}` again")


def __dir__() -> list[str]:
    from importlib.util import find_spec

    present = (name for name, plugin in _BACKENDS.items() if find_spec(f"flag_analytics_{plugin}"))
    return sorted({*globals(), *__all__, *present})
