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

import os
import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import attrs

from ..errors import ConfigError, ConfigProblem, PluginError
from ..processors import BUILT_IN
from ..protocols import Backend
from ..registry import KNOWN_PLUGINS, Registry, default_registry
from ..reports import DeliveryOptions
from .options import build, did_you_mean, origin_of, read_values
from .sources import SECTIONS, EnvText, Tables, join_path, read_tables

__all__ = ["Plan", "PlannedProcessor", "PlannedSink", "Source", "read_config", "selected_plugins"]

Source = Mapping[str, Any] | str | os.PathLike[str] | None

_SINK_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}(?:/[A-Za-z0-9_.-]{1,64})?")
_SINK_SECTIONS: tuple[tuple[str, Literal["collector", "exporter"]], ...] = (
    ("collectors", "collector"),
    ("exporters", "exporter"),
)
_PIPELINE_WIDE = frozenset({"durability", "close_timeout_seconds", "exit_timeout_seconds"}) | {
    field.name for field in attrs.fields(DeliveryOptions) if field.name.startswith("spool_")
}


@attrs.frozen
class PlannedSink:
    """One collector or exporter to create.

    Attributes:
        name: Its name in configuration, ``type`` or ``type/name``.
        options: What ``backend.create`` gets.
        explicit: The options that configuration sets, as opposed to defaults, under the names of the engine's settings
            where they are such.
        delivery: The settings of its own ``delivery`` table.
    """

    name: str
    role: Literal["collector", "exporter"]
    backend: Backend
    options: Any = attrs.field(repr=False)
    explicit: frozenset[str] = frozenset()
    delivery: Mapping[str, Any] = attrs.field(factory=dict[str, Any])


@attrs.frozen
class PlannedProcessor:
    """One processor to create."""

    name: str
    backend: Backend
    options: Any = attrs.field(repr=False)


@attrs.frozen
class Plan:
    """A checked configuration: everything a pipeline is composed of, not yet created.

    Attributes:
        label: Where it came from, for messages.
        delivery: The settings of the ``delivery`` table.
        plugins: The plugins it names, all loaded.
        secrets: What must not be shown, in every form it might be quoted in.
    """

    label: str
    sinks: tuple[PlannedSink, ...]
    processors: tuple[PlannedProcessor, ...] = ()
    delivery: Mapping[str, Any] = attrs.field(factory=dict[str, Any])
    plugins: tuple[str, ...] = ()
    secrets: frozenset[str] = attrs.field(default=frozenset(), repr=False)

    def delivery_options(self) -> DeliveryOptions:
        """Return the settings that belong to the whole pipeline."""
        return DeliveryOptions(**self.delivery)

    def sink_options(self, sink: PlannedSink, wish: DeliveryOptions | None) -> DeliveryOptions:
        """Return a sink's settings: its own wish, under ``[delivery]``, under what its own tables say.

        An option of the backend that is called as one of the engine's (``batch_size``) and that configuration sets
        has already gone into the wish, and is more specific than ``[delivery]``.
        """
        general = {name: value for name, value in self.delivery.items() if name not in sink.explicit}
        return (wish or DeliveryOptions()).evolve(**{**general, **sink.delivery})


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
    reader = _Reader(tables, registry)
    plan = reader.plan()
    if reader.problems:
        # What is wrong with a value whose variable is not set follows from that.
        unset = {problem.path for problem in tables.problems if problem.path}
        others = [problem for problem in reader.problems[len(tables.problems) :] if problem.path not in unset]
        raise ConfigError([*tables.problems, *others], tables.label) from reader.cause
    return plan


def selected_plugins(source: Source = None, *, environ: Mapping[str, str] | None = None) -> frozenset[str]:
    """Return the names of the plugins that a configuration names, without loading or checking anything."""
    tree = read_tables(source, os.environ if environ is None else environ, KNOWN_PLUGINS).tree
    names: set[str] = set()
    for section, _ in _SINK_SECTIONS:
        table = tree.get(section)
        if isinstance(table, dict):
            names |= {str(name).partition("/")[0] for name in table}
    names |= {str(name) for name in _names_in(tree.get("plugins"))}
    processors = tree.get("processors")
    for table in processors if isinstance(processors, list) else ():
        name = table.get("type") if isinstance(table, dict) else None
        if name is not None and str(name) not in BUILT_IN:
            names.add(name.text if isinstance(name, EnvText) else str(name))
    return frozenset(names)


class _Reader:
    """Goes through the tables once and collects a plan, or problems."""

    def __init__(self, tables: Tables, registry: Registry) -> None:
        self.problems: list[ConfigProblem] = list(tables.problems)
        self.cause: PluginError | None = None
        self._tree = tables.tree
        self._label = tables.label
        self._registry = registry
        self._plugins: dict[str, None] = {}
        self._secrets: set[str] = set()

    def plan(self) -> Plan:
        self._refuse_unknown_sections()
        plugins = self._tree.get("plugins", [])
        if not isinstance(plugins, list | str | EnvText):
            self._complain("plugins", 'expected an array of names: plugins = ["audit"]')
        for name in _names_in(plugins):
            self._load("plugins", str(name), origin_of(plugins))
        sinks = tuple(
            sink for section, role in _SINK_SECTIONS for sink in self._sinks(section, role) if sink is not None
        )
        delivery = self._delivery(self._tree.get("delivery", {}), "delivery")
        processors = tuple(self._processors(self._tree.get("processors", [])))
        self._refuse_an_empty_plan()
        return Plan(self._label, sinks, processors, delivery, tuple(self._plugins), frozenset(self._secrets))

    def _complain(self, path: str, message: str) -> None:
        self.problems.append(ConfigProblem(path, message))

    def _refuse_unknown_sections(self) -> None:
        for section in self._tree:
            if section not in SECTIONS:
                meant = did_you_mean(section, SECTIONS)
                self._complain(join_path("", section), f"unknown table{meant}; known are {', '.join(SECTIONS)}")

    def _refuse_an_empty_plan(self) -> None:
        if not self.problems and not any(self._tree.get(section) for section, _ in _SINK_SECTIONS):
            self._complain(
                "",
                f"nothing would receive events: no collector and no exporter in {self._label}; add one, for example "
                "[collectors.memory] to flag-analytics.toml",
            )

    def _load(self, path: str, name: str, origin: str) -> None:
        try:
            self._registry.load(name)
        except PluginError as error:
            self._refuse_plugin(path, error, origin)
            return
        self._plugins[name] = None

    def _refuse_plugin(self, path: str, error: PluginError, origin: str = "") -> None:
        self._complain(path, f"{error}{origin}")
        self.cause = self.cause or error

    def _backend(
        self, path: str, role: Literal["collector", "exporter", "processor"], name: str, origin: str
    ) -> Backend | None:
        try:
            backend = self._registry.backend(role, name)
        except PluginError as error:
            self._refuse_plugin(path, error, origin)
            return None
        if name in self._registry.installed():
            self._plugins[name] = None
        return backend

    def _sinks(self, section: str, role: Literal["collector", "exporter"]) -> list[PlannedSink | None]:
        tables = self._tree.get(section, {})
        if not isinstance(tables, dict):
            self._complain(section, f"expected tables, one for each {role}")
            return []
        return [self._sink(section, role, name, table) for name, table in tables.items()]

    def _sink(self, section: str, role: Literal["collector", "exporter"], name: Any, table: Any) -> PlannedSink | None:
        path = join_path(section, name)
        if not isinstance(name, str) or not _SINK_NAME.fullmatch(name):
            expected = "expected a name of letters, digits, _, - and ., as type or type/name"
            self._complain(path, expected + origin_of(table))
            return None
        collectors = self._tree.get("collectors")
        if role == "exporter" and isinstance(collectors, dict) and name in collectors:
            self._complain(path, f"a collector has this name too: call one of them {name.partition('/')[0]}/other")
        if not isinstance(table, dict):
            self._complain(path, "expected a table; an empty one takes every default")
            return None
        backend = self._backend(path, role, name.partition("/")[0], origin_of(table))
        delivery = self._delivery(table.get("delivery", {}), join_path(path, "delivery"), of_one_sink=True)
        if backend is None:
            return None
        own = {key: value for key, value in table.items() if key != "delivery"}
        for key in _tables_that_are_no_option(own, backend):
            meant = join_path(section, f"{name.partition('/')[0]}/{key}")
            problem = f"unknown option; a second backend of this type is the table [{meant}]{origin_of(own.pop(key))}"
            self._complain(join_path(path, key), problem)
        options, explicit = self._options(backend, own, path)
        return None if options is None else PlannedSink(name, role, backend, options, explicit, delivery)

    def _options(self, backend: Backend, table: Mapping[Any, Any], path: str) -> tuple[Any, frozenset[str]]:
        try:
            values = read_values(backend.options, table, path, self.problems, self._secrets)
        except PluginError as error:
            self._refuse_plugin(path, error)
            return None, frozenset()
        options = build(backend.options, values, path, self.problems, self._secrets, table)
        meant = {field.name: field.metadata.get("delivery", field.name) for field in attrs.fields(backend.options)}
        return options, frozenset(meant[name] for name in values)

    def _delivery(self, table: Any, path: str, *, of_one_sink: bool = False) -> Mapping[str, Any]:
        if not isinstance(table, dict):
            self._complain(path, "expected a table")
            return {}
        for key in table:
            if of_one_sink and key in _PIPELINE_WIDE:
                self._complain(join_path(path, key), "belongs to the whole pipeline: set it in [delivery]")
        refused = _PIPELINE_WIDE if of_one_sink else frozenset[str]()
        values = read_values(DeliveryOptions, table, path, self.problems, self._secrets, refused)
        build(DeliveryOptions, values, path, self.problems, self._secrets, table)
        return values

    def _processors(self, tables: Any) -> list[PlannedProcessor]:
        if not isinstance(tables, list):
            self._complain("processors", 'expected an array of tables: [[processors]] with type = "…"')
            return []
        planned = (self._processor(table, f"processors[{index}]") for index, table in enumerate(tables))
        return [processor for processor in planned if processor is not None]

    def _processor(self, table: Any, path: str) -> PlannedProcessor | None:
        name = table.get("type") if isinstance(table, dict) else None
        origin = origin_of(name)
        name = name.text if isinstance(name, EnvText) else name
        if not isinstance(name, str):
            self._complain(path, f"expected a table with a type: built in are {', '.join(BUILT_IN)}{origin_of(table)}")
            return None
        backend = BUILT_IN.get(name)
        if backend is None:
            meant = did_you_mean(name, BUILT_IN)
            if meant and name not in self._registry.installed():
                self._complain(join_path(path, "type"), f"unknown processor {name!r}{meant}{origin}")
                return None
            backend = self._backend(join_path(path, "type"), "processor", name, origin)
        if backend is None:
            return None
        own = {key: value for key, value in table.items() if key != "type"}
        options, _ = self._options(backend, own, path)
        return None if options is None else PlannedProcessor(name, backend, options)


def _tables_that_are_no_option(table: Mapping[Any, Any], backend: Backend) -> list[Any]:
    options = {field.alias or field.name for field in attrs.fields(backend.options)}
    return [key for key, value in table.items() if isinstance(value, dict) and key not in options]


def _names_in(value: Any) -> Sequence[str]:
    """Return plugin names out of an array, or out of the environment's text with commas."""
    if isinstance(value, EnvText):
        value = re.split(r"[\s,\[\]\"']+", value.text)
    if isinstance(value, str):
        value = [value]
    names = [item.text if isinstance(item, EnvText) else item for item in value] if isinstance(value, list) else []
    return [name for name in names if name]
