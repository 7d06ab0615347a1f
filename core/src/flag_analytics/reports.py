"""The vocabulary of delivery: a sink's settings, its ledger, and the reports of ``flush`` and ``close``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import attrs

from .frozen import FrozenEvent

__all__ = ["DeadLetter", "DeliveryOptions", "DeliveryReport", "DeliveryStats", "SinkStats"]

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
        sigterm: ``chain`` lets a server's own handler of SIGTERM stop it, and drains before the process dies of that
            signal; ``off`` leaves signals alone.
        durability: ``memory``, or ``spool``: events are first written to a file, and survive a crash of the process.
        spool_directory: Where spools are kept, in a folder of the user's own where others can write to it; by
            default a directory of the user's own under the system's directory for state.
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
    sigterm: Literal["chain", "off"] = attrs.field(default="chain", validator=attrs.validators.in_(("chain", "off")))
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


@attrs.frozen
class DeadLetter:
    """An event that a sink refused for good, with the class and code of the refusal; never the driver's own words."""

    sink: str
    event: FrozenEvent = attrs.field(repr=False)
    error: str
    code: str
    batch_id: str
    at: float
    """When it was given up, in seconds since the Unix epoch."""


@attrs.frozen
class SinkStats:
    """One sink's ledger at one moment. Always: accepted + recovered = delivered + pending + dropped + dead.

    Attributes:
        accepted: Events meant for this sink since the start.
        recovered: Events taken over from the spools of earlier processes.
        delivered: Events the sink has stored.
        queued: Events that wait in memory.
        in_flight: Events that were taken off the log and are not resolved yet, those that are set aside among them.
        set_aside: Events that failed again and again and are tried alone, while the others flow.
        spooled: Events that wait on disk.
        dropped: Events that were lost, by reason: ``overflow``, ``closed``, ``spool_full``, ``spool_corrupt``,
            ``spool_gone``, ``error``, or left out by the sink's own processors: ``filtered``.
        dead: Events that the sink refused for good; they are kept as dead letters where there is a place for them.
        retries: Write attempts after the first one of a batch.
        commit_unknown: Attempts after which it was not known whether the batch was stored.
        attempts: Write attempts.
        backlog_bytes: What waits in memory, in bytes.
        backlog_age_seconds: How long the oldest waiting event has been waiting; None without any.
        last_success: When a batch was last stored, in seconds since the Unix epoch.
        breaker: ``closed`` (all well), ``open`` (pausing after a failure), ``half_open`` (trying one batch) or
            ``halted`` (the sink said that its configuration is wrong; ``reopen`` tries again).
        last_error: Class and code of the latest failure; None if there was none since the last success.
        position: Every event of the log before this position is resolved for this sink.
        lag: How many events the position is behind the end of the log, or logs.
    """

    accepted: int = 0
    recovered: int = 0
    delivered: int = 0
    queued: int = 0
    in_flight: int = 0
    set_aside: int = 0
    spooled: int = 0
    dropped: Mapping[str, int] = attrs.field(factory=dict[str, int])
    dead: int = 0
    retries: int = 0
    commit_unknown: int = 0
    attempts: int = 0
    backlog_bytes: int = 0
    backlog_age_seconds: float | None = None
    last_success: float | None = None
    breaker: str = "closed"
    last_error: str | None = None
    position: int = 0
    lag: int = 0

    @property
    def pending(self) -> int:
        """Events that are neither stored nor lost yet."""
        return self.queued + self.in_flight + self.spooled

    @property
    def filtered(self) -> int:
        """Events that the sink's own processors dropped, on purpose; they are among ``dropped``."""
        return self.dropped.get("filtered", 0)

    @property
    def lost(self) -> int:
        """Dropped events without those that were filtered."""
        return sum(self.dropped.values()) - self.filtered

    def balanced(self) -> bool:
        """Return whether the equation of the ledger holds."""
        resolved = self.delivered + self.pending + sum(self.dropped.values()) + self.dead
        return self.accepted + self.recovered == resolved


@attrs.frozen
class DeliveryStats:
    """What a pipeline or a collector has done since its start.

    Attributes:
        recorded: Calls of ``record``. Always: recorded = accepted + the sum of ``refused``.
        accepted: Events taken for at least one sink.
        refused: Events taken for none, by reason: ``overflow``, ``closed``, ``filtered``, ``error``.
        sanitised: Changes that bringing events into canonical form took, by kind (see ``flag_analytics.canonical``).
        sinks: The ledger of each sink, by its name in configuration.
        future_events: Stored events dated in the future, where a source was asked.
        spool: What happened to the spool: ``errors``, and files that were ``adopted``, ``quarantined`` or ``skipped``;
            empty without one.
    """

    recorded: int
    accepted: int
    refused: Mapping[str, int]
    sanitised: Mapping[str, int]
    sinks: Mapping[str, SinkStats]
    future_events: int | None = None
    spool: Mapping[str, int] = attrs.field(factory=dict[str, int])

    def balanced(self) -> bool:
        """Return whether every equation of the ledger holds."""
        return self.recorded == self.accepted + sum(self.refused.values()) and all(
            sink.balanced() for sink in self.sinks.values()
        )

    def health(self, *, closed: bool) -> dict[str, Any]:
        """Return ``status`` (``ok``, ``degraded``, ``closed``) and the state of each sink."""
        sinks = {
            name: {
                "status": "ok" if sink.breaker == "closed" and not sink.set_aside else "degraded",
                "breaker": sink.breaker,
                "pending": sink.pending,
                "set_aside": sink.set_aside,
                "lag": sink.lag,
                "backlog_bytes": sink.backlog_bytes,
                "backlog_age_seconds": sink.backlog_age_seconds,
                "last_success": sink.last_success,
                "last_error": sink.last_error,
                "dropped": sum(sink.dropped.values()),
                "filtered": sink.filtered,
                "dead": sink.dead,
            }
            for name, sink in self.sinks.items()
        }
        degraded = any(sink["status"] != "ok" for sink in sinks.values())
        return {"status": "closed" if closed else "degraded" if degraded else "ok", "sinks": sinks}

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain dicts and numbers."""
        fields = attrs.asdict(self)
        for name, sink in self.sinks.items():
            fields["sinks"][name]["pending"] = sink.pending
        return fields


@attrs.frozen
class DeliveryReport:
    """What ``flush`` or ``close`` achieved; true if every event it was asked about is stored.

    Attributes:
        stored: Events delivered since the start, over all sinks.
        spooled: Events that stay on disk for the next start.
        pending: Events that still wait in memory. After ``close`` there are none: they are under ``dropped``.
        dropped: Events lost since the start, by reason, over all sinks.
        dead: Events refused for good since the start.
        complete: Whether all that was accepted before the call is stored.
        sinks: The same by sink.
    """

    stored: int
    spooled: int
    pending: int
    dropped: Mapping[str, int]
    dead: int
    complete: bool
    sinks: Mapping[str, SinkStats]

    @classmethod
    def of(cls, sinks: Mapping[str, SinkStats], *, complete: bool) -> DeliveryReport:
        """Return the report that sums up these ledgers."""
        dropped: Counter[str] = Counter()
        for sink in sinks.values():
            dropped.update(sink.dropped)
        return cls(
            stored=sum(sink.delivered for sink in sinks.values()),
            spooled=sum(sink.spooled for sink in sinks.values()),
            pending=sum(sink.queued + sink.in_flight for sink in sinks.values()),
            dropped=dict(dropped),
            dead=sum(sink.dead for sink in sinks.values()),
            complete=complete,
            sinks=dict(sinks),
        )

    def __bool__(self) -> bool:
        return self.complete
