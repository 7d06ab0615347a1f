"""A record that is sound, and about no evaluation."""

from __future__ import annotations

__all__ = ["Skipped"]


class Skipped(Exception):  # noqa: N818  it is no error
    """A record of another kind.

    Attributes:
        kind: The kind, for people.
        counted: Evaluations that the record counts without describing them.
    """

    def __init__(self, kind: str, counted: int = 0) -> None:
        super().__init__(kind)
        self.kind = kind
        self.counted = counted
