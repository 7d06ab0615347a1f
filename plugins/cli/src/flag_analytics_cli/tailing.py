"""``flag-analytics tail``: the newest events, and those that come."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import attrs
from flag_analytics.events import FlagEvaluationEvent
from rich.text import Text

from .selection import Selection
from .stored import Answers
from .terminal import results
from .visible import visible

__all__ = ["print_event", "tail"]

_POLL_SECONDS = 1.0
_OVERLAP = timedelta(seconds=30)
"""How far back a poll looks: events are stored some time after they happened."""
_MOST_REMEMBERED = 100_000
_LONGEST_VALUE = 40


async def tail(
    answers: Answers, flags: Sequence[str], selection: Selection, lines: int, *, follow: bool, as_json: bool
) -> None:
    """Print the newest events, the oldest of them first; then, with ``follow``, each new one, until interrupted."""
    newest = await _events(answers, flags, selection, lines)
    seen = dict.fromkeys(event.event_id for event in newest)
    for event in newest:
        print_event(event, as_json=as_json)
    since = newest[-1].timestamp if newest else selection.until
    if follow and len(newest) == lines:
        # Older ones, beyond those asked for, are within reach of the first poll.
        for event in await _events(answers, flags, _recent(selection, since), None):
            if _position(event) < _position(newest[0]):
                seen[event.event_id] = None
    while follow:
        sys.stdout.flush()
        await asyncio.sleep(_POLL_SECONDS)
        for event in await _events(answers, flags, _recent(selection, since), None):
            if event.event_id not in seen:
                seen[event.event_id] = None
                since = max(since, event.timestamp)
                print_event(event, as_json=as_json)
        while len(seen) > _MOST_REMEMBERED:
            del seen[next(iter(seen))]


def _recent(selection: Selection, since: datetime) -> Selection:
    now = datetime.now(UTC)
    return attrs.evolve(selection, until=now, window_seconds=(now - since + _OVERLAP).total_seconds())


def _position(event: FlagEvaluationEvent) -> tuple[datetime, str]:
    return event.timestamp, event.event_id


async def _events(
    answers: Answers, flags: Sequence[str], selection: Selection, limit: int | None
) -> list[FlagEvaluationEvent]:
    found = []
    for flag in flags or (None,):
        found += [event async for event in answers.events(flag, selection, limit)]
    found.sort(key=_position)
    return found if limit is None else found[-limit:]


def print_event(event: FlagEvaluationEvent, *, as_json: bool) -> None:
    """Print one event on one line."""
    if as_json:
        sys.stdout.write(json.dumps(event.to_dict(), separators=(",", ":")) + "\n")
        return
    value = json.dumps(event.value)
    shown = value if len(value) <= _LONGEST_VALUE else f"{value[:_LONGEST_VALUE]}…"
    line = Text.assemble(
        (f"{event.timestamp.astimezone(UTC):%Y-%m-%d %H:%M:%S.%f}"[:-3], "dim"),
        "  ",
        (visible(event.flag_key), "bold"),
        "  ",
        visible(event.variant or "default"),
        "  ",
        (visible(event.targeting_key or "-"), "cyan"),
        "  ",
        (visible(event.reason), "red" if event.error_type or event.reason == "ERROR" else "dim"),
        "  ",
        (visible(shown), "dim"),
    )
    if event.kind != "evaluation":
        line.append(f"  {event.kind}", "dim")
    results().print(line, soft_wrap=True)
