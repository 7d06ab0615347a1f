"""The reports of the exporter and the delivery engine on themselves, as ``flag_analytics_*`` metrics."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol

import attrs
from flag_analytics.processes import new_lock
from flag_analytics.reports import DeliveryStats, SinkStats
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric

from .labels import label_text
from .series import metric_stem

__all__ = ["Ledgers", "SelfReport", "combine", "self_metrics"]

_DROP_REASONS = ("overflow", "closed", "filtered", "spool_full", "error")
_REFUSAL_REASONS = ("overflow", "closed", "filtered", "error")
"""Shown at zero from the start: a rate needs a value before the first loss."""
_BREAKER_STATES = ("closed", "half_open", "open", "halted")
"""From good to bad."""


@attrs.frozen
class SelfReport:
    """The report of one process, or the sum of several.

    Attributes:
        overflow: Events with ``__other__`` in a label, by label.
        sanitised: Changes to the fields of events, by kind; ``label``: text that was not fit to be a label.
        flag_keys: Flag keys with labels of their own.
        scrape_failures: Scrapes that the aggregator had no answer for, by cause.
        scrape_success: When the aggregator last answered, in seconds since the Unix epoch.
        ledger: The delivery engine's ledger.
        files_skipped: How many times a scrape skipped a file of the directory; None where there is no directory.
    """

    overflow: dict[str, int] = attrs.field(factory=dict[str, int])
    sanitised: dict[str, int] = attrs.field(factory=dict[str, int])
    flag_keys: int = 0
    scrape_failures: dict[str, int] = attrs.field(factory=dict[str, int])
    scrape_success: float | None = None
    ledger: DeliveryStats | None = None
    files_skipped: int | None = None

    def of_the_dead(self) -> SelfReport:
        """Return the report of a dead process: it has no backlog, and no open breaker."""
        if self.ledger is None:
            return self
        sinks = {
            name: attrs.evolve(
                sink,
                queued=0,
                in_flight=0,
                set_aside=0,
                spooled=0,
                lag=0,
                backlog_bytes=0,
                backlog_age_seconds=None,
                breaker="closed",
            )
            for name, sink in self.ledger.sinks.items()
        }
        ledger: DeliveryStats = attrs.evolve(self.ledger, sinks=sinks)
        return attrs.evolve(self, ledger=ledger)


def combine_reports(reports: Sequence[SelfReport]) -> SelfReport:
    """Return the sum of several reports: counters added up, of other figures the largest."""
    return SelfReport(
        add_up([report.overflow for report in reports]),
        add_up([report.sanitised for report in reports]),
        max((report.flag_keys for report in reports), default=0),
        add_up([report.scrape_failures for report in reports]),
        max((report.scrape_success for report in reports if report.scrape_success is not None), default=None),
        combine([report.ledger for report in reports if report.ledger is not None]),
        sum(report.files_skipped or 0 for report in reports),
    )


class LedgerOwner(Protocol):
    """A pipeline, as far as its ledger goes."""

    @property
    def closed(self) -> bool: ...

    def stats(self) -> DeliveryStats: ...


class Ledgers:
    """The ledgers of all the pipelines that deliver beside one exporter, as one that only grows."""

    def __init__(self) -> None:
        self._lock = new_lock()
        self._owners: list[LedgerOwner] = []
        self._retired: list[DeliveryStats] = []

    def after_fork_in_child(self) -> None:
        self._lock = new_lock()
        self._retired = []

    def add(self, owner: LedgerOwner) -> None:
        """Include the ledger of ``owner``. Once it is closed and has nothing pending, only its figures are kept."""
        with self._lock:
            self._read_all()
            if owner not in self._owners:
                self._owners.append(owner)

    def read(self) -> DeliveryStats | None:
        """Return the sum of all ledgers; None if there never was one."""
        with self._lock:
            return combine(self._read_all())

    def _read_all(self) -> list[DeliveryStats]:
        current = []
        for owner in list(self._owners):
            closed, stats = owner.closed, owner.stats()
            current.append(stats)
            if closed and not any(sink.pending for sink in stats.sinks.values()):
                self._owners.remove(owner)
                total = combine([*self._retired, stats])
                self._retired = [] if total is None else [total]
                current.pop()
        return [*current, *self._retired]


def combine(ledgers: Sequence[DeliveryStats]) -> DeliveryStats | None:
    """Return the sum of several ledgers: the latest success, the oldest backlog, the worst breaker; None for none."""
    if len(ledgers) < 2:
        return ledgers[0] if ledgers else None
    by_name: dict[str, list[SinkStats]] = {}
    for ledger in ledgers:
        for name, sink in ledger.sinks.items():
            by_name.setdefault(name, []).append(sink)
    return DeliveryStats(
        sum(ledger.recorded for ledger in ledgers),
        sum(ledger.accepted for ledger in ledgers),
        add_up(ledger.refused for ledger in ledgers),
        add_up(ledger.sanitised for ledger in ledgers),
        {name: _combine_sinks(sinks) for name, sinks in by_name.items()},
        max((ledger.future_events for ledger in ledgers if ledger.future_events is not None), default=None),
    )


def add_up(counts: Iterator[Mapping[str, int]] | Sequence[Mapping[str, int]]) -> dict[str, int]:
    """Return the sums of counts by name."""
    total: Counter[str] = Counter()
    for some in counts:
        total.update(some)
    return dict(total)


_SUMMED = (
    "accepted",
    "recovered",
    "delivered",
    "queued",
    "in_flight",
    "set_aside",
    "spooled",
    "dead",
    "retries",
    "commit_unknown",
    "attempts",
    "backlog_bytes",
    "position",
    "lag",
)


def _combine_sinks(sinks: Sequence[SinkStats]) -> SinkStats:
    return SinkStats(
        **{name: sum(getattr(sink, name) for sink in sinks) for name in _SUMMED},
        dropped=add_up([sink.dropped for sink in sinks]),
        backlog_age_seconds=max(
            (sink.backlog_age_seconds for sink in sinks if sink.backlog_age_seconds is not None), default=None
        ),
        last_success=max((sink.last_success for sink in sinks if sink.last_success is not None), default=None),
        breaker=max((sink.breaker for sink in sinks), key=_badness),
        last_error=next((sink.last_error for sink in sinks if sink.last_error is not None), None),
    )


def _badness(breaker: str) -> int:
    return _BREAKER_STATES.index(breaker) if breaker in _BREAKER_STATES else 0


def self_metrics(prefix: str, report: SelfReport) -> Iterator[Metric]:
    """Yield every metric of ``report``; the README lists them."""
    stem = f"{metric_stem(prefix)}flag_analytics_"
    yield _counter(
        f"{stem}prometheus_label_overflow", "Events that had __other__ in a label.", ("label",), report.overflow
    )
    yield _counter(
        f"{stem}prometheus_sanitised",
        "Changes to fields of events, and numbers that are not shared.",
        ("kind",),
        report.sanitised,
    )
    flag_keys = GaugeMetricFamily(f"{stem}prometheus_flag_keys", "Flag keys that have labels of their own.")
    flag_keys.add_metric((), report.flag_keys)
    yield flag_keys
    yield _counter(
        f"{stem}prometheus_aggregator_failures",
        "Scrapes for which the aggregator had no answer in time.",
        ("cause",),
        report.scrape_failures,
    )
    if report.scrape_success is not None:
        answered = GaugeMetricFamily(
            f"{stem}prometheus_aggregator_last_success_timestamp_seconds", "When the aggregator last answered a scrape."
        )
        answered.add_metric((), report.scrape_success)
        yield answered
    if report.files_skipped is not None:
        text = "Files of the shared directory that a scrape skipped: foreign, broken, links, or not readable."
        yield _counter(f"{stem}scrape_files_skipped", text, (), {"": report.files_skipped})
    if report.ledger is not None:
        yield from _ledger_metrics(stem, report.ledger)


def _ledger_metrics(stem: str, ledger: DeliveryStats) -> Iterator[Metric]:
    yield _counter(f"{stem}events_recorded", "Calls of record.", (), {"": ledger.recorded})
    yield _counter(f"{stem}events_accepted", "Events taken for at least one sink.", (), {"": ledger.accepted})
    yield _counter(f"{stem}events_refused", "Events taken for no sink.", ("reason",), _refused(ledger))
    yield _counter(
        f"{stem}events_sanitised", "Changes that bringing events into canonical form took.", ("kind",), ledger.sanitised
    )
    if ledger.future_events is not None:
        future = GaugeMetricFamily(f"{stem}stored_future_events", "Stored events that are dated in the future.")
        future.add_metric((), ledger.future_events)
        yield future
    sinks = {label_text(name): sink for name, sink in ledger.sinks.items()}
    for name, text in (
        ("accepted", "Events taken for this sink."),
        ("recovered", "Events taken over from the spools of dead processes."),
        ("delivered", "Events this sink has stored."),
        ("dead", "Events this sink refused for good."),
        ("retries", "Write attempts after the first one of a batch."),
        ("attempts", "Write attempts."),
        ("commit_unknown", "Write attempts after which it was not known whether the batch was stored."),
    ):
        yield _counter(f"{stem}sink_{name}", text, ("sink",), {key: getattr(sink, name) for key, sink in sinks.items()})
    dropped = CounterMetricFamily(f"{stem}sink_dropped", "Events this sink lost, by reason.", labels=("sink", "reason"))
    pending = GaugeMetricFamily(
        f"{stem}sink_pending_events", "Events that are neither stored nor lost yet.", labels=("sink", "state")
    )
    breaker = GaugeMetricFamily(
        f"{stem}sink_breaker_state", "1 for the state this sink's breaker is in.", labels=("sink", "state")
    )
    set_aside = GaugeMetricFamily(
        f"{stem}sink_set_aside_events", "Pending events that failed repeatedly and are tried alone.", labels=("sink",)
    )
    backlog_bytes = GaugeMetricFamily(
        f"{stem}sink_backlog_bytes", "Events that wait in memory for this sink, in bytes.", labels=("sink",)
    )
    backlog_age = GaugeMetricFamily(
        f"{stem}sink_backlog_age_seconds", "How long the oldest waiting event has been waiting.", labels=("sink",)
    )
    succeeded = GaugeMetricFamily(
        f"{stem}sink_last_success_timestamp_seconds", "When this sink last stored a batch.", labels=("sink",)
    )
    for name, sink in sinks.items():
        for reason, count in (dict.fromkeys(_DROP_REASONS, 0) | dict(sink.dropped)).items():
            dropped.add_metric((name, label_text(reason)), count)
        for state in ("queued", "in_flight", "spooled"):
            pending.add_metric((name, state), getattr(sink, state))
        for state in _BREAKER_STATES:
            breaker.add_metric((name, state), float(sink.breaker == state))
        set_aside.add_metric((name,), sink.set_aside)
        backlog_bytes.add_metric((name,), sink.backlog_bytes)
        backlog_age.add_metric((name,), sink.backlog_age_seconds or 0.0)
        if sink.last_success is not None:
            succeeded.add_metric((name,), sink.last_success)
    yield from (dropped, pending, breaker, set_aside, backlog_bytes, backlog_age, succeeded)


def _refused(ledger: DeliveryStats) -> dict[str, int]:
    return dict.fromkeys(_REFUSAL_REASONS, 0) | dict(ledger.refused)


def _counter(name: str, text: str, labels: tuple[str, ...], values: Mapping[str, float]) -> Metric:
    family = CounterMetricFamily(name, text, labels=labels)
    for label, value in values.items():
        family.add_metric((label_text(label),) if labels else (), value)
    return family
