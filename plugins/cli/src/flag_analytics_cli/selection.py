"""Which events a question is about: the options that several commands share, and their meaning."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any, Literal

import attrs
from cyclopts import Parameter

from .parameters import UsageError, Words
from .windows import describe_window, parse_window

if TYPE_CHECKING:
    from flag_analytics.aggregator import Scope
    from flag_analytics.sources import EventFilter, Window

__all__ = ["Range", "Selection", "SelectionOptions", "parse_range"]

Kind = Literal["evaluation", "exposure", "outcome"]


@attrs.frozen
class Range:
    """A window of exact times, and a filter."""

    window: Window
    where: EventFilter | None = None


@attrs.frozen
class Selection:
    """A window of time and a filter.

    Attributes:
        window_seconds: How far the window reaches back from ``until``; None is all time.
        until: Where it ends, UTC.
        name: The window for people.
        where: The events in it; None for evaluations and exposures.
        fast: Whether a collector that keeps rollups may answer from them, within bounds.
    """

    window_seconds: float | None
    until: datetime
    name: str
    where: EventFilter | None = None
    fast: bool = False

    @property
    def scope(self) -> Scope:
        """The arguments that every question of an aggregator takes: one end for all of them."""
        scope: Scope = {"where": self.where, "until": self.until}
        return {**scope, "accuracy": "fast"} if self.fast else scope

    @property
    def window(self) -> Window:
        from flag_analytics.sources import Window

        start = None if self.window_seconds is None else self.until - timedelta(seconds=self.window_seconds)
        return Window(start, self.until)


@Parameter(name="*")
@attrs.frozen(kw_only=True)
class SelectionOptions:
    """The events to look at."""

    window: str = "all"
    """How far back from the end: 90s, 15m, 1h, 7d, 2w or all."""
    since: str | None = None
    """The start, in place of --window: 2026-01-05, 2026-01-05T08:00Z, or how long ago, such as 7d."""
    until: str | None = None
    """The end, likewise; by default now."""
    where: Words = None
    """A context attribute and its value, as NAME=VALUE; with the same name again: one of the values."""
    variant: Words = None
    """A variant; may be repeated."""
    environment: Words = None
    """The context attribute environment; may be repeated."""
    kind: Annotated[list[Kind] | None, Parameter(negative=())] = None
    """The kind of event: evaluation, exposure or outcome; by default the first two."""

    def selection(self, now: datetime | None = None) -> Selection:
        """Return the meaning of these options.

        Raises:
            UsageError: one of them makes no sense.
        """
        now = now or datetime.now(UTC)
        until = now if self.until is None else min(_moment("--until", self.until, now), now)
        if self.since is not None:
            if self.window != "all":
                raise UsageError("--since and --window both say where the window begins: give one of the two")
            start = _moment("--since", self.since, now)
            if start >= until:
                raise UsageError("--since is not before --until, or not before now")
            name = f"{start:%Y-%m-%d %H:%M} to {until:%Y-%m-%d %H:%M} UTC"
            return Selection((until - start).total_seconds(), until, name, self._filter())
        try:
            seconds = parse_window(self.window)
        except ValueError as error:
            raise UsageError(f"--window: {error}") from None
        name = describe_window(seconds)
        if self.until is not None:
            name = f"{name} until {until:%Y-%m-%d %H:%M} UTC"
        return Selection(seconds, until, name, self._filter())

    def _filter(self) -> EventFilter | None:
        if not (self.where or self.variant or self.environment or self.kind):
            return None
        from flag_analytics.sources import EventFilter

        given: dict[str, Any] = {
            "variant": _one_or_more(self.variant),
            "environment": _one_or_more(self.environment),
            "context": _attributes(self.where or []),
        }
        if self.kind:
            given["kinds"] = tuple(dict.fromkeys(self.kind))
        return EventFilter(**given)


def _one_or_more(values: list[str] | None) -> Any:
    return values[0] if values and len(values) == 1 else frozenset(values) if values else None


def parse_range(since: str | None, until: str | None, now: datetime) -> Window:
    """Return the exact window between two options; without them all time, the future included.

    Raises:
        UsageError: one of them makes no sense.
    """
    from flag_analytics.sources import Window

    start = None if since is None else _moment("--since", since, now)
    end = datetime.max.replace(tzinfo=UTC) if until is None else _moment("--until", until, now)
    if start is not None and start > end:
        raise UsageError("--since is not before --until")
    return Window(start, end)


def _moment(option: str, text: str, now: datetime) -> datetime:
    from .reading import parse_time

    try:
        seconds = parse_window(text)
    except ValueError:
        try:
            return parse_time(text)
        except ValueError as error:
            raise UsageError(f"{option}: {error}, or how long ago, such as 7d") from None
    if seconds is None:
        raise UsageError(f"{option} all is no time: expected for example 2026-01-05 or 7d")
    return now - timedelta(seconds=seconds)


def _attributes(pairs: list[str]) -> dict[str, Any]:
    """Return by name the values that an attribute may have: a text, and the number or boolean that it may stand for."""
    from .reading.fields import json_or_text

    wanted: dict[str, set[Any]] = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if not equals or not name:
            raise UsageError(f"--where {pair!r} is not NAME=VALUE: expected for example --where plan=premium")
        values = wanted.setdefault(name, set())
        values.add(text)
        meant = json_or_text(text)
        if isinstance(meant, bool | int | float):
            values.add(meant)
    return {name: frozenset(values) for name, values in wanted.items()}
