"""What are our feature flags really doing? Capture, deliver and aggregate flag evaluations.

Everything a user needs is here, and each name is imported when it is first used, so that ``import flag_analytics``
costs next to nothing and loads no backend::

    from flag_analytics import FlagEvaluationEvent, open_pipeline

The classes of the backends are here too where their distributions are installed; where one is not, using its name
raises ``PluginNotInstalledError``, an ``ImportError`` that says what to install.
"""

from __future__ import annotations

_CORE = {
    "AnalyticsAggregator": "aggregator",
    "AnalyticsCollector": "protocols",
    "AnalyticsExporter": "protocols",
    "Backend": "protocols",
    "BadBatch": "errors",
    "Batch": "protocols",
    "BatchSink": "protocols",
    "CommitUnknown": "errors",
    "ConfigError": "errors",
    "ConfigProblem": "errors",
    "DeadLetter": "reports",
    "DeliveryError": "errors",
    "DeliveryOptions": "reports",
    "DeliveryReport": "reports",
    "DeliveryStats": "reports",
    "EvaluationReason": "events",
    "EventError": "errors",
    "EventFilter": "sources",
    "EventSource": "sources",
    "FlagActivity": "sources",
    "FlagAnalyticsError": "errors",
    "FlagEvaluationEvent": "events",
    "FlagMetrics": "aggregator",
    "FlagSummary": "sources",
    "FrozenEvent": "frozen",
    "InlineSink": "protocols",
    "Pipeline": "pipeline",
    "Plan": "config.plan",
    "PluginError": "errors",
    "PluginNotInstalledError": "errors",
    "Processor": "protocols",
    "ProcessorFactory": "protocols",
    "RecordResult": "protocols",
    "SinkStats": "reports",
    "SinkUnavailable": "errors",
    "SourceError": "errors",
    "TimeStep": "sources",
    "Window": "sources",
    "canonical_key": "canonical",
    "hookimpl": "hookspecs",
    "install_signal_handlers": "processes",
    "open_pipeline": "pipeline",
    "read_config": "config.reading",
}
_BACKENDS = {
    "AnalyticsHook": "openfeature",
    "DatabaseAnalyticsCollector": "database",
    "Delivery": "delivery",
    "InMemoryAnalyticsCollector": "memory",
    "OTelAnalyticsExporter": "otel",
    "OTelHook": "otel",
    "PrometheusExporter": "prometheus",
    "create_exporter_from_hook": "otel",
}

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
    "Pipeline",
    "Plan",
    "PluginError",
    "PluginNotInstalledError",
    "Processor",
    "ProcessorFactory",
    "RecordResult",
    "SinkStats",
    "SinkUnavailable",
    "SourceError",
    "TimeStep",
    "Window",
    "__version__",
    "canonical_key",
    "hookimpl",
    "install_signal_handlers",
    "open_pipeline",
    "read_config",
]
"""No backend: ``from flag_analytics import *`` must not fail for a missing one."""


def __getattr__(name: str) -> object:
    from importlib import import_module

    if name in _CORE:
        value = getattr(import_module(f"{__name__}.{_CORE[name]}"), name)
    elif name in _BACKENDS:
        value = _backend(name)
    elif name == "__version__":
        from importlib_metadata import version

        value = version("flag-analytics")
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def _backend(name: str) -> object:
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
    return sorted({*__all__, *present})
