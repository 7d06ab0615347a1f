"""``import --dry-run``: how a file would be read, and its first events, without storing anything."""

from __future__ import annotations

import json
from typing import Any

from flag_analytics.events import FlagEvaluationEvent
from flag_analytics.freezer import Freezer
from flag_analytics.frozen import FrozenEvent
from rich.text import Text

from .importing import EventFile, ImportReport, read_file, say_left_out
from .reading import EventReader
from .terminal import print_json, results, say
from .visible import visible
from .wording import counted

__all__ = ["dry_import"]

_SHOWN = 5


def dry_import(file: EventFile, strict: bool, *, as_json: bool) -> ImportReport:
    """Read a whole file, show the mapping and five of its events as they would be stored, and return the outcome."""
    shown: list[FrozenEvent] = []
    freeze = Freezer().freeze

    def record(event: FlagEvaluationEvent) -> None:
        if len(shown) < _SHOWN:
            shown.append(freeze(event))

    outcome = ImportReport()
    try:
        read_file(file, record, outcome, strict=strict)
    finally:
        say_left_out(file, outcome)
    mapping = _mapping(outcome.reader, file)
    events = [event.to_dict() for event in shown]
    if as_json:
        print_json({**outcome.to_dict(), "mapping": mapping, "events_shown": events})
    else:
        _print(outcome, mapping, events)
    return outcome


def _mapping(reader: EventReader | None, file: EventFile) -> dict[str, str]:
    """Return by field where its values come from."""
    layout = None if reader is None else reader.layout
    if layout is None:
        return dict(file.options.columns)
    mapping = {field: " or ".join(paths) for field, paths in layout.fields.items() if paths}
    mapping |= {f"context.{name}": path for name, path in layout.context.items()}
    if file.options.time is not None:
        mapping["timestamp"] = f"--timestamp {file.options.time.isoformat()}"
    if file.options.flag_key is not None and "flag_key" not in mapping:
        mapping["flag_key"] = f"--flag-key {file.options.flag_key}"
    return mapping


def _print(outcome: ImportReport, mapping: dict[str, str], events: list[dict[str, Any]]) -> None:
    console = results()
    width = max(map(len, mapping), default=0)
    for field, place in mapping.items():
        say(console, Text.assemble((f"{field:<{width}}", "bold"), "  from ", visible(place)))
    for event in events:
        console.print()
        # ASCII alone: nothing in an event can steer the terminal.
        console.print(json.dumps(event, indent=2), soft_wrap=True)
    console.print()
    say(console, f"{counted(outcome.events, 'event')} would be imported; nothing was stored")
