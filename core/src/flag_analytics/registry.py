"""Finds plugins by entry point, loads those that are named, calls their hooks; the only module that touches pluggy.

A plugin is a module with ``@hookimpl`` functions that a distribution names in its entry-point group ``flag_analytics``;
the entry point's name is the name of the backend in configuration. Finding reads metadata only. What is imported is
what somebody named, so that a broken plugin that nobody named costs nothing. Every way to fail has its own sentence.
"""

from __future__ import annotations

import difflib
import importlib
import inspect
import logging
import os
import re
import sys
import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, cast

import attrs
import importlib_metadata
import pluggy

from . import hookspecs
from .config.secrets import masked_cause, message_of, place
from .errors import PluginError, PluginNotInstalledError, SourceError
from .plugin_import import import_plugin
from .protocols import Backend
from .sources import EventSource

if TYPE_CHECKING:
    from pathlib import Path
    from types import ModuleType

    from .config.plan import Plan
    from .pipeline import Pipeline
    from .reports import DeadLetter

__all__ = ["GROUP", "InstalledPlugin", "PluginStatus", "Registry", "Role", "default_registry", "install_line"]

GROUP = "flag_analytics"
"""The entry-point group."""

Role = Literal["collector", "exporter", "processor"]

KNOWN_PLUGINS: Mapping[str, str] = {
    name: f"flag-analytics-{name}" for name in ("database", "memory", "otel", "prometheus")
}
"""The distribution of each backend of this project, to say what to install."""

_IMPORT_TIMEOUT_SECONDS = 60.0
_REGISTER_HOOKS: Mapping[Role, str] = {
    "collector": "flag_analytics_register_collectors",
    "exporter": "flag_analytics_register_exporters",
    "processor": "flag_analytics_register_processors",
}
_ROLES_BY_HOOK: Mapping[str, str] = {
    **{hook: role for role, hook in _REGISTER_HOOKS.items()},
    "flag_analytics_event_source": "event source",
    "flag_analytics_pipeline_started": "life cycle",
    "flag_analytics_pipeline_closing": "life cycle",
    "flag_analytics_delivery_failed": "failure listener",
    "flag_analytics_cli": "commands",
}

logger = logging.getLogger("flag_analytics.registry")

_lock = threading.RLock()
"""One for all registries: importing redirects the process's standard output, and modules are process-wide anyway."""


def _after_fork_in_child() -> None:
    global _lock  # noqa: PLW0603 — the parent's lock may be held by a thread that does not exist here
    _lock = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)


@attrs.frozen
class InstalledPlugin:
    """What the metadata of a distribution says of one entry point; nothing of it has been imported."""

    name: str
    module: str
    distribution: str
    version: str
    requires: frozenset[str] = attrs.field(default=frozenset(), repr=False)
    """The distributions it depends on, extras included, by normalised name."""

    def __str__(self) -> str:
        return f"plugin {self.name!r} of {self.origin}"

    @property
    def origin(self) -> str:
        return f"{self.distribution} {self.version}"


@attrs.frozen
class PluginStatus:
    """One line of the list of plugins.

    Attributes:
        roles: What it offers: ``collector``, ``exporter``, ``processor``, …; empty until it is loaded.
        selected: Whether configuration names it.
        state: ``installed`` (not loaded, so nothing is known), ``ok`` or ``broken``.
        problem: Why it is broken, else None.
    """

    name: str
    distribution: str
    version: str
    module: str
    roles: tuple[str, ...] = ()
    selected: bool = False
    state: Literal["installed", "ok", "broken"] = "installed"
    problem: str | None = None


class Registry:
    """The plugins of this Python environment. Every method is safe from any thread.

    Args:
        path: Where to look for distributions, as ``sys.path``, which is the default.
        import_timeout_seconds: How long the import of one plugin may take.
    """

    def __init__(
        self, path: Sequence[str] | None = None, *, import_timeout_seconds: float = _IMPORT_TIMEOUT_SECONDS
    ) -> None:
        self._path = path
        self._import_timeout_seconds = import_timeout_seconds
        self._plugins = pluggy.PluginManager("flag_analytics")
        self._plugins.add_hookspecs(hookspecs)
        self._found: Mapping[str, tuple[InstalledPlugin, ...]] | None = None
        self._loaded: dict[str, ModuleType] = {}
        self._offers: dict[tuple[Role, str], tuple[Backend, ...]] = {}

    def installed(self) -> Mapping[str, tuple[InstalledPlugin, ...]]:
        """Return every entry point by name, sorted; more than one under a name is an error once it is named."""
        with _lock:
            if self._found is None:
                self._found = _scan(self._path)
            return self._found

    def load(self, name: str) -> ModuleType:
        """Return the module of the plugin of this name, imported and registered.

        Raises:
            PluginNotInstalledError: no distribution has it; the message says what to install, or what was meant.
            PluginError: it is there but cannot be used; the message names its distribution and the reason.
        """
        with _lock:
            if name not in self._loaded:
                self._loaded[name] = self._load(self._find(name))
            return self._loaded[name]

    def backend(self, role: Role, name: str) -> Backend:
        """Return what the plugin of this name offers in this role; a processor may also come from a loaded plugin.

        Raises:
            PluginNotInstalledError, PluginError: as ``load``; or it offers nothing of this name in this role.
        """
        with _lock:
            if role == "processor" and name not in self.installed():
                for loaded in tuple(self._loaded):
                    for backend in self._offered(role, loaded):
                        if backend.name == name:
                            return backend
            offered = self._offered(role, name)
            for backend in offered:
                if backend.name == name or len(offered) == 1:
                    return backend
            raise PluginError(self._no_such_role(role, name, offered))

    def event_source_for(self, source: Any) -> EventSource:
        """Return what answers questions about the events behind ``source``.

        Asked in this order, until one answers: the object itself (it is an ``EventSource``, or has one as its
        ``event_source``), the plugins that are loaded, and those whose distribution depends on the package that the
        object's class comes from (a database plugin depends on SQLAlchemy, so it is asked about a session).

        Raises:
            SourceError: nothing can read from it.
        """
        if isinstance(source, EventSource):
            return source
        own = getattr(source, "event_source", None)
        if isinstance(own, EventSource):
            return own
        with _lock:
            problems: list[str] = []
            for candidates in (tuple(self._loaded), self._readers(source)):
                for name in candidates:
                    found = self._ask_for_source(name, source, problems)
                    if found is not None:
                        return found
        raise SourceError(self._no_source(source, problems))

    def pipeline_started(self, pipeline: Pipeline, plugins: Collection[str]) -> None:
        """Tell the named plugins that a pipeline is open."""
        self._tell("flag_analytics_pipeline_started", plugins, pipeline=pipeline)

    def pipeline_closing(self, pipeline: Pipeline, plugins: Collection[str]) -> None:
        """Tell the named plugins that a pipeline is about to flush and close."""
        self._tell("flag_analytics_pipeline_closing", plugins, pipeline=pipeline)

    def delivery_failed(self, sink: str, error: str, events: Sequence[DeadLetter], plugins: Collection[str]) -> None:
        """Tell the named plugins that a sink refused events for good."""
        self._tell("flag_analytics_delivery_failed", plugins, sink=sink, error=error, events=events)

    def add_commands(
        self,
        app: Any,
        plugins: Iterable[str] | None = None,
        read_plan: Callable[[Path | None], Plan] | None = None,
    ) -> tuple[PluginError, ...]:
        """Let plugins, by default all that are installed, add their commands; return what went wrong with some.

        ``read_plan`` is how their commands read the configuration, by default ``read_config``.
        """
        names = self.installed() if plugins is None else plugins
        if read_plan is None:
            from .config.plan import read_config as read_plan
        return tuple(self._call_each("flag_analytics_cli", names, app=app, read_plan=read_plan).values())

    def status(self, selected: Collection[str] = (), *, probe: bool = False) -> tuple[PluginStatus, ...]:
        """Return every plugin with its state, sorted by name; ``probe`` imports all of them to find the broken ones."""
        lines = []
        for name, plugins in self.installed().items():
            for plugin in plugins:
                line = PluginStatus(name, plugin.distribution, plugin.version, plugin.module, selected=name in selected)
                lines.append(self._examine(line) if probe or name in self._loaded or len(plugins) > 1 else line)
        return tuple(lines)

    def _examine(self, line: PluginStatus) -> PluginStatus:
        try:
            module = self.load(line.name)
            hooks = [name for name, impl in self._implementations() if impl.plugin is module]
            for role, hook in _REGISTER_HOOKS.items():
                if hook in hooks:
                    self._offered(role, line.name)
        except PluginError as problem:
            return attrs.evolve(line, state="broken", problem=str(problem))
        roles = tuple(dict.fromkeys(_ROLES_BY_HOOK[hook] for hook in hooks))
        return attrs.evolve(line, state="ok", roles=roles)

    def _find(self, name: str) -> InstalledPlugin:
        if name not in self.installed():
            # It may have been installed while this process was running, in a notebook for example.
            importlib.invalidate_caches()
            self._found = _scan(self._path)
        plugins = self.installed().get(name)
        if plugins is None:
            raise PluginNotInstalledError(self._not_installed(name), name=name)
        plugin, *others = plugins
        if others:
            owners = " and ".join(owner.origin for owner in plugins)
            raise PluginError(f"plugin {name!r} is offered by {owners}: uninstall all but one of them")
        return plugin

    def _not_installed(self, name: str) -> str:
        if name in KNOWN_PLUGINS:
            return f"plugin {name!r} is not installed: run `{install_line(name)}`"
        present = self.installed()
        close = difflib.get_close_matches(name, {**present, **KNOWN_PLUGINS}, n=1)
        meant = ""
        if close:
            missing = "" if close[0] in present else f": `{install_line(close[0])}`"
            meant = f" (did you mean {close[0]!r}?{missing})"
        names = ", ".join(present) or "none"
        return f"no installed distribution offers a plugin {name!r}{meant}; installed are: {names}"

    def _load(self, plugin: InstalledPlugin) -> ModuleType:
        problem: BaseException
        module_name, _, attribute = plugin.module.partition(":")
        if attribute:
            raise PluginError(
                f"{plugin} is broken: its entry point must name a module, and names {plugin.module!r}; "
                "report this to its authors"
            )
        try:
            module = import_plugin(module_name, self._import_timeout_seconds)
            return self._register(plugin, module)
        except PluginError:
            raise
        except (Exception, SystemExit) as error:
            problem = error
        # Raised out here, so that only the masked words of the plugin's exception are in the chain.
        raise PluginError(
            f"{plugin} cannot be imported: {message_of(problem)}; repair it, or take it out of the configuration"
        ) from masked_cause(problem)

    def _register(self, plugin: InstalledPlugin, module: ModuleType) -> ModuleType:
        if module in self._loaded.values():  # one module under two names
            return module
        try:
            self._plugins.register(module, name=plugin.name)
            self._plugins.check_pending()
            problem = self._refusal(module)
        except pluggy.PluginValidationError as error:
            problem = self._explain(" ".join(str(error).split()))
        if problem:
            if self._plugins.has_plugin(plugin.name):
                self._plugins.unregister(name=plugin.name)
            raise PluginError(f"{plugin} is broken: {problem}")
        return module

    def _refusal(self, module: ModuleType) -> str | None:
        implementations = [(name, impl) for name, impl in self._implementations() if impl.plugin is module]
        if not implementations:
            names = ", ".join(sorted(_ROLES_BY_HOOK))
            return f"{module.__name__} has no function marked with @hookimpl; expected at least one of {names}"
        for name, impl in implementations:
            if inspect.iscoroutinefunction(impl.function) or inspect.isasyncgenfunction(impl.function):
                return f"its {name} is async; hooks are plain functions: write `def`"
            if impl.wrapper or impl.hookwrapper:
                return f"its {name} is a wrapper; hooks are called one by one and cannot be wrapped"
        return None

    def _explain(self, words: str) -> str:
        unknown = re.search(r"unknown hook '(\w+)'", words)
        if not unknown:
            return words
        close = difflib.get_close_matches(unknown[1], _ROLES_BY_HOOK, n=1)
        meant = f" (did you mean {close[0]}?)" if close else f"; known are {', '.join(sorted(_ROLES_BY_HOOK))}"
        return f"there is no hook {unknown[1]}{meant}"

    def _implementations(self) -> Iterator[tuple[str, pluggy.HookImpl]]:
        for hook in _ROLES_BY_HOOK:
            # Last registered first, as pluggy itself calls them.
            for impl in reversed(getattr(self._plugins.hook, hook).get_hookimpls()):
                yield hook, impl

    def _call(self, hook: str, name: str, arguments: Mapping[str, Any]) -> list[Any]:
        """Return what one plugin's implementations of a hook return; async results are closed, not leaked."""
        with _lock:
            module = self.load(name)
            functions = [impl for known, impl in self._implementations() if known == hook and impl.plugin is module]
        results = []
        for impl in functions:
            problem: BaseException | None = None
            result = None
            try:
                result = impl.function(*(arguments[argument] for argument in impl.argnames))
            except (Exception, SystemExit) as error:
                problem = error
            if problem is not None:
                raise PluginError(
                    f"{self._find(name)} failed in {hook}: {message_of(problem)} at {place(problem)}"
                ) from masked_cause(problem)
            if inspect.isawaitable(result):
                _close_quietly(result)
                raise PluginError(f"{self._find(name)} is broken: its {hook} returned an awaitable, expected a value")
            results.append(result)
        return results

    def _call_each(self, hook: str, plugins: Iterable[str], **arguments: Any) -> dict[str, PluginError]:
        """Call a hook of each plugin, once for a module of several names; return what went wrong, by plugin."""
        problems: dict[str, PluginError] = {}
        called: list[ModuleType] = []
        for name in tuple(plugins):
            try:
                module = self.load(name)
                if module not in called:
                    called.append(module)
                    self._call(hook, name, arguments)
            except PluginError as problem:
                problems[name] = problem
        return problems

    def _tell(self, hook: str, plugins: Collection[str], **arguments: Any) -> None:
        for name, problem in self._call_each(hook, plugins, **arguments).items():
            # Which plugin, which hook and where: the words of an exception may quote an event or a secret.
            at = "its result" if problem.__cause__ is None else place(problem.__cause__)
            logger.warning("plugin %r failed in %s at %s", name, hook, at)

    def _offered(self, role: Role, name: str) -> tuple[Backend, ...]:
        key = (role, name)
        if key not in self._offers:
            offered: list[Backend] = []
            for result in self._call(_REGISTER_HOOKS[role], name, {}):
                offered.extend(self._checked_backends(name, _REGISTER_HOOKS[role], result))
            self._offers[key] = tuple(offered)
        return self._offers[key]

    def _checked_backends(self, name: str, hook: str, result: Any) -> list[Backend]:
        broken = f"{self._find(name)} is broken: its {hook}"
        backends = list(result) if isinstance(result, Iterable) and not isinstance(result, str) else None
        if backends is None or not all(isinstance(backend, Backend) for backend in backends):
            raise PluginError(f"{broken} returned {type(result).__name__}, expected a sequence of Backend")
        for backend in backends:
            if not (isinstance(backend.options, type) and attrs.has(backend.options)):
                raise PluginError(f"{broken} offers {backend.name!r}, whose options are not an attrs class")
            if not callable(backend.create) or inspect.iscoroutinefunction(backend.create):
                raise PluginError(f"{broken} offers {backend.name!r}, whose create is not a plain function")
        return backends

    def _no_such_role(self, role: Role, name: str, offered: tuple[Backend, ...]) -> str:
        plugin = self._find(name)
        if offered:
            names = ", ".join(repr(backend.name) for backend in offered)
            return f"{plugin} offers the {role}s {names} and none named {name!r}; report this to its authors"
        others = [other for other in _REGISTER_HOOKS if other != role and self._offered(other, name)]
        if others:
            table = "[[processors]]" if others[0] == "processor" else f"[{others[0]}s.{name}]"
            return f"{plugin} is no {role} but {'an' if others[0] == 'exporter' else 'a'} {others[0]}: use {table}"
        return f"{plugin} offers no {role}"

    def _readers(self, source: Any) -> Iterator[str]:
        """Yield the plugins that depend on what the object's class is made of, this project's own first."""
        roots = {cls.__module__.partition(".")[0] for cls in type(source).__mro__} - sys.stdlib_module_names
        packages = {_normal_name(root) for root in roots}
        plugins = [owners[0] for owners in self.installed().values() if len(owners) == 1]  # others cannot be loaded
        plugins.sort(key=lambda plugin: (plugin.name not in KNOWN_PLUGINS, plugin.name))
        asked = set(self._loaded)
        for plugin in plugins:
            if plugin.name not in asked and (packages & plugin.requires or plugin.module.partition(".")[0] in roots):
                asked.add(plugin.name)
                yield plugin.name
        # Reached only where no name matched: which distributions bring these packages takes reading all of them.
        if all(plugin.name in asked for plugin in plugins) or not roots:
            return
        bringers = importlib_metadata.packages_distributions()
        brought_by = {_normal_name(name) for root in roots for name in bringers.get(root, ())}
        for plugin in plugins:
            if plugin.name not in asked and brought_by & plugin.requires:
                yield plugin.name

    def _ask_for_source(self, name: str, source: Any, problems: list[str]) -> EventSource | None:
        try:
            answers = self._call("flag_analytics_event_source", name, {"source": source})
        except PluginError as problem:
            problems.append(str(problem))
            return None
        for answer in answers:
            if isinstance(answer, EventSource):
                return answer
            if answer is not None:
                problems.append(f"plugin {name!r} answered with {type(answer).__name__}, which is no EventSource")
        return None

    def _no_source(self, source: Any, problems: list[str]) -> str:
        kind = f"{type(source).__module__}.{type(source).__qualname__}"
        hint = ""
        if kind.startswith("sqlalchemy.") and "database" not in self.installed():
            hint = f"; for a database session run `{install_line('database')}`"
        tried = "".join(f"; {problem}" for problem in problems)
        return (
            f"cannot read events from {kind}: expected a collector that keeps events, an EventSource, or an object "
            f"that an installed plugin knows{hint}{tried}"
        )


def install_line(name: str) -> str:
    """Return the command that installs the plugin of this name."""
    return f"pip install {KNOWN_PLUGINS.get(name, name)}"


_default: list[Registry] = []


def default_registry() -> Registry:
    """Return the registry that everything in this process shares: what is installed is the same for all of it."""
    with _lock:
        if not _default:
            _default.append(Registry())
        return _default[0]


def _scan(path: Sequence[str] | None) -> Mapping[str, tuple[InstalledPlugin, ...]]:
    found: dict[str, list[InstalledPlugin]] = {}
    seen: set[str] = set()
    where: dict[str, Any] = {} if path is None else {"path": list(path)}
    for distribution in importlib_metadata.distributions(**where):
        try:
            plugins = _plugins_of(distribution)
        except Exception as error:
            # Somebody's damaged metadata must not hide the plugins of everybody else.
            logger.warning("the metadata of a distribution cannot be read: %s", type(error).__name__)
            continue
        # The first on the path is the one that gets imported; a second copy further on is not another plugin.
        if plugins and _normal_name(plugins[0].distribution) not in seen:
            seen.add(_normal_name(plugins[0].distribution))
            for plugin in plugins:
                found.setdefault(plugin.name, []).append(plugin)
    return {name: tuple(sorted(found[name], key=lambda plugin: plugin.origin)) for name in sorted(found)}


def _plugins_of(distribution: Any) -> list[InstalledPlugin]:
    text = distribution.read_text("entry_points.txt")
    if not text or GROUP not in text:  # true of nearly all, and spares parsing them
        return []
    points = {(point.name, point.value) for point in distribution.entry_points if point.group == GROUP}
    if not points:
        return []
    requires = frozenset(_normal_name(_requirement_name(line)) for line in distribution.requires or ())
    name, version = distribution.metadata["Name"] or "an unnamed distribution", distribution.version or "?"
    return [InstalledPlugin(point, module, name, version, requires) for point, module in sorted(points)]


def _requirement_name(requirement: str) -> str:
    match = re.match(r"[A-Za-z0-9._-]+", requirement)
    return match[0] if match else ""


def _normal_name(name: str) -> str:
    """Return a distribution's name as PEP 503 compares them."""
    return re.sub(r"[-_.]+", "-", name).lower()


def _close_quietly(awaitable: Any) -> None:
    close = cast("Callable[[], object] | None", getattr(awaitable, "close", None))
    if close is not None:
        close()  # else Python warns of a coroutine that was never awaited
