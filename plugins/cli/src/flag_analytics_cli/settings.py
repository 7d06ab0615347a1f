"""The backends of a command: those of the configuration, or an embedded store where nothing is configured."""

from __future__ import annotations

import importlib.util
import os
import re
from pathlib import Path
from typing import Any

import attrs
from flag_analytics.config.plan import Plan, PlannedSink
from flag_analytics.config.reading import Source, read_config
from flag_analytics.config.sources import EnvText, read_tables
from flag_analytics.processors import BUILT_IN
from flag_analytics.registry import Registry, default_registry

__all__ = [
    "DATABASE_FILE",
    "IMPORT_BLOCK_SECONDS",
    "chosen_plan",
    "chosen_plugins",
    "demo_plan",
    "is_configured",
    "is_embedded",
    "is_lasting",
    "keeps_events",
    "missing_file",
    "patient",
]

DATABASE_FILE = "flag-analytics.db"
"""The SQLite file in the current directory that is used where nothing else is configured."""
IMPORT_BLOCK_SECONDS = 60.0
_MEMORY_EVENTS = 1_000_000
_SQLITE_FILE = re.compile(r"sqlite(\+\w+)?:///(?P<path>[^?]+)(\?.*)?")
_EMBEDDED_LABEL = "the built-in default, since nothing is configured"


def chosen_plan(config: Path | None, registry: Registry | None = None) -> Plan:
    """Return the plan of the given configuration file, else of the one in this directory and the environment.

    Where neither names a backend, it is the embedded default: a SQLite file where the database plugin is installed,
    else memory.

    Raises:
        ConfigError: everything that is wrong with the configuration.
    """
    registry = registry or default_registry()
    source, embedded = _chosen_source(config, registry)
    plan = read_config(source, registry=registry)
    return _as_default(plan) if embedded else plan


def demo_plan(config: Path | None, registry: Registry | None = None) -> Plan:
    """Return the plan for made-up events: a file that is given, else the embedded default.

    The backends of this directory and the environment are left alone, since they may keep real events.

    Raises:
        ConfigError: everything that is wrong with the file.
    """
    if config is not None:
        return chosen_plan(config, registry)
    registry = registry or default_registry()
    plan = read_config({"collectors": _embedded(registry)}, environ={}, registry=registry)
    return _as_default(plan)


def is_configured() -> bool:
    """Return whether this directory or the environment name backends."""
    tree = read_tables(None, os.environ, default_registry().installed()).tree
    return bool(os.environ.get("FLAG_ANALYTICS_CONFIG") or tree.get("collectors") or tree.get("exporters"))


def chosen_plugins(config: Path | None, registry: Registry | None = None) -> frozenset[str]:
    """Return the names of the plugins that ``chosen_plan`` would load, without loading or checking anything."""
    registry = registry or default_registry()
    source, _ = _chosen_source(config, registry)
    tree = read_tables(source, os.environ, registry.installed()).tree
    return frozenset(_names_in(tree) - BUILT_IN.keys())


def _names_in(tree: dict[str, Any]) -> set[str]:
    sinks = (tree[section] for section in ("collectors", "exporters") if isinstance(tree.get(section), dict))
    processors = tree["processors"] if isinstance(tree.get("processors"), list) else []
    types = [table.get("type") for table in processors if isinstance(table, dict)]
    others = tree.get("plugins", [])
    others = re.split(r"[\s,\[\]\"']+", others.text) if isinstance(others, EnvText) else others
    named = [*types, *(others if isinstance(others, list) else [])]
    texts = {name.text if isinstance(name, EnvText) else name for name in named}
    return {str(name).partition("/")[0] for table in sinks for name in table} | {str(name) for name in texts if name}


def is_embedded(plan: Plan) -> bool:
    """Return whether the plan is the embedded default."""
    return plan.label == _EMBEDDED_LABEL


def keeps_events(plan: Plan) -> bool:
    """Return whether events outlive the command, or leave it at all."""
    return any(map(is_lasting, plan.sinks))


def is_lasting(sink: PlannedSink) -> bool:
    """Return whether a backend's events outlive the process."""
    return sink.name.partition("/")[0] != "memory"


def missing_file(sink: PlannedSink) -> Path | None:
    """Return the SQLite file that a backend would create when it is asked, None if there is nothing to create."""
    match = _SQLITE_FILE.fullmatch(str(getattr(sink.options, "connection_string", "")))
    if match is None or match["path"].startswith((":memory:", "file:")):
        return None
    path = Path(match["path"])
    return None if path.exists() else path


def patient(plan: Plan) -> Plan:
    """Return the plan with queues that hold up a caller that is faster than a backend, instead of dropping events."""
    hold = {"policy": "block", "block_timeout_seconds": IMPORT_BLOCK_SECONDS}
    return attrs.evolve(
        plan,
        delivery={**plan.delivery, **hold},
        sinks=tuple(attrs.evolve(sink, delivery={**sink.delivery, **hold}) for sink in plan.sinks),
    )


def _chosen_source(config: Path | None, registry: Registry) -> tuple[Source, bool]:
    """Return where configuration comes from, and whether that is the embedded default."""
    tables = read_tables(config, os.environ, registry.installed())
    tree = tables.tree
    if config is not None or tables.problems or tree.get("collectors") or tree.get("exporters"):
        return config, False
    return {**tree, "collectors": _embedded(registry)}, True


def _as_default(plan: Plan) -> Plan:
    # Its options are defaults: a file that is not there yet is no mistake of the user's.
    sinks = tuple(attrs.evolve(sink, explicit=frozenset()) for sink in plan.sinks)
    return attrs.evolve(plan, label=_EMBEDDED_LABEL, sinks=sinks)


def _embedded(registry: Registry) -> dict[str, Any]:
    # Looked for, not imported: that is the registry's part, once it is certain that it is needed.
    if "database" in registry.installed() and importlib.util.find_spec("aiosqlite") is not None:
        return {"database": {"connection_string": f"sqlite:///{DATABASE_FILE}", "batch_size": 500, "rollups": True}}
    return {"memory": {"max_size": _MEMORY_EVENTS}}
