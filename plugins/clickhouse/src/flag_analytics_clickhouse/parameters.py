"""``Parameters``: the values of a statement, each bound to a place in it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

__all__ = ["Parameters"]


class Parameters:
    """Gives each value a name, and returns its place in the statement as ClickHouse writes it."""

    def __init__(self) -> None:
        self.values: dict[str, Any] = {}

    def _bound(self, value: Any, kind: str) -> str:
        name = f"v{len(self.values)}"
        self.values[name] = value
        return f"{{{name}:{kind}}}"

    def text(self, value: str) -> str:
        """Bind a text."""
        return self._bound(value, "String")

    def texts(self, values: Iterable[str]) -> str:
        """Bind a set of texts, for ``IN``."""
        return self._bound(sorted(values), "Array(String)")

    def whole(self, value: int) -> str:
        """Bind an integer of 64 bits."""
        return self._bound(value, "Int64")

    def numbers(self, values: Iterable[float]) -> str:
        """Bind floats; ClickHouse may read the last digit of one in another way."""
        return self._bound(list(values), "Array(Float64)")
