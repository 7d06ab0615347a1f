"""Keeps secrets out of messages: URLs, chained exceptions, and the words of drivers and plugins."""

from __future__ import annotations

import os
import re
import traceback
from collections.abc import Collection
from pathlib import Path
from typing import Literal

from ..errors import FlagAnalyticsError

__all__ = ["MASK", "MaskedCause", "Quote", "looks_secret", "mask", "masked_cause", "message_of", "place"]

MASK = "***"
Quote = Literal["all", "own", "nothing"]
"""The exceptions whose words may be shown."""

_MAX_MESSAGE_CHARS = 500
_MAX_READ_CHARS = 4_000
_MAX_CHAIN = 5
_SHORTEST_MASKED = 4
_TELLING_NAME = r"[\w.-]*(?:pass|pwd|secret|token|credential|api_?key|sslkey|salt)[\w.-]*"
# Up to the last @ of the word: a password that was not percent-encoded may hold a slash or an @ itself.
_USERINFO = re.compile(r"(?P<scheme>\b[A-Za-z][A-Za-z0-9+.-]*://)[^\s'\"]*@")
_QUERY = re.compile(rf"(?P<name>[?&;]{_TELLING_NAME}=)[^&;\s'\"]+", re.IGNORECASE)
_LOOKS_SECRET = re.compile(rf"{_TELLING_NAME}|.*\bdsn\b.*", re.IGNORECASE)
_CORE, _STANDARD_LIBRARY = str(Path(__file__).parents[1]), str(Path(os.__file__).parent)


class MaskedCause(Exception):  # noqa: N818 — it stands for an exception of any name
    """Stands in a chain for an exception whose words may hold a secret: the same traceback, masked words."""


def mask(text: str, secrets: Collection[str] = ()) -> str:
    """Return ``text`` with the secret parts of URLs, and each of ``secrets``, replaced by ``***``."""
    for secret in sorted(secrets, key=len, reverse=True):
        if len(secret) >= _SHORTEST_MASKED:
            text = text.replace(secret, MASK)
    text = _USERINFO.sub(rf"\g<scheme>{MASK}@", text)
    return _QUERY.sub(rf"\g<name>{MASK}", text)


def looks_secret(name: str) -> bool:
    """Return whether an option of this name is likely to hold a secret."""
    return _LOOKS_SECRET.fullmatch(name) is not None


def message_of(error: BaseException, secrets: Collection[str] = (), *, quote: Quote = "all") -> str:
    """Return class and masked words of an exception in one line, at most 500 characters long.

    ``quote`` says whose words are shown: of all exceptions, of flag-analytics' own, or of none.
    """
    ours = isinstance(error, FlagAnalyticsError) and quote != "nothing"
    try:
        words = " ".join(str(error).split()) if quote == "all" or ours else ""
    except Exception:
        words = ""
    if len(words) > _MAX_READ_CHARS:  # up to a whole word, since half a secret is not recognised
        words = words[:_MAX_READ_CHARS].rpartition(" ")[0]
    words = mask(words, secrets)
    if len(words) > _MAX_MESSAGE_CHARS:
        words = words[:_MAX_MESSAGE_CHARS] + "…"
    return words if ours and words else ": ".join(filter(None, [type(error).__name__, words]))


def masked_cause(
    error: BaseException, secrets: Collection[str] = (), *, quote: Quote = "all", depth: int = _MAX_CHAIN
) -> MaskedCause:
    """Return the exception to chain in place of ``error``, its own chain included."""
    stand_in = MaskedCause(message_of(error, secrets, quote=quote)).with_traceback(error.__traceback__)
    cause = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    if cause is not None and depth > 0:
        stand_in.__cause__ = masked_cause(cause, secrets, quote=quote, depth=depth - 1)
    return stand_in


def place(error: BaseException) -> str:
    """Return where a plugin raised an exception, as ``file.py:12``; FLAG_ANALYTICS_DEBUG=1 adds the traceback."""
    frames = traceback.extract_tb(error.__traceback__)
    theirs = [frame for frame in frames if _is_of_plugins(frame.filename)]
    if not theirs:
        return ""
    whole = "\n" + "".join(frames.format()).rstrip() if os.environ.get("FLAG_ANALYTICS_DEBUG") else ""
    return f"{theirs[-1].filename}:{theirs[-1].lineno}{whole}"


def _is_of_plugins(file: str) -> bool:
    if file.startswith(("<", _CORE)):
        return False
    return not file.startswith(_STANDARD_LIBRARY) or "-packages" in file.removeprefix(_STANDARD_LIBRARY)
