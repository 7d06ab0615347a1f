"""What became of every event, as values: the ledger of a sink, and the reports of ``flush`` and ``close``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs

from ..normal_form import FrozenEvent

__all__ = ["DeadLetter", "DeliveryReport", "DeliveryStats", "SinkStats"]


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
        accepted: Events taken for this sink since the start.
        recovered: Events taken over from the spools of processes that are gone.
        delivered: Events the sink has stored.
        queued: Events that wait in memory.
        in_flight: Events in the batch that is being written or retried.
        spooled: Events that wait on disk.
        dropped: Events that were lost, by reason: ``overflow``, ``closed``, ``spool_full``, ``spool_corrupt``,
            ``spool_gone``, ``error``.
        dead: Events that the sink refused for good; they are kept as dead letters where there is a place for them.
        retries: Write attempts after the first one of a batch.
        commit_unknown: Attempts after which it was not known whether the batch was stored.
        attempts: Write attempts.
        backlog_bytes: What waits in memory, in bytes.
        backlog_age_seconds: How long the oldest waiting event has been waiting; None without any.
        last_success: When a batch was last stored, in seconds since the Unix epoch.
        breaker: ``closed`` (all well), ``open`` (pausing after a failure) or ``half_open`` (trying one batch).
        last_error: Class and code of the latest failure; None if there was none since the last success.
    """

    accepted: int = 0
    recovered: int = 0
    delivered: int = 0
    queued: int = 0
    in_flight: int = 0
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

    @property
    def pending(self) -> int:
        """Events that are neither stored nor lost yet."""
        return self.queued + self.in_flight + self.spooled

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
        sanitised: Changes that bringing events into normal form took, by kind (see ``flag_analytics.normal_form``).
        sinks: The ledger of each sink, by its name in configuration.
        future_events: Stored events dated in the future, where a source was asked.
        spool: What befell the spool: ``errors``, ``adopted`` and ``quarantined`` files; empty without one.
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

    def __bool__(self) -> bool:
        return self.complete
