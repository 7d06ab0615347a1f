"""How a sink is delivered to: every setting of the engine, its unit and its default."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import attrs

__all__ = ["DeliveryOptions"]

_at_least_one = attrs.validators.ge(1)
_positive = attrs.validators.gt(0.0)
_not_negative = attrs.validators.ge(0.0)


@attrs.frozen(kw_only=True)
class DeliveryOptions:
    """Settings of the delivery engine. Sizes are in events or bytes, times in seconds.

    A configuration's ``[delivery]`` table sets them for all sinks, ``[collectors.NAME.delivery]`` for one. The
    ``spool_*`` settings and ``durability`` belong to the whole pipeline.

    Attributes:
        max_events: The most events that wait for one sink.
        max_bytes: The most bytes that wait for one sink.
        policy: When a sink's queue is full: refuse the new event (``drop_newest``), forget the oldest one
            (``drop_oldest``), or hold the caller up to ``block_timeout_seconds`` and then refuse (``block``). A thread
            that runs an event loop is never held.
        block_timeout_seconds: How long ``block`` may hold a caller.
        batch_size: The most events in one write.
        max_batch_bytes: The most bytes in one write (one larger event goes alone).
        flush_interval_seconds: The longest an event waits for its batch to fill.
        attempt_timeout_seconds: The longest one write may take before it counts as ``CommitUnknown``.
        retry_initial_seconds: The upper bound of the first pause after a failure; it doubles with each further one.
        retry_max_seconds: The largest upper bound. The pause itself is drawn uniformly from 0 to the bound ("full
            jitter", https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/).
        close_timeout_seconds: How long ``close()`` drains unless told otherwise.
        exit_timeout_seconds: How long a process that exits without ``close()`` is held to drain.
        durability: ``memory``, or ``spool``: events are first written to a file, and survive a crash of the process.
        spool_directory: Where spools are kept; the default is a directory of the user's own under the system's
            directory for state.
        spool_max_bytes: The most bytes one spool may take on disk.
        spool_interval_seconds: The longest a recorded event waits before it is durable.
        spool_fsync: ``normal`` survives the end of the process, ``full`` also the loss of power.
    """

    max_events: int = attrs.field(default=50_000, validator=_at_least_one)
    max_bytes: int = attrs.field(default=32 * 2**20, validator=_at_least_one)
    policy: Literal["drop_newest", "drop_oldest", "block"] = attrs.field(
        default="drop_newest", validator=attrs.validators.in_(("drop_newest", "drop_oldest", "block"))
    )
    block_timeout_seconds: float = attrs.field(default=1.0, validator=_not_negative)
    batch_size: int = attrs.field(default=500, validator=_at_least_one)
    max_batch_bytes: int = attrs.field(default=4 * 2**20, validator=_at_least_one)
    flush_interval_seconds: float = attrs.field(default=1.0, validator=_not_negative)
    attempt_timeout_seconds: float = attrs.field(default=15.0, validator=_positive)
    retry_initial_seconds: float = attrs.field(default=0.1, validator=_positive)
    retry_max_seconds: float = attrs.field(default=30.0, validator=_positive)
    close_timeout_seconds: float = attrs.field(default=5.0, validator=_not_negative)
    exit_timeout_seconds: float = attrs.field(default=1.0, validator=_not_negative)
    durability: Literal["memory", "spool"] = attrs.field(
        default="memory", validator=attrs.validators.in_(("memory", "spool"))
    )
    spool_directory: Path | None = attrs.field(default=None, converter=attrs.converters.optional(Path))
    spool_max_bytes: int = attrs.field(default=256 * 2**20, validator=attrs.validators.ge(2**20))
    spool_interval_seconds: float = attrs.field(default=0.05, validator=_positive)
    spool_fsync: Literal["normal", "full"] = attrs.field(
        default="normal", validator=attrs.validators.in_(("normal", "full"))
    )

    def evolve(self, **changes: Any) -> DeliveryOptions:
        """Return these options with some changed."""
        return attrs.evolve(self, **changes)
