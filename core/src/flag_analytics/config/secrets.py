"""Keeps secrets out of what people read: URLs, the words of drivers and plugins, chained exceptions."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from urllib.parse import quote, unquote, unquote_plus

__all__ = ["MASK", "MaskedCause", "mask", "masked_cause", "place", "secret_parts"]

MASK = "***"

_MAX_MESSAGE_CHARS = 500
_MAX_READ_CHARS = 4_000
_MAX_CHAIN = 5
_SHORT = 4
_ODD_CHARS = 6
_TELLING_NAME = r"[\w.-]*(?:pass|pwd|secret|token|credential|api_?key|sslkey|salt)[\w.-]*"
# Up to the last @ of the word: a password that was not percent-encoded may hold a slash or an @ itself.
_USERINFO = re.compile(r"(?P<scheme>\b[A-Za-z][A-Za-z0-9+.-]*://)(?P<userinfo>[^\s'\"]*)@")
_QUERY = re.compile(rf"(?P<name>[?&;]{_TELLING_NAME}=)(?P<value>[^&;\s'\"]+)", re.IGNORECASE)
_URL = re.compile(r"\b[A-Za-z][A-Za-z0-9+.-]*://(?P<authority>[^\s'\"/?#]*)(?P<rest>[^\s'\"]*)")
_BARE_USERINFO = re.compile(r"[^\s'\":/]*:(?P<password>[^\s'\"]+)@[^\s'\"@]*")
_PIECE = re.compile(r"[^/:@?&=;,\s'\"]+")
_PLAIN_WORD = re.compile(r"[a-z]*(?:[._-][a-z]*)*|[0-9]*")
_LOOKS_SECRET = re.compile(_TELLING_NAME + r"|.*\bdsn\b.*", re.IGNORECASE)


class MaskedCause(Exception):  # noqa: N818 — it stands for an exception of any name
    """Stands in an exception chain for an exception whose own words may hold a secret: same traceback, masked text."""


def mask(text: str, secrets: Collection[str] = ()) -> str:
    """Return ``text`` with URL passwords and every one of ``secrets`` replaced by ``***``."""
    for secret in sorted(secrets, key=len, reverse=True):
        if len(secret) >= _SHORT:
            text = text.replace(secret, MASK)
        elif secret:  # a whole word only, or a secret of one letter would eat the sentence
            text = re.sub(rf"(?<!\w){re.escape(secret)}(?!\w)", MASK, text)
    text = _USERINFO.sub(rf"\g<scheme>{MASK}@", text)
    return _QUERY.sub(rf"\g<name>{MASK}", text)


def secret_parts(value: str) -> frozenset[str]:
    """Return the texts under which a secret may be quoted: itself, its parts if it is a URL, in every encoding.

    A driver that cannot read a URL quotes what it stumbled over, which may be any piece of it between two of
    ``/ : @ ? & =``. Pieces of a password count in any case; elsewhere plain words and numbers are harmless, and so is a
    host's name: messages need them.
    """
    parts = {value} | {match["value"] for match in _QUERY.finditer(value)}
    for match in _USERINFO.finditer(value):
        userinfo = match["userinfo"]
        password = userinfo.partition(":")[2]
        parts |= {userinfo, password, *_pieces(password)}
    for match in _URL.finditer(value):
        parts |= _odd_parts(match["authority"].rpartition("@")[2], match["rest"])
    bare = _BARE_USERINFO.fullmatch(value)
    if bare is not None:  # a URL without its scheme
        parts |= {bare["password"], *_pieces(bare["password"])}
    return frozenset(form for part in parts for form in (part, unquote(part), unquote_plus(part), quote(part)) if form)


def _odd_parts(authority: str, rest: str) -> set[str]:
    """Return what may be a secret in a URL besides user and query: a port that is none, and words that look random."""
    _, colon, port = authority.rpartition(":")
    parts = {piece for piece in _pieces(rest) if len(piece) >= _ODD_CHARS and not _PLAIN_WORD.fullmatch(piece)}
    if colon and not port.isdecimal() and not authority.endswith("]"):  # user:password, and the host forgotten
        parts |= {port, port + rest, *_pieces(rest)}
    return parts


def _pieces(text: str) -> set[str]:
    return {piece for piece in _PIECE.findall(text) if len(piece) >= _SHORT}


def looks_secret(name: str) -> bool:
    """Return whether an option of this name is likely to hold a secret, though nothing says so."""
    return _LOOKS_SECRET.fullmatch(name) is not None


def message_of(error: BaseException, secrets: Collection[str] = ()) -> str:
    """Return class and masked words of an exception in one line, at most 500 characters long."""
    try:
        words = " ".join(str(error).split())
    except Exception:
        words = ""
    if len(words) > _MAX_READ_CHARS:  # up to a whole word, or half a secret would be left that nothing recognises
        words = words[:_MAX_READ_CHARS].rpartition(" ")[0]
    words = mask(words, secrets)
    if len(words) > _MAX_MESSAGE_CHARS:
        words = words[:_MAX_MESSAGE_CHARS] + "…"
    name = type(error).__name__
    return f"{name}: {words}" if words else name


def masked_cause(error: BaseException, secrets: Collection[str] = ()) -> MaskedCause:
    """Return what to chain in place of ``error``, its own chain included."""
    first = last = _stand_in(error, secrets)
    for cause in _chain_of(error):
        stand_in = _stand_in(cause, secrets)
        last.__cause__ = stand_in
        last = stand_in
    return first


def place(error: BaseException) -> str:
    """Return where an exception was raised, as ``file.py:12``: what a log may say of one without quoting it."""
    traceback = error.__traceback__
    if traceback is None:
        return "unknown place"
    while traceback.tb_next is not None:
        traceback = traceback.tb_next
    return f"{traceback.tb_frame.f_code.co_filename}:{traceback.tb_lineno}"


def _stand_in(error: BaseException, secrets: Collection[str]) -> MaskedCause:
    return MaskedCause(message_of(error, secrets)).with_traceback(error.__traceback__)


def _chain_of(error: BaseException) -> Iterator[BaseException]:
    cause: BaseException | None = error
    for _ in range(_MAX_CHAIN):
        assert cause is not None
        cause = cause.__cause__ if cause.__cause__ or cause.__suppress_context__ else cause.__context__
        if cause is None:
            return
        yield cause
