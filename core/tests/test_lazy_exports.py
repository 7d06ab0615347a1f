"""``flag_analytics`` itself: every name from one place, none of it loaded before it is used."""

from __future__ import annotations

import ast
import inspect
import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import flag_analytics
import pytest
from flag_analytics import errors

REFERENCE = {
    "AnalyticsAggregator",
    "AnalyticsCollector",
    "AnalyticsExporter",
    "DatabaseAnalyticsCollector",
    "EvaluationReason",
    "FlagEvaluationEvent",
    "FlagMetrics",
    "InMemoryAnalyticsCollector",
    "OTelAnalyticsExporter",
    "OTelHook",
    "PrometheusExporter",
    "create_exporter_from_hook",
}
"""Every class and function that the reference of behaviour names."""


def run(program, *, without=()):
    """Return what a new interpreter prints as JSON, where the modules named cannot be imported."""
    hide = f"import json, sys\nsys.modules.update(dict.fromkeys({list(without)!r}))\n"
    done = subprocess.run(
        [sys.executable, "-c", hide + program], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_every_name_of_the_reference_is_here():
    assert set(flag_analytics.__all__) | set(flag_analytics._BACKENDS) >= REFERENCE


@pytest.mark.parametrize("name", [name for name in flag_analytics.__all__ if name != "__version__"])
def test_every_exported_name_is_the_one_of_its_own_module(name):
    value = getattr(flag_analytics, name)
    module = sys.modules[f"flag_analytics.{flag_analytics._CORE[name]}"]
    assert value is getattr(module, name)


def test_the_exports_are_sorted_and_complete():
    names = flag_analytics.__all__
    assert len(set(names)) == len(names)
    assert set(names) == {*flag_analytics._CORE, "__version__"}


def test_type_checkers_see_the_same_names_from_the_same_modules():
    tree = ast.parse(Path(flag_analytics.__file__).with_suffix(".pyi").read_text("utf-8"))
    imports = [node for node in tree.body if isinstance(node, ast.ImportFrom)]
    core = {alias.asname: node.module for node in imports for alias in node.names if node.level == 1}
    backends = {alias.asname: node.module for node in imports for alias in node.names if node.level == 0}
    assert core == flag_analytics._CORE
    assert backends == {name: f"flag_analytics_{plugin}" for name, plugin in flag_analytics._BACKENDS.items()}


def test_the_version_is_that_of_the_distribution():
    from importlib.metadata import version

    assert flag_analytics.__version__ == version("flag-analytics")


def test_a_name_that_does_not_exist_is_no_attribute():
    assert not hasattr(flag_analytics, "PrometeusExporter")
    with pytest.raises(AttributeError, match="PrometeusExporter"):
        flag_analytics.PrometeusExporter  # noqa: B018
    with pytest.raises(ImportError, match="PrometeusExporter"):
        exec("from flag_analytics import PrometeusExporter")


def test_importing_the_package_loads_nothing_else():
    loaded = run("before = set(sys.modules); import flag_analytics; print(json.dumps(list(set(sys.modules) - before)))")
    assert set(loaded) <= {"flag_analytics", "__future__"}


def test_recording_by_hand_loads_no_event_loop_no_metadata_and_no_backend():
    loaded = run(
        "from flag_analytics import FlagEvaluationEvent, EvaluationReason, RecordResult, AnalyticsCollector\n"
        "print(json.dumps(sorted(sys.modules)))"
    )
    heavy = {"asyncio", "importlib.metadata", "importlib_metadata", "pluggy", "pytest", "sqlite3", "tomllib", "logging"}
    assert not heavy & set(loaded)
    assert not [name for name in loaded if name.startswith("flag_analytics_")]


def test_opening_a_pipeline_loads_only_the_backends_it_names():
    loaded = run(
        "from flag_analytics import open_pipeline, ConfigError\n"
        "try: open_pipeline({'collectors': {'memory': {'nothing': 1}}}, environ={})\n"
        "except ConfigError: pass\n"
        "print(json.dumps(sorted(sys.modules)))"
    )
    backends = {name.partition(".")[0] for name in loaded if name.startswith("flag_analytics_")}
    assert backends == {"flag_analytics_memory"}
    assert not {"pytest", "sqlalchemy", "prometheus_client", "opentelemetry"} & set(loaded)


@pytest.mark.parametrize(("name", "plugin"), flag_analytics._BACKENDS.items())
def test_a_backend_that_is_missing_is_an_import_error_with_its_pip_install_line(name, plugin):
    kind, message, names = run(
        f"try:\n    from flag_analytics import {name}\n"
        "except ImportError as error:\n"
        "    import flag_analytics\n"
        "    print(json.dumps([type(error).__name__, str(error), dir(flag_analytics)]))\n",
        without=[f"flag_analytics_{plugin}"],
    )
    assert kind == errors.PluginNotInstalledError.__name__
    assert f"`pip install flag-analytics-{plugin}`" in message
    assert name in message
    assert name not in names


def test_a_backend_without_its_own_driver_says_what_is_missing():
    message = run(
        "try:\n    from flag_analytics import PrometheusExporter\n"
        "except ImportError as error:\n    print(json.dumps(str(error)))\n",
        without=["prometheus_client"],
    )
    assert "PrometheusExporter needs prometheus_client, which is not installed" in message
    assert "pip install flag-analytics-prometheus" in message


def test_tools_can_walk_the_package():
    members = dict(inspect.getmembers(flag_analytics))
    assert set(flag_analytics.__all__) <= set(members)
    missing = {name for name, plugin in flag_analytics._BACKENDS.items() if not find_spec(f"flag_analytics_{plugin}")}
    assert not missing & set(members)


def test_everything_is_imported_by_a_star_without_any_backend():
    hidden = [f"flag_analytics_{plugin}" for plugin in set(flag_analytics._BACKENDS.values())]
    names = run("from flag_analytics import *\nprint(json.dumps(sorted(globals())))", without=hidden)
    assert set(flag_analytics.__all__) <= set(names)
