"""Core without any backend: it imports, and names the distribution that is missing."""

import sys

import flag_analytics
from flag_analytics import errors

assert "site-packages" in flag_analytics.__file__, flag_analytics.__file__
assert not [name for name in sys.modules if name.startswith("flag_analytics_") or name == "pytest"]

for name in ("InMemoryAnalyticsCollector", "DatabaseAnalyticsCollector", "PrometheusExporter", "OTelAnalyticsExporter"):
    try:
        getattr(flag_analytics, name)
    except ImportError as error:
        assert isinstance(error, errors.PluginNotInstalledError)
        assert "pip install" in str(error)
    else:
        sys.exit(f"{name} came from nowhere")

try:
    flag_analytics.open_pipeline({"collectors": {"memory": {}}})
except errors.FlagAnalyticsError as error:
    assert "pip install" in str(error), error
else:
    sys.exit("a pipeline with a backend that is not installed was opened")
