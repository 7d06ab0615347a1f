"""Find the events that a backend refuses, by halving the batch they are in. No thread, clock or socket.

A sink that raises ``BadBatch`` has refused the content: the batch is halved until the refused events stand alone. In a
batch of n events with k refused ones that takes at most 2k⌈log2 n⌉ + 1 writes. The refused events are dead if there is
proof that the backend lives: a neighbour that was stored, or, where they are few (``most_refused``), a ping. Otherwise
the backend is broken (a table that is gone refuses everything) and no event is given up. Where they are many, only a
tenth is given up at a time; the others are tried again after a pause, behind the next events.
"""

from __future__ import annotations

from collections.abc import Sequence

import attrs
from flag_analytics.frozen import FrozenEvent
from flag_analytics.protocols import Batch

from .log import Cursor, Piece

__all__ = ["Bisection", "Dead", "Part", "most_refused"]


@attrs.frozen
class Dead:
    """An event that was given up, and why."""

    cursor: Cursor
    piece: Piece
    batch_id: str
    error: str
    code: str

    @property
    def event(self) -> FrozenEvent:
        return self.piece.events[0]


@attrs.define(eq=False)
class Part:
    """Events that are written together, and what came of it so far.

    Attributes:
        failures: How often the write failed for a reason that may be these events.
        timeouts: How often there was no answer in time.
        attempted: Whether it was written before.
        suspected: Whether it is a half of a part that failed too often, so that it is halved at its next failure.
        refused: Whether each of its events was refused in an earlier round.
    """

    batch_id: str
    piece: Piece
    failures: int = 0
    timeouts: int = 0
    attempted: bool = False
    suspected: bool = False
    refused: bool = False
    batch: Batch = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self.batch = Batch(self.batch_id, self.piece.events)

    def __len__(self) -> int:
        return len(self.piece)

    def halves(self, *, suspected: bool = False) -> tuple[Part, Part]:
        """Return both halves, as parts of their own."""
        middle = len(self) // 2
        first, second = self.piece.split(middle)
        return (
            Part(f"{self.batch_id}.-{middle}", first, suspected=suspected, refused=self.refused),
            Part(f"{self.batch_id}.{middle}-", second, suspected=suspected, refused=self.refused),
        )


@attrs.define(eq=False)
class Bisection:
    """A batch on its way: the parts still to be written, the refused events, and what is known of the backend.

    Attributes:
        todo: The next part comes last.
        refused: Events that the sink refused alone.
        stored_any: Whether a part was stored.
        proven: Whether all of it was refused in an earlier round in which others were stored.
        halved: Whether it was ever halved.
        ping_wanted: Whether a ping must say next whether the backend lives.
    """

    cursor: Cursor
    size: int
    todo: list[Part]
    refused: list[Dead] = attrs.field(factory=list[Dead])
    stored_any: bool = False
    proven: bool = False
    halved: bool = False
    ping_wanted: bool = False

    @property
    def part(self) -> Part:
        return self.todo[-1]

    @property
    def lives(self) -> bool:
        """Whether there is proof that the backend lives."""
        return self.stored_any or self.proven

    def halve(self, *, suspected: bool = False) -> None:
        """Put the halves of the next part in its place."""
        first, second = self.todo.pop().halves(suspected=suspected)
        self.todo += (second, first)
        self.halved = True

    def refuse(self, piece: Piece, batch_id: str, error: str, code: str) -> None:
        """Note that an event was refused alone."""
        self.refused.append(Dead(self.cursor, piece, batch_id, error, code))

    def give_up(self) -> tuple[Dead, ...]:
        """Return the refused events; they are dead from here on."""
        dead = tuple(self.refused)
        self.refused.clear()
        return dead

    def left(self) -> tuple[Sequence[Piece], Sequence[Piece]]:
        """Return what is left to write: events that were never refused, and those that were."""
        fresh = [part.piece for part in reversed(self.todo) if not part.refused]
        refused = [dead.piece for dead in self.refused]
        refused += [part.piece for part in reversed(self.todo) if part.refused]
        return fresh, refused


def most_refused(size: int) -> int:
    """Return how many events of a batch may be given up in one round: a tenth, and a few of a small batch."""
    return max(5, size // 10)
