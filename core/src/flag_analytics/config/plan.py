"""A checked configuration: the sinks and processors of a pipeline, not yet created."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from functools import partial
from typing import Any, Literal, cast

import attrs

from ..collector_sink import as_sink
from ..errors import PluginError
from ..plugin_calls import call_plugin, kind_of
from ..protocols import Backend, Processor, ProcessorFactory
from ..reports import DeliveryOptions
from ..sources import EventSource
from .secrets import Quote

__all__ = ["Plan", "PlannedProcessor", "PlannedSink"]


@attrs.frozen
class PlannedSink:
    """One collector, exporter or source to create.

    Attributes:
        name: Its name in configuration, ``type`` or ``type/name``.
        options: The argument of ``backend.create``.
        explicit: The options that configuration sets, as opposed to defaults, under the names of the engine's settings
            where they are such.
        delivery: The settings of its own ``delivery`` table.
        processors: Those that its events alone go through.
        plugin: The plugin and its distribution, for messages.
        secrets: Texts that messages must not show.
        quote: The exceptions of the plugin whose words messages may show: its own where a secret option is set.
    """

    name: str
    role: Literal["collector", "exporter", "source"]
    backend: Backend[Any]
    options: Any = attrs.field(repr=False)
    explicit: frozenset[str] = frozenset()
    delivery: Mapping[str, Any] = attrs.field(factory=dict[str, Any])
    processors: tuple[PlannedProcessor, ...] = ()
    plugin: str = "a plugin"
    secrets: frozenset[str] = attrs.field(default=frozenset(), repr=False)
    quote: Quote = "all"

    def create(self) -> Any:
        """Return the created collector, exporter, sink or source.

        Raises:
            PluginError: it raises, hangs, or returns something else; the message names the distribution.
        """
        return _create(self, f"{self.role}s.{self.name}", _check_source if self.role == "source" else as_sink)


@attrs.frozen
class PlannedProcessor:
    """One processor to create; attributes as of ``PlannedSink``."""

    name: str
    backend: ProcessorFactory[Any]
    options: Any = attrs.field(repr=False)
    explicit: frozenset[str] = frozenset()
    plugin: str = "a plugin"
    secrets: frozenset[str] = attrs.field(default=frozenset(), repr=False)
    quote: Quote = "all"

    def create(self) -> Processor:
        """Return the processor.

        Raises:
            PluginError: as ``PlannedSink.create``.
        """
        return cast("Processor", _create(self, f"processor {self.name}", _check_processor))


@attrs.frozen
class Plan:
    """A checked configuration: everything a pipeline is composed of, not yet created.

    Attributes:
        label: Where it came from, for messages; plans from two places are equal if everything else is.
        delivery: The settings of the ``delivery`` table.
        plugins: The plugins it names, all loaded.
        sources: The event sources that are no collectors.
    """

    label: str = attrs.field(eq=False)
    sinks: tuple[PlannedSink, ...]
    processors: tuple[PlannedProcessor, ...] = ()
    delivery: Mapping[str, Any] = attrs.field(factory=dict[str, Any])
    plugins: tuple[str, ...] = ()
    sources: tuple[PlannedSink, ...] = ()

    def delivery_options(self) -> DeliveryOptions:
        """Return the settings that belong to the whole pipeline."""
        return DeliveryOptions(**self.delivery)

    def sink_options(self, sink: PlannedSink, defaults: DeliveryOptions | None) -> DeliveryOptions:
        """Return a sink's settings: its own defaults, under ``[delivery]``, under what its own tables say.

        An option of the backend that is called as one of the engine's (``batch_size``) and that configuration sets
        has already gone into the defaults, and is more specific than ``[delivery]``.
        """
        general = {name: value for name, value in self.delivery.items() if name not in sink.explicit}
        return (defaults or DeliveryOptions()).evolve(**{**general, **sink.delivery})


def _create(planned: PlannedSink | PlannedProcessor, path: str, check: Any) -> Any:
    step = f"create of {path}"
    create = partial(cast("Any", planned.backend.create), planned.options)
    created = call_plugin(planned.plugin, step, create, secrets=planned.secrets, quote=planned.quote)
    try:
        check(created)
    except TypeError as error:
        raise PluginError(f"{planned.plugin}: {step} returned {error}") from None
    return created


def _check_source(created: Any) -> None:
    if not isinstance(created, EventSource):
        raise TypeError(f"{kind_of(created)}, expected an EventSource")


def _check_processor(created: Any) -> None:
    if not callable(created):
        raise TypeError(f"{kind_of(created)}, expected a callable")
    if inspect.iscoroutinefunction(created) or inspect.iscoroutinefunction(type(created).__call__):
        raise TypeError("an async callable, expected a plain one: write `def`")
