"""``Background``: summaries of finished days made beside the writing of events, in the thread of questions."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from concurrent.futures import Future

from ..errors import code_of

__all__ = ["Background"]

logger = logging.getLogger("flag_analytics.database")

_FIRST_AFTER_SECONDS = 60.0
_EVERY_SECONDS = 300.0
_AT_ONCE = 50
"""The most summaries of one piece of work: a question, or a close, waits no longer than for these."""


class Background:
    """Begins a piece of work after a batch where one is due, and does not wait for it.

    Args:
        compact: Begins to make at most so many summaries; the result is how many were made.
    """

    def __init__(self, compact: Callable[[int], Future[int]]) -> None:
        self._compact = compact
        self.forget()

    def forget(self) -> None:
        """Begin anew, in a child of a fork too."""
        self._pending: Future[int] | None = None
        self.due = time.monotonic() + _FIRST_AFTER_SECONDS

    def go_on(self) -> None:
        """Begin the next piece of work if it is due, and the last one is done."""
        pending = self._pending
        if pending is not None and pending.done():
            self._pending = None
            if not pending.cancelled() and (error := pending.exception()) is not None:
                logger.warning("summaries were not made: %s", code_of(error))
            elif not pending.cancelled() and pending.result() == _AT_ONCE:
                self.due = 0.0
        if self._pending is None and time.monotonic() >= self.due:
            self.due = time.monotonic() + _EVERY_SECONDS
            self._pending = self._compact(_AT_ONCE)
