"""The one way to read configuration: from a mapping, TOML or the environment to a checked ``Plan``.

::

    [collectors.memory]
    max_size = 60_000
    [collectors."database/warehouse"]        # type/name: two of one type
    connection_string = "${ANALYTICS_URL}"   # ${VAR}, ${VAR:-default}, $$
    [collectors."database/warehouse".delivery]
    max_events = 100_000                     # DeliveryOptions of this sink
    [exporters.prometheus]
    prefix = "myapp"
    [[processors]]                           # in this order
    type = "hash_targeting_key"
    [delivery]                               # DeliveryOptions of every sink

The first word of a backend's name is the plugin to load. ``plugins = ["NAME"]`` loads one that only listens. Nothing is
created here: all problems are found first and raised together. The environment overlay is described in
``flag_analytics.config.sources``.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator, Mapping
from typing import Any, Literal

import attrs

from ..errors import ConfigError, ConfigProblem, PluginError
from ..processors import BUILT_IN
from ..registry import KNOWN_PLUGINS, Registry, default_registry
from ..reports import DeliveryOptions
from .options import OptionsReader, Refused, did_you_mean, options_of, origin_of
from .plan import Plan, PlannedProcessor, PlannedSink
from .sources import SECTIONS, EnvText, Tables, join_path, read_tables

__all__ = ["Source", "read_config", "selected_plugins"]

Source = Mapping[str, Any] | str | os.PathLike[str] | None

NAME = r"[A-Za-z0-9_.-]{1,64}"
PIPELINE_WIDE = frozenset({"durability", "close_timeout_seconds", "exit_timeout_seconds"}) | {
    field.name for field in attrs.fields(DeliveryOptions) if field.name.startswith("spool_")
}
"""The settings of delivery that one sink cannot have."""


def read_config(
    source: Source = None, *, environ: Mapping[str, str] | None = None, registry: Registry | None = None
) -> Plan:
    """Return the checked plan of a configuration.

    Args:
        source: A mapping; the path of a TOML file (of ``pyproject.toml``, its ``[tool.flag-analytics]``); or None for
            ``flag-analytics.toml``, else ``pyproject.toml`` in the current directory, else the environment alone.
        environ: The environment, by default that of the process.
        registry: Where plugins come from, by default those that are installed.

    Raises:
        ConfigError: everything that is wrong, with its path. If a plugin is broken, its error is the cause.
    """
    registry = registry or default_registry()
    tables = read_tables(source, os.environ if environ is None else environ, {*registry.installed(), *KNOWN_PLUGINS})
    planner = _Planner(tables, registry)
    plan = planner.plan()
    # A value whose variable is not set has that problem alone.
    unset = {problem.path for problem in tables.problems if problem.path}
    problems = [*tables.problems, *(problem for problem in planner.problems if problem.path not in unset)]
    if problems:
        raise ConfigError(problems, tables.label) from planner.cause
    return plan


def selected_plugins(source: Source = None, *, environ: Mapping[str, str] | None = None) -> frozenset[str]:
    """Return the names of the plugins that a configuration names, without loading or checking anything."""
    tree = read_tables(source, os.environ if environ is None else environ, KNOWN_PLUGINS).tree
    sinks = (tree[section] for section in ("collectors", "exporters") if isinstance(tree.get(section), dict))
    names = {str(name).partition("/")[0] for table in sinks for name in table}
    tables = tree.get("processors")
    for table in tables if isinstance(tables, list) else ():
        if isinstance(table, dict) and "type" in table:
            names.add(str(_text(table["type"])))
    return frozenset({*names, *_names_in(tree.get("plugins", []))} - BUILT_IN.keys())


class _Planner:
    """Goes through the tables once, and collects a plan or problems."""

    def __init__(self, tables: Tables, registry: Registry) -> None:
        self.problems: list[ConfigProblem] = []
        self.cause: PluginError | None = None
        self._tables = tables
        self._tree = tables.tree
        self._registry = registry
        self._plugins: dict[str, None] = {}

    def plan(self) -> Plan:
        for section in filter(lambda name: name not in SECTIONS, self._tree):
            known = f"{did_you_mean(section, SECTIONS)}; known are {', '.join(SECTIONS)}"
            self._complain(join_path("", section), f"unknown table{known}")
        plugins = self._tree.get("plugins", [])
        if not isinstance(plugins, list | str | EnvText):
            self._complain("plugins", 'expected an array of names: plugins = ["audit"]')
        for name in _names_in(plugins):
            self._try("plugins", plugins, self._registry.load, str(name))
        sinks = (*self._sinks("collectors", "collector"), *self._sinks("exporters", "exporter"))
        delivery = self._delivery(self._tree.get("delivery", {}), "delivery", frozenset())
        processors = tuple(self._processors(self._tree.get("processors", [])))
        if not (self.problems or self._tables.problems or sinks):
            self._complain(
                "",
                f"nothing would receive events: no collector and no exporter in {self._tables.label}; add one, for "
                "example [collectors.memory] to flag-analytics.toml",
            )
        return Plan(self._tables.label, sinks, processors, delivery, tuple(self._plugins))

    def _complain(self, path: str, message: str, raw: object = None) -> None:
        self.problems.append(ConfigProblem(path, message + origin_of(raw)))

    def _try(self, path: str, raw: object, ask: Any, *arguments: Any) -> Any:
        """Return what ``ask`` does about the plugin that is the last argument; None, and a problem, if it raises."""
        try:
            answer = ask(*arguments)
        except PluginError as error:
            self._complain(path, str(error), raw)
            self.cause = self.cause or error
            return None
        if arguments[-1] in self._registry.installed():
            self._plugins[arguments[-1]] = None
        return answer

    def _sinks(self, section: str, role: Literal["collector", "exporter"]) -> Iterator[PlannedSink]:
        tables = self._tree.get(section, {})
        if not isinstance(tables, dict):
            self._complain(section, f"expected tables, one for each {role}")
            return
        for name, table in tables.items():
            path = join_path(section, name)
            if not isinstance(name, str) or not re.fullmatch(f"{NAME}(/{NAME})?", name):
                self._complain(path, "expected a name of letters, digits, _, - and ., as type or type/name", table)
            elif not isinstance(table, dict):
                self._complain(path, "expected a table; an empty one takes every default")
            else:
                sink = self._sink(path, role, name, table)
                if sink is not None:
                    yield sink

    def _sink(self, path: str, role: Literal["collector", "exporter"], name: str, table: Any) -> PlannedSink | None:
        plugin, _, _ = name.partition("/")
        collectors = self._tree.get("collectors")
        if role == "exporter" and isinstance(collectors, dict) and name in collectors:
            self._complain(path, f"a collector has this name too: call one of them {plugin}/other")
        backend = self._try(path, table, self._registry.backend, role, plugin)
        delivery = self._delivery(table.get("delivery", {}), join_path(path, "delivery"), PIPELINE_WIDE)
        own = {key: value for key, value in table.items() if key != "delivery"}
        made = None if backend is None else self._options(backend, own, path)
        if backend is None or made is None:
            return None
        options, values, checks = made
        fields = options_of(backend.options)
        explicit = frozenset(fields[name].metadata.get("delivery", fields[name].name) for name in values)
        return PlannedSink(name, role, backend, options, explicit, delivery, self._registry.origin(backend), **checks)

    def _options(self, backend: Any, table: Mapping[Any, Any], path: str) -> tuple[Any, Any, dict[str, Any]] | None:
        """Return the options, the values that were set, and what messages about them may show."""
        reader = OptionsReader(self.problems)
        try:
            values = reader.values(backend.options, table, path)
            options = reader.build(backend.options, values, table, path)
        except Refused:
            return None
        except PluginError as error:
            self._complain(path, str(error))
            self.cause = self.cause or error
            return None
        return options, values, {"secrets": frozenset(reader.secrets), "quote": not reader.has_secret_option}

    def _delivery(self, table: Any, path: str, refused: frozenset[str]) -> Mapping[str, Any]:
        if not isinstance(table, dict):
            self._complain(path, "expected a table")
            return {}
        for key in table.keys() & refused:
            self._complain(join_path(path, key), "belongs to the whole pipeline: set it in [delivery]")
        reader = OptionsReader(self.problems)
        values = reader.values(DeliveryOptions, table, path, refused=refused)
        with contextlib.suppress(Refused):
            reader.build(DeliveryOptions, values, table, path)
        return values

    def _processors(self, tables: Any) -> Iterator[PlannedProcessor]:
        if not isinstance(tables, list):
            self._complain("processors", 'expected an array of tables: [[processors]] with type = "…"')
            return
        for index, table in enumerate(tables):
            path = f"processors[{index}]"
            raw = table.get("type") if isinstance(table, dict) else None
            name = _text(raw)
            if not isinstance(name, str):
                self._complain(path, f"expected a table with a type: built in are {', '.join(BUILT_IN)}", table)
                continue
            meant = did_you_mean(name, BUILT_IN)
            factory = BUILT_IN.get(name)
            if factory is None and meant and name not in self._registry.installed():
                self._complain(join_path(path, "type"), f"unknown processor {name!r}{meant}", raw)
            elif factory is None:
                factory = self._try(join_path(path, "type"), raw, self._registry.backend, "processor", name)
            own = {key: value for key, value in table.items() if key != "type"}
            made = None if factory is None else self._options(factory, own, path)
            if factory is not None and made is not None:
                options, _, checks = made
                yield PlannedProcessor(name, factory, options, self._registry.origin(factory), **checks)


def _text(raw: Any) -> Any:
    return raw.text if isinstance(raw, EnvText) else raw


def _names_in(value: Any) -> list[Any]:
    """Return plugin names out of an array, or out of the environment's text with commas."""
    value = _text(value)
    names = re.split(r"[\s,\[\]\"']+", value) if isinstance(value, str) else value if isinstance(value, list) else []
    return [name for name in map(_text, names) if name]
