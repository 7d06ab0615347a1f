"""Counts of events by hour, flag, variant, reason and environment: what a batch adds to the table of counts.

``count_statements.cells_query`` says the same in SQL, of events that are stored; the tests hold them together.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import msgspec
from flag_analytics.frozen import FrozenEvent
from flag_analytics.metrics import MILLION, weight_of
from flag_analytics.sources import NO_VALUE

from .rows import micros

__all__ = [
    "CELL_COLUMNS",
    "DAY",
    "DAY_TOTALS",
    "HOUR",
    "KEY_COLUMNS",
    "LONG_ENVIRONMENT",
    "MOST_ENVIRONMENT_BYTES",
    "Cell",
    "count",
    "with_day_totals",
]

HOUR = 3_600_000_000
DAY = 24 * HOUR
"""An hour and a day in microseconds."""
DAY_TOTALS = 2**60
"""Added to the start of a day it is the ``hour`` of the row that sums up a flag's day: beyond any time there is."""
KEY_COLUMNS = ("hour", "flag_key", "variant", "reason", "environment")
CELL_COLUMNS = (*KEY_COLUMNS, "events", "weight", "errors", "error_weight", "first_event", "last_event")
LONG_ENVIRONMENT = "__long__"
"""Where an environment takes more than ``MOST_ENVIRONMENT_BYTES``: only the events themselves tell which one it is."""
MOST_ENVIRONMENT_BYTES = 190
"""In UTF-8. With it, a key of the longest texts still fits a page of an index on every database."""

Cell = tuple[Any, ...]
"""A row of the table, with the columns of ``CELL_COLUMNS``."""


def count(events: Sequence[FrozenEvent], times: Iterable[int] | None = None) -> list[Cell]:
    """Return what these events add to the table of counts, in the order of its key; outcomes are not counted.

    The totals of days are among it: see ``with_day_totals``.

    All writers add in this order, so that none waits for another that waits for it.

    Args:
        events: The events.
        times: Their times in microseconds, if they are at hand.
    """
    if times is None:
        times = [micros(event.timestamp) for event in events]
    cells: dict[tuple[int, str, str, str, str], list[int]] = {}
    find = cells.get
    for event, at in zip(events, times, strict=True):  # this loop is what a batch costs here
        if event.kind == "outcome":
            continue
        reason, context = event.reason, event.context_json
        environment = _environment(context) if b'"environment"' in context else NO_VALUE
        key = (at - at % HOUR, event.flag_key, event.variant or "", reason, environment)
        cell = find(key)
        if cell is None:
            cells[key] = cell = [0, 0, 0, 0, at, at]
        rate = event.sample_rate
        weight = MILLION if rate == 1.0 else weight_of(rate)
        cell[0] += 1
        cell[1] += weight
        if reason == "ERROR" or event.error_type:
            cell[2] += 1
            cell[3] += weight
        if at < cell[4]:
            cell[4] = at
        elif at > cell[5]:
            cell[5] = at
    return with_day_totals((*key, *figures) for key, figures in cells.items())


def with_day_totals(cells: Iterable[Cell]) -> list[Cell]:
    """Return cells with the totals of their days by flag, in the order of the key.

    A total is a row without variant, reason and environment. Summaries of days are fresh as long as they have as many
    events, which only a number that is kept in the events' own transaction can tell.
    """
    found = list(cells)
    totals: dict[tuple[int, str, str, str, str], list[int]] = {}
    for hour, flag_key, _, _, _, events, weight, errors, error_weight, first, last in found:
        key = (hour - hour % DAY + DAY_TOTALS, flag_key, "", "", "")
        total = totals.get(key)
        if total is None:
            totals[key] = [events, weight, errors, error_weight, first, last]
            continue
        total[0] += events
        total[1] += weight
        total[2] += errors
        total[3] += error_weight
        total[4] = min(total[4], first)
        total[5] = max(total[5], last)
    found += [(*key, *figures) for key, figures in totals.items()]
    return sorted(found)


class _Context(msgspec.Struct):
    environment: msgspec.Raw = msgspec.Raw(b"null")


_decode_context = msgspec.json.Decoder(_Context).decode
_decode_text = msgspec.json.Decoder(str).decode


def _environment(context: bytes) -> str:
    """Return the environment as groups name it: its text, or its JSON as it was recorded where it is not a text."""
    try:
        written = bytes(_decode_context(context).environment)
    except msgspec.DecodeError:
        return NO_VALUE  # it is no object
    if written == b"null":
        return NO_VALUE
    text = _decode_text(written) if written[:1] == b'"' else written.decode()
    return text if len(text.encode()) <= MOST_ENVIRONMENT_BYTES else LONG_ENVIRONMENT
