"""Windows of time as people write them: ``90s``, ``15m``, ``1h``, ``7d``, ``2w``, ``all``."""

from __future__ import annotations

import re

__all__ = ["describe_window", "parse_window"]

_UNITS = {"s": 1, "m": 60, "h": 3_600, "d": 86_400, "w": 604_800}
_NAMES = {"s": "second", "m": "minute", "h": "hour", "d": "day", "w": "week"}
_WINDOW = re.compile(r"(?P<count>\d{1,9}(?:\.\d{1,9})?)\s*(?P<unit>[smhdw])", re.ASCII | re.IGNORECASE)
_LONGEST_SECONDS = 100 * 365.25 * 86_400


def parse_window(text: str) -> float | None:
    """Return the seconds a window spans; None for ``all``.

    Raises:
        ValueError: not a window, zero, or longer than a century.
    """
    wanted = text.strip().lower()
    if wanted == "all":
        return None
    match = _WINDOW.fullmatch(wanted)
    if match is None:
        raise ValueError(f"{text!r} is not a window: expected for example 90s, 15m, 1h, 7d, 2w or all")
    seconds = float(match["count"]) * _UNITS[match["unit"]]
    if not 0 < seconds <= _LONGEST_SECONDS:
        raise ValueError(f"window {text!r} is out of range: expected more than nothing, and at most 100 years")
    return seconds


def describe_window(seconds: float | None) -> str:
    """Return the window for people: ``all time``, ``the last hour``, ``the last 7 days``."""
    if seconds is None:
        return "all time"
    for unit in ("w", "d", "h", "m", "s"):
        count, rest = divmod(seconds, _UNITS[unit])
        # A week is called 7 days, and one and a half hours 90 minutes.
        if count and not rest and not (unit == "w" and count == 1):
            return f"the last {_NAMES[unit]}" if count == 1 else f"the last {count:.0f} {_NAMES[unit]}s"
    return f"the last {seconds:g} seconds"
