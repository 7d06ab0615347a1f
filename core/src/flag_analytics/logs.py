"""The loggers of this project: each distinct message passes once a minute, however often its cause recurs."""

from __future__ import annotations

import logging
import time

__all__ = ["forget", "get_logger", "warn"]

_PAUSE_SECONDS = 60.0
_MAX_CAUSES = 1_000


def get_logger(name: str) -> logging.Logger:
    """Return the standard logger of this name; of equal messages it passes one a minute."""
    logger = logging.getLogger(name)
    logger.addFilter(_once_a_minute)  # adds it once
    return logger


def warn(logger: logging.Logger, message: str, *args: object) -> None:
    """Log a warning; never raise, even where a filter or handler of the application does."""
    try:
        logger.warning(message, *args, stacklevel=2)
    except Exception:
        pass  # there is no other place to report it


def forget() -> None:
    """Let every message pass again at once; tests call it, since the filter belongs to the whole process."""
    _once_a_minute.passes.clear()


class _Pass:
    """Lets one record through once its time has come."""

    __slots__ = ("due", "tokens")

    def __init__(self, due: float) -> None:
        self.due = due
        self.tokens = [None]

    def take(self, now: float) -> bool:
        """Return whether the record may pass; of several threads at once, one is told so."""
        if now < self.due:
            return False
        try:
            self.tokens.pop()  # one step
        except IndexError:
            return False
        return True


class _OnceAMinute(logging.Filter):
    """Refuses a message that passed less than a minute ago.

    It has no lock, since a signal handler may log while any lock is held, and a fork may copy a held one.
    """

    def __init__(self) -> None:
        super().__init__()
        self.passes: dict[tuple[str, str], _Pass] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        try:
            cause = (record.name, record.getMessage())
            now = time.monotonic()
            if len(self.passes) >= _MAX_CAUSES:
                self.passes.clear()
            passed = self.passes.setdefault(cause, _Pass(now)).take(now)
            if passed:
                self.passes[cause] = _Pass(now + _PAUSE_SECONDS)
        except Exception:
            return True  # a message that cannot be formatted is for logging's own error handling
        return passed


_once_a_minute = _OnceAMinute()
