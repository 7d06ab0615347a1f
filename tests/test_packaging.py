"""What an installation offers: the command, the extras, and errors that say what to install; see also ``wheels``."""

from __future__ import annotations

import importlib.metadata
import subprocess
import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement

BACKENDS = {
    "InMemoryAnalyticsCollector": "memory",
    "DatabaseAnalyticsCollector": "database",
    "PrometheusExporter": "prometheus",
    "OTelAnalyticsExporter": "otel",
    "OTelHook": "otel",
    "create_exporter_from_hook": "otel",
}

WITHOUT_A_BACKEND = """
import sys

class Hidden:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == {module!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Hidden())
try:
    from flag_analytics import {name}
except ImportError as error:
    print(type(error).__name__, error, sep=": ")
"""


@pytest.mark.parametrize("name", BACKENDS)
def test_every_class_of_the_reference_can_be_imported_from_core(name):
    import flag_analytics

    assert getattr(flag_analytics, name).__module__.startswith(f"flag_analytics_{BACKENDS[name]}")


@pytest.mark.parametrize("name", BACKENDS)
def test_a_missing_backend_is_an_import_error_with_the_line_to_run(name):
    code = WITHOUT_A_BACKEND.format(name=name, module=f"flag_analytics_{BACKENDS[name]}")
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.startswith("PluginNotInstalledError: ")
    assert f"pip install flag-analytics-{BACKENDS[name]}" in done.stdout


def test_an_unknown_name_is_an_import_error():
    with pytest.raises(ImportError):
        from flag_analytics import no_such_name  # noqa: F401


def test_the_command_is_installed_under_its_name():
    (point,) = importlib.metadata.entry_points(group="console_scripts", name="flag-analytics")
    assert callable(point.load())
    assert Path(sys.executable).with_name("flag-analytics").exists() or sys.platform == "win32"


@pytest.mark.parametrize("extra", sorted(set(BACKENDS.values()) | {"openfeature", "cli"}))
def test_an_extra_of_core_brings_the_distribution_of_that_name(extra):
    wanted = [
        requirement.name
        for requirement in map(Requirement, importlib.metadata.requires("flag-analytics") or ())
        if requirement.marker is not None and requirement.marker.evaluate({"extra": extra})
    ]
    assert wanted == [f"flag-analytics-{extra}"]
