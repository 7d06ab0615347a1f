"""The one way to read configuration: from a mapping, TOML or the environment to a checked ``Plan``.

::

    [collectors.memory]
    max_size = 60_000
    [collectors."database/warehouse"]        # type/name: two of one type
    connection_string = "${ANALYTICS_URL}"   # ${VAR}, ${VAR:-default}, $$
    [collectors."database/warehouse".delivery]
    max_events = 100_000                     # DeliveryOptions of this sink
    [[collectors."database/warehouse".processors]]
    type = "redact"                          # for the events of this sink alone
    attributes = ["email"]
    [exporters.prometheus]
    prefix = "myapp"
    [sources.files]                          # what is asked, and not written to
    location = "s3://archive/flags"
    [[processors]]                           # in this order
    type = "hash_targeting_key"
    [delivery]                               # DeliveryOptions of every sink

The first word of a backend's name is the plugin to load. ``plugins = ["NAME"]`` loads one that only listens, and
``plugins = ["./my_plugin.py"]`` one that is a file, relative to the configuration's. Nothing is
created here: all problems are found and raised together. The environment overlay is described in
``flag_analytics.config.sources``.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import Any, Literal

import attrs

from ..errors import ConfigError, ConfigProblem, PluginError
from ..processors import BUILT_IN
from ..registry import KNOWN_PLUGINS, Registry, default_registry
from ..reports import DeliveryOptions
from .options import OptionsReader, Refused, did_you_mean, options_of, origin_of
from .plan import Plan, PlannedProcessor, PlannedSink
from .sources import EnvText, Tables, join_path, read_tables

__all__ = ["Source", "read_config"]

SinkRole = Literal["collector", "exporter", "source"]
Source = Mapping[str, Any] | str | os.PathLike[str] | None

NAME = r"[A-Za-z0-9_.-]{1,64}"
PIPELINE_WIDE = frozenset({"durability", "close_timeout_seconds", "exit_timeout_seconds", "sigterm"}) | {
    field.name for field in attrs.fields(DeliveryOptions) if field.name.startswith("spool_")
}
"""The settings of delivery that one sink cannot have."""
FOR_ALL_SINKS = frozenset({"deduplicate_exposures"})
"""The processors that one sink cannot have: at a second attempt they would do something else to the same event."""


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
        ConfigError: every problem, with its path. If a plugin is broken, its error is the cause.
    """
    registry = registry or default_registry()
    tables = read_tables(source, os.environ if environ is None else environ, {*registry.installed(), *KNOWN_PLUGINS})
    planner = _Planner(registry)
    plan = planner.plan(tables)
    # A value whose variable is not set has that problem alone.
    unset = {problem.path for problem in tables.problems if problem.path}
    problems = [*tables.problems, *(problem for problem in planner.problems if problem.path not in unset)]
    if problems:
        raise ConfigError(problems, tables.label) from planner.cause
    return plan


@attrs.frozen
class _Sections:
    """The tables of a configuration, each still as it was written."""

    collectors: dict[str, object] = attrs.Factory(dict)
    exporters: dict[str, object] = attrs.Factory(dict)
    sources: dict[str, object] = attrs.Factory(dict)
    processors: list[object] = attrs.Factory(list)
    delivery: dict[str, object] = attrs.Factory(dict)
    plugins: list[str] = attrs.Factory(list)


class _Planner:
    """Goes through the tables once, and collects a plan or problems."""

    def __init__(self, registry: Registry) -> None:
        self.problems: list[ConfigProblem] = []
        self.cause: PluginError | None = None
        self._registry = registry
        self._plugins: dict[str, None] = {}

    def plan(self, tables: Tables) -> Plan:
        sections = _Sections(**OptionsReader(self.problems).values(_Sections, tables.tree, ""))
        for name in sections.plugins:
            if name.endswith(".py"):
                self._try("plugins", tables.tree["plugins"], self._load_file, name, Path(tables.label), Path(name).stem)
            else:
                self._try("plugins", tables.tree["plugins"], self._registry.load, name)
        sinks = [self._sink("collector", *item, frozenset()) for item in sections.collectors.items()]
        sinks += [self._sink("exporter", *item, sections.collectors.keys()) for item in sections.exporters.items()]
        taken = sections.collectors.keys() | sections.exporters.keys()
        sources = [self._sink("source", *item, taken) for item in sections.sources.items()]
        delivery = self._delivery(sections.delivery, "delivery", frozenset())
        processors = self._processors(sections.processors, "processors")
        if not (self.problems or tables.problems or sinks):
            self._complain(
                "",
                f"nothing would receive events: no collector and no exporter in {tables.label}; add one, for "
                "example [collectors.memory] to flag-analytics.toml",
            )
        planned = tuple(sink for sink in sinks if sink is not None)
        readable = tuple(source for source in sources if source is not None)
        return Plan(tables.label, planned, processors, delivery, tuple(self._plugins), readable)

    def _load_file(self, name: str, label: Path, _: str) -> None:
        """Load a plugin from a file, whose path is relative to the configuration file."""
        self._registry.load_file((label.parent if label.is_file() else Path()) / name)

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

    def _sink(self, role: SinkRole, name: str, table: object, taken: AbstractSet[str]) -> PlannedSink | None:
        path, plugin = join_path(f"{role}s", name), name.partition("/")[0]
        if not re.fullmatch(f"{NAME}(/{NAME})?", name):
            self._complain(path, "expected a name of letters, digits, _, - and ., as type or type/name", table)
            return None
        if not isinstance(table, dict):
            self._complain(path, "expected a table; an empty one takes every default", table)
            return None
        if name in taken:
            other = "a collector" if role == "exporter" else "a collector or exporter"
            self._complain(path, f"{other} has this name too: call one of them {plugin}/other")
        backend = self._try(path, table, self._registry.backend, role, plugin)
        own = table.pop("delivery", {}) if role != "source" else {}
        delivery = self._delivery(own, join_path(path, "delivery"), PIPELINE_WIDE)
        steps = table.pop("processors", []) if role != "source" else []
        processors = self._processors(steps, join_path(path, "processors"), FOR_ALL_SINKS)
        read = None if backend is None else self._options(backend, table, path)
        return None if read is None else PlannedSink(name, role, delivery=delivery, processors=processors, **read)

    def _processors(
        self, tables: object, path: str, refused: frozenset[str] = frozenset()
    ) -> tuple[PlannedProcessor, ...]:
        if not isinstance(tables, list):
            self._complain(path, f"expected an array of tables, as [[{path}]]", tables)
            return ()
        planned = [self._processor(f"{path}[{index}]", table) for index, table in enumerate(tables)]
        for index, processor in enumerate(planned):
            if processor is not None and processor.name in refused:
                self._complain(f"{path}[{index}].type", f"{processor.name} is for all sinks: set it in [[processors]]")
        return tuple(processor for processor in planned if processor is not None)

    def _processor(self, path: str, table: object) -> PlannedProcessor | None:
        raw = table.pop("type", None) if isinstance(table, dict) else None
        name = raw.text if isinstance(raw, EnvText) else raw
        if not isinstance(name, str) or not isinstance(table, dict):
            self._complain(path, f"expected a table with a type: built in are {', '.join(BUILT_IN)}", table)
            return None
        factory, meant = BUILT_IN.get(name), did_you_mean(name, BUILT_IN)
        offered = (each.name for plugin in self._plugins for each in self._registry.offered("processor", plugin))
        if factory is None and meant and name not in self._registry.installed() and name not in offered:
            self._complain(f"{path}.type", f"unknown processor {name!r}{meant}", raw)
        elif factory is None:
            factory = self._try(f"{path}.type", raw, self._registry.backend, "processor", name)
        read = None if factory is None else self._options(factory, table, path)
        return None if read is None else PlannedProcessor(name, **read)

    def _options(self, backend: Any, table: Mapping[Any, Any], path: str) -> dict[str, Any] | None:
        """Return the part of a plan that is about a backend's options."""
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
        fields = options_of(backend.options)
        return {
            "backend": backend,
            "options": options,
            "explicit": frozenset(fields[name].metadata.get("delivery", fields[name].name) for name in values),
            "plugin": self._registry.origin(backend),
            "secrets": frozenset(reader.secrets),
            "quote": "own" if reader.has_secret_option else "all",
        }

    def _delivery(self, table: Any, path: str, refused: frozenset[str]) -> Mapping[str, Any]:
        if not isinstance(table, dict):
            self._complain(path, "expected a table")
            return {}
        for key in table.keys() & refused:
            self._complain(join_path(path, key), "belongs to the whole pipeline: set it in [delivery]")
        return OptionsReader(self.problems).values(DeliveryOptions, table, path, refused=refused)
