"""What are our feature flags really doing? Capture, deliver and aggregate flag evaluations.

Everything a user needs is here, and each name is imported when it is first used, so that ``import flag_analytics``
costs next to nothing and loads no backend::

    from flag_analytics import FlagEvaluationEvent, open_pipeline

The classes of the backends are here too where their distributions are installed; where one is not, using its name
raises ``PluginNotInstalledError``, an ``ImportError`` that says what to install.
"""

from __future__ import annotations

_MODULES = {
    "aggregator": "AnalyticsAggregator FlagMetrics",
    "canonical": "canonical_key",
    "config.plan": "Plan",
    "config.reading": "read_config",
    "errors": (
        "BadBatch CommitUnknown ConfigError ConfigProblem DeliveryError EventError FatalConfiguration "
        "FlagAnalyticsError PluginError PluginNotInstalledError SinkUnavailable SourceError"
    ),
    "events": "EvaluationReason FlagEvaluationEvent",
    "frozen": "FrozenEvent",
    "hookspecs": "hookimpl",
    "outcomes": "Difference Outcomes OutcomeSource VariantOutcomes",
    "pipeline": "Pipeline open_pipeline",
    "processes": "install_signal_handlers",
    "protocols": (
        "AnalyticsCollector AnalyticsExporter Backend Batch BatchSink InlineSink Processor "
        "ProcessorFactory RecordResult"
    ),
    "recording": "record_evaluation",
    "reports": "DeadLetter DeliveryOptions DeliveryReport DeliveryStats SinkStats",
    "sources": "EventFilter EventSource Exposures FlagActivity FlagSummary Grouping TimeStep Window",
}
_PLUGINS = {
    "database": "DatabaseAnalyticsCollector",
    "delivery": "Delivery",
    "memory": "InMemoryAnalyticsCollector",
    "openfeature": "AnalyticsHook",
    "otel": "OTelAnalyticsExporter OTelHook create_exporter_from_hook",
    "prometheus": "PrometheusExporter",
}
_CORE = {name: module for module, names in _MODULES.items() for name in names.split()}
_BACKENDS = {name: plugin for plugin, names in _PLUGINS.items() for name in names.split()}

__all__ = sorted([*_CORE, "__version__"])  # noqa: PLE0605 — the stub beside this file spells it out
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
