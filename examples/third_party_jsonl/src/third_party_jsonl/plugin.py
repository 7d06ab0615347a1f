"""A collector that appends every event to a JSON Lines file."""

import json
from pathlib import Path

import attrs
from flag_analytics import Backend, Batch, hookimpl


@attrs.frozen
class Options:
    """Options of the ``jsonl`` collector.

    Attributes:
        path: The file to append to.
    """

    path: Path = attrs.field(converter=Path)


@attrs.frozen
class JsonLinesSink:
    """Writes one line of JSON for each event; a batch is one append."""

    options: Options

    async def write(self, batch: Batch) -> None:
        lines = "".join(json.dumps(event.to_dict()) + "\n" for event in batch)
        with self.options.path.open("a", encoding="utf-8") as file:
            file.write(lines)


@hookimpl
def flag_analytics_register_collectors() -> list[Backend[Options]]:
    return [Backend("jsonl", Options, JsonLinesSink)]
