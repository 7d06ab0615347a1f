"""Finds plugins by entry point, loads those that are named, calls their hooks; the only module that touches pluggy.

A plugin is a module with ``@hookimpl`` functions that a distribution names in its entry-point group ``flag_analytics``;
the entry point's name is the name of the backend in configuration. Finding reads metadata only. A plugin is imported
when it is named, so that a broken one that is not named costs nothing. Each failure has its own message.
"""

from __future__ import annotations

import difflib
import importlib
import inspect
import itertools
import os
import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import attrs
import importlib_metadata
import pluggy
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from . import hookspecs
from .config.secrets import Quote
from .errors import PluginError, PluginNotInstalledError, SourceError
from .logs import get_logger, warn
from .plugin_calls import TIMEOUT_SECONDS, call_plugin, import_plugin, kind_of
from .processes import renew_after_fork
from .protocols import Backend, ProcessorFactory
from .sources import EventSource

if TYPE_CHECKING:
    from types import ModuleType

    from .config.plan import Plan
    from .reports import DeadLetter

__all__ = ["GROUP", "InstalledPlugin", "Registry", "Role", "default_registry", "install_line"]

GROUP = "flag_analytics"
"""The entry-point group."""
READS = "flag_analytics_reads"
"""The entry-point group in which a plugin's module says by the names what paths it reads: a suffix or a scheme."""

Role = Literal["collector", "exporter", "processor", "source"]

ROLES: tuple[Role, ...] = ("collector", "exporter", "processor", "source")
KNOWN_PLUGINS = ("clickhouse", "database", "files", "memory", "otel", "prometheus", "webhook")
"""The backends of this project, to say what to install."""
HOOKS = tuple(name for name in vars(hookspecs) if name.startswith("flag_analytics_"))
_REGISTER = "flag_analytics_register_"

logger = get_logger("flag_analytics.registry")
_lock = threading.RLock()


def _renew() -> None:
    global _lock  # noqa: PLW0603 — another thread of the parent may hold it
    _lock = threading.RLock()


renew_after_fork(_renew)


@attrs.frozen
class InstalledPlugin:
    """An entry point, as the metadata of its distribution has it, not imported."""

    name: str
    module: str
    distribution: str
    version: str
    requires: tuple[Requirement, ...] = attrs.field(default=(), repr=False)
    reads: frozenset[str] = attrs.field(default=frozenset(), repr=False)
    file: Path | None = None

    def __str__(self) -> str:
        return f"plugin {self.name!r} of {self.origin}"

    @property
    def origin(self) -> str:
        return f"{self.distribution} {self.version}".rstrip()


class Registry:
    """The plugins of this Python environment. Every method is safe from any thread.

    Args:
        path: Where to look for distributions, as ``sys.path``, which is the default.
        timeout_seconds: How long the import of a plugin, or one hook of it, may take.
    """

    def __init__(self, path: Sequence[str] | None = None, *, timeout_seconds: float = TIMEOUT_SECONDS) -> None:
        self._where: dict[str, Any] = {} if path is None else {"path": list(path)}
        self._timeout_seconds = timeout_seconds
        self._manager = pluggy.PluginManager("flag_analytics")
        self._manager.add_hookspecs(hookspecs)
        self._found: Mapping[str, tuple[InstalledPlugin, ...]] | None = None
        self._files: dict[str, tuple[InstalledPlugin, ...]] = {}
        self._loaded: dict[str, ModuleType] = {}
        self._offers: dict[tuple[str, str], tuple[Any, ...]] = {}

    def installed(self) -> Mapping[str, tuple[InstalledPlugin, ...]]:
        """Return every entry point by name, sorted; more than one under a name is an error once it is named."""
        if self._found is None:
            self._found = _scan(self._where)
        return {**self._found, **self._files} if self._files else self._found

    def load(self, name: str) -> ModuleType:
        """Return the module of the plugin of this name, imported and registered.

        Raises:
            PluginNotInstalledError: no distribution has it; the message suggests an install or a name.
            PluginError: it is there but cannot be used; the message names its distribution and the reason.
        """
        if name not in self._loaded:
            plugin = self._find(name)
            _refuse_to_import(plugin)
            module = import_plugin(str(plugin), plugin.module, self._timeout_seconds, file=plugin.file)
            with _lock:
                if not self._manager.is_registered(module):
                    self._register(plugin, module)
                self._loaded[name] = module
        return self._loaded[name]

    def load_file(self, path: Path) -> None:
        """Load a plugin that is one file of Python; it has the file's name, and those of its backends.

        Raises:
            PluginError: there is no such file, a distribution has a plugin of this name, or as ``load``.
        """
        path = path.resolve()
        if not path.is_file():
            raise PluginError(f"there is no file {path}: expected one of Python, or the name of an installed plugin")
        plugin = InstalledPlugin(path.stem, f"flag_analytics_file_{path.stem}", str(path), "", file=path)
        others = self.installed().get(path.stem, (plugin,))
        if others[0] != plugin:
            raise PluginError(f"plugin {path.stem!r} is offered by {others[0].origin} and {path}: rename the file")
        self._files[path.stem] = (plugin,)
        try:
            module = self.load(path.stem)
        except PluginError:
            del self._files[path.stem]
            raise
        for role in ROLES:
            for offer in self.offered(role, path.stem):
                self._files.setdefault(offer.name, (attrs.evolve(plugin, name=offer.name),))
                self._loaded.setdefault(offer.name, module)

    def backend(self, role: Role, name: str) -> Any:
        """Return the ``Backend`` that the plugin of this name offers in a role, or the ``ProcessorFactory``.

        A processor may also have a name of its own and come from a plugin that is loaded.

        Raises:
            PluginNotInstalledError, PluginError: as ``load``; or it has no offer of this name in this role.
        """
        own = role == "processor" and name not in self.installed()
        for plugin in tuple(self._loaded) if own else ():
            for factory in self.offered(role, plugin):
                if factory.name == name:
                    return factory
        offered = self.offered(role, name)
        for backend in offered:
            if backend.name == name or len(offered) == 1:
                return backend
        raise PluginError(self._no_such_role(role, name, offered))

    def origin(self, backend: Any) -> str:
        """Return which plugin offers a backend, and its distribution, for messages."""
        owners = (name for (_, name), offered in tuple(self._offers.items()) if backend in offered)
        return next((str(self._find(name)) for name in owners), "flag-analytics")

    def event_source_for(self, source: Any) -> EventSource:
        """Return the event source for the events behind ``source``.

        Asked in this order, until one answers: the object itself (it is an ``EventSource``, or has one as its
        ``event_source``), the plugins that are loaded, and those whose distribution depends on the package that the
        object's class comes from (a database plugin depends on SQLAlchemy, so it is asked about a session). About a
        path or a URL only plugins are asked that declare its suffix or scheme, or ``directory``, in their metadata.

        Raises:
            SourceError: nothing can read from it.
        """
        for own in (source, getattr(source, "event_source", None)):
            if isinstance(own, EventSource):
                return own
        problems: dict[str, PluginError] = {}
        path = isinstance(source, str | os.PathLike)
        candidates = self._readers_of_path(source) if path else self._readers(source)
        for names in itertools.chain([] if path else [tuple(self._loaded)], ([name] for name in candidates)):
            for name, answer in self._ask("flag_analytics_event_source", names, problems, source=source):
                if isinstance(answer, EventSource):
                    return answer
                if answer is not None:
                    problems[name] = PluginError(f"{self._find(name)} answered with {kind_of(answer)}")
        kind = "this path or URL" if path else f"{type(source).__module__}.{type(source).__qualname__}"
        hint = ""
        if kind.startswith("sqlalchemy.") and "database" not in self.installed():
            hint = f"; for a database session run `{install_line('database')}`"
        if path and "files" not in self.installed():
            hint = f"; for files run `{install_line('files')}`"
        raise SourceError(
            f"cannot read events from {kind}: expected a collector that keeps events, an EventSource, or an object "
            f"that an installed plugin knows{hint}{''.join(f'; {problem}' for problem in problems.values())}"
        )

    def pipeline_started(self, pipeline: Any, plugins: Collection[str]) -> None:
        """Tell the named plugins that a pipeline is open."""
        self._tell("flag_analytics_pipeline_started", plugins, pipeline=pipeline)

    def pipeline_closing(self, pipeline: Any, plugins: Collection[str]) -> None:
        """Tell the named plugins that a pipeline is about to flush and close."""
        self._tell("flag_analytics_pipeline_closing", plugins, pipeline=pipeline)

    def delivery_failed(self, sink: str, error: str, events: Sequence[DeadLetter], plugins: Collection[str]) -> None:
        """Tell the named plugins that a sink refused events for good."""
        self._tell("flag_analytics_delivery_failed", plugins, sink=sink, error=error, events=events)

    def add_commands(
        self, app: Any, plugins: Iterable[str], read_plan: Callable[[Path | None], Plan]
    ) -> tuple[PluginError, ...]:
        """Let plugins add their commands, which read their configuration by ``read_plan``; return the errors."""
        problems: dict[str, PluginError] = {}
        for _ in self._ask("flag_analytics_cli", plugins, problems, app=app, read_plan=read_plan):
            pass
        return tuple(problems.values())

    def roles(self, name: str) -> tuple[str, ...]:
        """Return the roles of the plugin of this name: ``collector``, ``exporter``, …, ``event source``, ``cli``.

        Raises:
            PluginNotInstalledError, PluginError: as ``load`` and ``backend``.
        """
        module = self.load(name)
        hooks = [hook for hook in HOOKS if module in self._implementers(hook)]
        for hook in hooks:
            if hook.startswith(_REGISTER):
                self.offered(hook.removeprefix(_REGISTER)[:-1], name)
        words = (hook.removeprefix(_REGISTER).removeprefix("flag_analytics_").replace("_", " ") for hook in hooks)
        return tuple(word.removesuffix("s") for word in words)

    def _find(self, name: str) -> InstalledPlugin:
        if name not in self.installed():
            # It may have been installed while this process was running, in a notebook for example.
            importlib.invalidate_caches()
            self._found = _scan(self._where)
        plugins = self.installed().get(name)
        if not plugins:
            raise PluginNotInstalledError(self._not_installed(name), name=name)
        plugin, *others = plugins
        if others:
            owners = " and ".join(owner.origin for owner in plugins)
            raise PluginError(f"plugin {name!r} is offered by {owners}: uninstall all but one of them")
        return plugin

    def _not_installed(self, name: str) -> str:
        if name in KNOWN_PLUGINS:
            return f"plugin {name!r} is not installed: run `{install_line(name)}`"
        close = difflib.get_close_matches(name, {*self.installed(), *KNOWN_PLUGINS}, n=1)
        install = f": `{install_line(close[0])}`" if close and close[0] not in self.installed() else ""
        meant = f" (did you mean {close[0]!r}?{install})" if close else ""
        names = ", ".join(self.installed()) or "none"
        return f"no installed distribution offers a plugin {name!r}{meant}; installed are: {names}"

    def _register(self, plugin: InstalledPlugin, module: ModuleType) -> None:
        """Register a module, after checks of each implementation, since pluggy's own names no remedy."""
        implemented = False
        for attribute in dir(module):
            options = self._manager.parse_hookimpl_opts(module, attribute)
            if options is not None:
                hook = options.get("specname") or attribute
                implemented |= hook in HOOKS
                problem = _problem_of(hook, getattr(module, attribute), options)
                if problem:
                    raise PluginError(f"{plugin} is broken: {problem}")
        api = getattr(module, "PLUGIN_API", hookspecs.PLUGIN_API)
        if api > hookspecs.PLUGIN_API:
            present = f"flag-analytics {importlib_metadata.version('flag-analytics')} has {hookspecs.PLUGIN_API}"
            raise PluginError(f"{plugin} is for version {api} of the plugin API, and {present}: upgrade flag-analytics")
        if not implemented:
            names = ", ".join(HOOKS)
            raise PluginError(
                f"{plugin} is broken: {module.__name__} has no function marked with @hookimpl; expected one of {names}"
            )
        self._manager.register(module, name=plugin.name)

    def _implementers(self, hook: str) -> Iterable[Any]:
        """Return the modules that implement a hook, in the order in which pluggy calls them."""
        return dict.fromkeys(impl.plugin for impl in reversed(getattr(self._manager.hook, hook).get_hookimpls()))

    def _ask(
        self,
        hook: str,
        names: Iterable[str],
        problems: dict[str, PluginError],
        *,
        quote: Quote = "all",
        **arguments: Any,
    ) -> Iterator[tuple[str, Any]]:
        """Yield the answers of the named plugins to a hook, in pluggy's order; errors are added to ``problems``.

        pluggy calls one plugin at a time, so that one that raises does not silence the others. Each answer is a list,
        but one value for a hook with ``firstresult``.
        """
        modules: dict[Any, str] = {}
        for name in tuple(names):
            try:
                modules.setdefault(self.load(name), name)
            except PluginError as problem:
                problems[name] = problem
        for module in self._implementers(hook):
            if module not in modules:
                continue
            name, others = modules[module], self._manager.get_plugins() - {module}
            call = partial(self._manager.subset_hook_caller(hook, others), **arguments)
            plugin = str(self._find(name))
            try:
                answer = call_plugin(plugin, hook, call, quote=quote, timeout_seconds=self._timeout_seconds)
            except PluginError as problem:
                problems[name] = problem
            else:
                yield name, answer

    def _tell(self, hook: str, plugins: Iterable[str], **arguments: Any) -> None:
        problems: dict[str, PluginError] = {}
        for _ in self._ask(hook, plugins, problems, quote="nothing", **arguments):  # an error may quote an event
            pass
        for problem in problems.values():
            warn(logger, "%s", problem)

    def offered(self, role: str, name: str) -> tuple[Any, ...]:
        """Return every offer of the plugin of this name in a role.

        Raises:
            PluginNotInstalledError, PluginError: as ``load``; or its hook fails, or returns something else than offers.
        """
        if (role, name) not in self._offers:
            hook = f"{_REGISTER}{role}s"
            expected = ProcessorFactory if role == "processor" else Backend
            problems: dict[str, PluginError] = {}
            offered: list[Any] = []
            for _, answers in self._ask(hook, [name], problems):
                for answer in answers:
                    if not isinstance(answer, Sequence) or not all(isinstance(one, expected) for one in answer):
                        kinds = f"{kind_of(answer)}, expected a sequence of {expected.__name__}"
                        raise PluginError(f"{self._find(name)}: {hook} returned {kinds}")
                    offered += answer
            for problem in problems.values():
                raise problem
            self._offers.setdefault((role, name), tuple(offered))
        return self._offers[role, name]

    def _no_such_role(self, role: Role, name: str, offered: tuple[Any, ...]) -> str:
        plugin = self._find(name)
        if offered:
            names = ", ".join(repr(backend.name) for backend in offered)
            return f"{plugin} offers the {role}s {names} and none named {name!r}; report this to its authors"
        for other in ROLES:
            if self.offered(other, name):
                table = "[[processors]]" if other == "processor" else f"[{other}s.{name}]"
                return f"{plugin} is {_a(other)}, not {_a(role)}: use {table}"
        return f"{plugin} offers no {role}"

    def _readers_of_path(self, source: str | os.PathLike[str]) -> Iterator[str]:
        """Yield the plugins that declare that they read such a path or URL, this project's own first."""
        text = os.fspath(source)
        scheme, is_url, _ = text.partition("://")
        suffixes = Path(text).name.lower().split(".")[1:]
        words = {".".join(suffixes[index:]) for index in range(len(suffixes))}
        words |= {scheme.lower()} if is_url else {"directory"} if Path(text).is_dir() else set()
        plugins = [owners[0] for owners in self.installed().values() if len(owners) == 1 and owners[0].reads & words]
        yield from (plugin.name for plugin in sorted(plugins, key=lambda plugin: plugin.name not in KNOWN_PLUGINS))

    def _readers(self, source: Any) -> Iterator[str]:
        """Yield the plugins that depend on the packages of the object's class, this project's own first."""
        roots = {cls.__module__.partition(".")[0] for cls in type(source).__mro__}
        plugins = [owners[0] for owners in self.installed().values() if len(owners) == 1]
        plugins.sort(key=lambda plugin: plugin.name not in KNOWN_PLUGINS)
        for find_providers in (dict, importlib_metadata.packages_distributions):  # the second one reads all metadata
            providers = find_providers()
            packages = {canonicalize_name(name) for root in roots for name in (root, *providers.get(root, ()))}
            for plugin in plugins:
                needs = {canonicalize_name(requirement.name) for requirement in plugin.requires}
                if plugin.name not in self._loaded and (needs & packages or plugin.module.partition(".")[0] in roots):
                    yield plugin.name


def install_line(name: str) -> str:
    """Return the command that installs the plugin of this name."""
    return f"pip install {f'flag-analytics-{name}' if name in KNOWN_PLUGINS else name}"


_default: list[Registry] = []


def default_registry() -> Registry:
    """Return the registry that the whole process shares."""
    with _lock:
        if not _default:
            _default.append(Registry())
        return _default[0]


def _scan(where: Mapping[str, Any]) -> Mapping[str, tuple[InstalledPlugin, ...]]:
    found: dict[str, dict[str, InstalledPlugin]] = {}
    for distribution in importlib_metadata.distributions(**where):
        try:
            points = distribution.entry_points.select(group=GROUP)
            if not points:
                continue
            reads = [(point.value, point.name) for point in distribution.entry_points.select(group=READS)]
            requires = tuple(map(Requirement, distribution.requires or ()))
            name, version = distribution.name, distribution.version
        except Exception as error:
            # Damaged metadata of one distribution must not hide the plugins of others.
            warn(logger, "the metadata of a distribution cannot be read: %s", type(error).__name__)
            continue
        for point in points:
            words = frozenset(word for module, word in reads if module == point.value)
            plugin = InstalledPlugin(point.name, point.value, name, version, requires, words)
            # The first on the path is imported; a second copy further on is not another plugin.
            found.setdefault(point.name, {}).setdefault(canonicalize_name(name), plugin)
    return {name: tuple(sorted(found[name].values(), key=lambda plugin: plugin.origin)) for name in sorted(found)}


def _refuse_to_import(plugin: InstalledPlugin) -> None:
    """Refuse what cannot be imported, and a plugin for another version of flag-analytics before its import fails."""
    if ":" in plugin.module:
        raise PluginError(f"{plugin} is broken: its entry point {plugin.module!r} must name a module")
    version = importlib_metadata.version("flag-analytics")
    for need in plugin.requires:
        ours = canonicalize_name(need.name) == "flag-analytics"
        applies = ours and (need.marker is None or need.marker.evaluate({"extra": ""}))
        if applies and not need.specifier.contains(version, prereleases=True):
            line = f"pip install -U flag-analytics {plugin.distribution}"
            raise PluginError(f"{plugin} needs flag-analytics{need.specifier}, and has {version}: run `{line}`")


def _problem_of(hook: str, function: Any, options: Any) -> str | None:
    """Return the problem with a function that is marked as the implementation of a hook, or None."""
    if hook not in HOOKS:
        if options["optionalhook"]:
            return None
        close = difflib.get_close_matches(hook, HOOKS, n=1)
        meant = f" (did you mean {close[0]}?)" if close else f"; known are {', '.join(HOOKS)}"
        return f"there is no hook {hook}{meant}"
    if inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function):
        return f"its {hook} is async; hooks are plain functions: write `def`"
    if options["wrapper"] or options["hookwrapper"]:
        return f"its {hook} is a wrapper; hooks are called one plugin at a time and cannot be wrapped"
    signature, known = inspect.signature(function), inspect.signature(getattr(hookspecs, hook)).parameters
    if any(part.default is part.empty and name not in known for name, part in signature.parameters.items()):
        return f"its {hook}{signature} has unknown parameters: expected {hook}({', '.join(known)})"
    return None


def _a(role: str) -> str:
    return f"an {role}" if role == "exporter" else f"a {role}"
