"""Names: of tables and schemas, checked and short enough for every database, and of the modes of TLS."""

from __future__ import annotations

import hashlib
import re
from typing import Any, Literal

__all__ = ["DEFAULT_TABLE", "TLS_MODES", "TlsMode", "check_identifier", "derived_name"]

DEFAULT_TABLE = "analytics_events"

TlsMode = Literal["disable", "allow", "prefer", "require", "verify-ca", "verify-full"]
TLS_MODES: tuple[TlsMode, ...] = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")
"""The names of libpq's ``sslmode``, weakest first."""

_IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,62}\Z")
_LONGEST = 63


def check_identifier(name: Any, what: str) -> str:
    """Return ``name`` if it can name a table or schema on every database.

    Raises:
        ValueError: it is not a letter or underscore followed by at most 62 letters, digits and underscores.
    """
    if not isinstance(name, str) or not _IDENTIFIER.match(name):
        raise ValueError(f"{what} must match [A-Za-z_][A-Za-z0-9_]{{0,62}}: use letters, digits and underscores only")
    return name


def derived_name(table: str, suffix: str) -> str:
    """Return ``table_suffix``; the end of a long table name becomes a hash, so that databases keep the name whole."""
    name = f"{table}_{suffix}"
    if len(name) <= _LONGEST:
        return name
    digest = hashlib.sha256(table.encode()).hexdigest()[:8]
    return f"{table[: _LONGEST - len(suffix) - 10]}_{digest}_{suffix}"
