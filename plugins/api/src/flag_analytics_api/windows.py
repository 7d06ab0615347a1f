"""Windows of time as clients write them, and the steps that a chart over one has."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

import attrs

from .problems import ProblemError

__all__ = ["MAX_STEPS", "WINDOW_PATTERN", "Asked", "aligned", "asked_window", "duration", "usual_step"]

WINDOW_PATTERN = r"^([1-9][0-9]{0,5}[smhdw]|all)$"
MAX_STEPS = 1_000
"""The most steps of a series: more than a screen is wide."""
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_MAX_SECONDS = 3_660 * 86_400
_UNITS = {"s": 1, "m": 60, "h": 3_600, "d": 86_400, "w": 604_800}
_STEPS = (1, 5, 15, 60, 300, 900, 3_600, 10_800, 21_600, 86_400, 604_800, 2_592_000)
_USUAL_STEPS = 72


@attrs.frozen
class Asked:
    """The window of a question.

    Attributes:
        seconds: How far it reaches back; None is all time.
        end: Where it ends, UTC.
    """

    seconds: float | None
    end: datetime

    @property
    def start(self) -> datetime | None:
        return None if self.seconds is None else self.end - timedelta(seconds=self.seconds)


def asked_window(text: str, until: datetime | None, now: datetime) -> Asked:
    """Return the meaning of the parameters ``window`` and ``until``.

    Raises:
        ProblemError: the window is too long, or reaches back beyond the calendar.
    """
    end = now if until is None else min(until.astimezone(UTC), now)
    seconds = None if text == "all" else duration(text, "window", _MAX_SECONDS)
    try:
        asked = Asked(seconds, end)
        _ = asked.start
    except OverflowError:
        raise ProblemError(
            400,
            "until is not usable",
            parameter="until",
            expected="a time later than the window is long after the year 1",
        ) from None
    return asked


def duration(text: str, parameter: str, most: int = _MAX_SECONDS) -> int:
    """Return the seconds of a length of time such as ``15m``.

    Raises:
        ProblemError: it is longer than ``most``.
    """
    match = re.fullmatch(r"([1-9][0-9]{0,5})([smhdw])", text)
    seconds = int(match[1]) * _UNITS[match[2]] if match else 0
    if not 0 < seconds <= most:
        raise ProblemError(
            400,
            f"{parameter} is not usable",
            parameter=parameter,
            expected=f"a number and one of s, m, h, d and w, such as 15m, up to {most // 86_400}d",
        )
    return seconds


def usual_step(seconds: float) -> int:
    """Return a step that draws a window of this length well, in seconds."""
    return next((step for step in _STEPS if seconds / step <= _USUAL_STEPS), _STEPS[-1])


def aligned(window: Asked, step: int) -> Asked:
    """Return the window from the beginning of its first whole step on, so that the next answer has the same steps."""
    if not window.seconds:
        return window
    # In whole microseconds, so that the start is a whole step to the last digit.
    end = (window.end - _EPOCH) // _MICROSECOND
    start = (end - round(window.seconds * 1_000_000)) // (step * 1_000_000) * step * 1_000_000
    return Asked((end - start) / 1_000_000, window.end)
