"""Several worker processes, one set of metrics, by prometheus_client's rules for ``PROMETHEUS_MULTIPROC_DIR``.

Counters and the histogram are the library's own, so that its ``MultiProcessCollector`` adds them up. What cannot be
added up lies beside them in the same directory, in files of ours: unique users as counts that can be merged, and each
process's report on itself. The error rate is computed from the merged counters.
"""

from __future__ import annotations

import contextlib
import math
import os
import secrets
import threading
import weakref
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import attrs
import msgspec
from flag_analytics.events import EvaluationReason
from flag_analytics.reports import DeliveryStats
from prometheus_client import Counter, Gauge, Histogram, values
from prometheus_client.metrics_core import Metric
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.samples import Sample

from .labels import OTHER, LabelCaps
from .self_metrics import SelfReport, add_up, combine
from .series import Gauges, MetricNames, gauge_metrics
from .unique_users import UniqueUsers, keyed_hash
from .users_file import UsersFile, read_users

__all__ = ["SharedDirectory", "SharedSeries", "shared_directory"]

_PUBLISH_SECONDS = 1.0


def shared_directory() -> SharedDirectory | None:
    """Return the directory that processes share; None where prometheus_client keeps values in memory.

    Like the library, this goes by whether ``PROMETHEUS_MULTIPROC_DIR`` was set when the library was imported.

    Raises:
        ValueError: it names no directory.
    """
    path = os.environ.get("PROMETHEUS_MULTIPROC_DIR")
    if path is None or not getattr(values.ValueClass, "_multiprocess", False):
        return None
    if not Path(path).is_dir():
        raise ValueError("PROMETHEUS_MULTIPROC_DIR is not a directory: make it, empty, before the application starts")
    return SharedDirectory(Path(path))


class SharedDirectory:
    """The files of ours in the directory. Their names end on neither ``.db`` nor anything the library reads."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def new_file(self, stem: str, what: str, suffix: str) -> Path:
        """Return the path of a file of this process; process ids come again, so they are not enough of a name."""
        return self.path / f"{stem}flag_analytics_{what}_{os.getpid()}_{secrets.token_hex(4)}.{suffix}"

    def files(self, stem: str, what: str, suffix: str) -> Iterator[Path]:
        start = f"{stem}flag_analytics_{what}_"
        with contextlib.suppress(OSError):
            for path in sorted(self.path.iterdir()):
                if path.name.startswith(start) and path.name.endswith(f".{suffix}"):
                    yield path

    def secret(self) -> bytes:
        """Return the key of the hash function that all processes share, making it if this one is the first."""
        path = self.path / "flag_analytics.key"
        with contextlib.suppress(FileNotFoundError):
            return path.read_bytes()
        mine = self.path / f"flag_analytics.key.{secrets.token_hex(8)}"
        mine.touch(mode=0o600)
        mine.write_bytes(secrets.token_bytes(32))
        # Linked when complete: whoever comes second finds a whole key, and uses it.
        with contextlib.suppress(FileExistsError):
            os.link(mine, path)
        mine.unlink()
        return path.read_bytes()


class _SharedFlag:
    __slots__ = ("lock", "observe", "users")

    def __init__(self, observe: Callable[[float], None], users: UniqueUsers) -> None:
        self.lock = threading.Lock()
        self.observe = observe
        self.users = users


class _SharedCell:
    __slots__ = ("_failed", "_flag", "_increment")

    def __init__(self, flag: _SharedFlag, increment: Callable[[], None], failed: Callable[[], None]) -> None:
        self._flag = flag
        self._increment = increment
        self._failed = failed

    def add(self, seconds: float, targeting_key: str | None) -> None:
        flag = self._flag
        try:
            self._increment()
            if 0.0 < seconds < math.inf:
                flag.observe(seconds)
            if targeting_key:
                with flag.lock:
                    flag.users.add(targeting_key)
        except Exception:  # the library's files: no space, or the directory is gone
            self._failed()


class SharedSeries:
    """The numbers of this process as the library's metrics, and those of all processes when they are scraped."""

    def __init__(
        self, names: MetricNames, bounds: tuple[float, ...], caps: LabelCaps, directory: SharedDirectory
    ) -> None:
        self.names = names
        self._caps = caps
        self._directory = directory
        self._stem = names.evaluations.removesuffix("feature_flag_evaluations")
        self._hash = keyed_hash(directory.secret())
        labels = ("flag_key", "reason", "variant")
        self._evaluations = Counter(names.evaluations, MetricNames.EVALUATIONS_HELP, labels, registry=None)
        self._durations = Histogram(
            names.duration, MetricNames.DURATION_HELP, ("flag_key",), registry=None, buckets=bounds
        )
        self._users_gauge, self._rate_gauge = (
            Gauge(name, text, ("flag_key",), registry=None, multiprocess_mode="mostrecent")
            for name, text in (
                (names.unique_users, MetricNames.UNIQUE_USERS_HELP),
                (names.error_rate, MetricNames.ERROR_RATE_HELP),
            )
        )
        self.write_failures = 0
        """Events, and reports, of which something could not be written to the directory."""
        self.clear()

    def clear(self) -> None:
        """Begin files of this process; the library does so itself when it sees another process id."""
        self._flags: dict[str, _SharedFlag] = {}
        self._cells: dict[tuple[str, str, str], _SharedCell] = {}
        self._users_file: UsersFile | None = None
        self._report_path: Path | None = None
        self._publishing = threading.Lock()
        self._publisher: threading.Thread | None = None
        self.write_failures = 0

    def cell(self, flag_key: str, reason: str, variant: str) -> _SharedCell:
        key = (flag_key, reason, variant)
        cell = self._cells.get(key)
        if cell is None:
            flag = self._flags.get(flag_key)
            if flag is None:
                observe = self._durations.labels(flag_key).observe
                flag = self._flags[flag_key] = _SharedFlag(observe, self._new_users(flag_key))
            cell = self._cells[key] = _SharedCell(flag, self._evaluations.labels(*key).inc, self._count_failure)
        return cell

    def _new_users(self, flag_key: str) -> UniqueUsers:
        try:
            if self._users_file is None:
                path = self._directory.new_file(self._stem, "users", "sketch")
                self._users_file = UsersFile(path, self._caps.max_flag_keys + 1)
            return self._users_file.add(flag_key, self._hash)
        except OSError:
            self._count_failure()
            return UniqueUsers(self._hash)

    def _count_failure(self) -> None:
        self.write_failures += 1

    def users(self) -> dict[str, int]:
        counts = {}
        for flag_key, flag in list(self._flags.items()):
            with flag.lock:
                if users := flag.users.count():
                    counts[flag_key] = users
        return counts

    def error_rates(self) -> dict[str, float]:
        return _error_rates(next(iter(self._evaluations.collect())))

    def collect(self, gauges: Gauges) -> Iterator[Metric]:
        """Yield what this process counted itself."""
        yield from self._evaluations.collect()
        yield from self._durations.collect()
        yield from gauge_metrics(self.names, gauges)

    def set_gauges(self, flag_key: str, unique_users: float, error_rate: float) -> None:
        """Keep values for all processes to show; the latest stand."""
        self._users_gauge.labels(flag_key).set(unique_users)
        self._rate_gauge.labels(flag_key).set(error_rate)

    def publish(self, report: Callable[[], SelfReport], *, now: bool = False) -> None:
        """Write this process's report once a second from now on, and at once if ``now``."""
        if self._publisher is None:
            with self._publishing:
                if self._publisher is None:
                    self._publisher = threading.Thread(
                        target=_publish_for_ever,
                        args=(weakref.ref(self), weakref.WeakMethod(report)),
                        name="flag-analytics-prometheus-report",
                        daemon=True,
                    )
                    self._publisher.start()
        if now:
            self._write(report())

    def _write(self, report: SelfReport) -> None:
        if self.write_failures:
            report = attrs.evolve(report, sanitised={**report.sanitised, "not_shared": self.write_failures})
        try:
            with self._publishing:
                if self._report_path is None:
                    self._report_path = self._directory.new_file(self._stem, "report", "json")
                draft = self._report_path.with_suffix(".draft")
                draft.write_bytes(msgspec.json.encode(report))
                draft.replace(self._report_path)
        except OSError:
            self._count_failure()

    def collect_merged(self, gauges: Gauges | None) -> Iterator[Metric]:
        """Yield every metric in the directory, ours within their caps and with the gauges of all processes."""
        synced = {self.names.unique_users: dict[str, float](), self.names.error_rate: dict[str, float]()}
        observed = Gauges()
        for metric in _merge_files(self._directory.path):
            if metric.name in synced:
                synced[metric.name] = {sample.labels["flag_key"]: sample.value for sample in metric.samples}
                continue
            if metric.name == self.names.evaluations:
                observed.error_rates.update(_error_rates(metric))
                _merge_overflow(metric, self._caps)
            elif metric.name == self.names.duration:
                _merge_overflow(metric, self._caps)
            yield metric
        if gauges is None:
            users = {key: float(count) for key, count in self._merged_users().items()}
            gauges = Gauges(
                {**users, **synced[self.names.unique_users]},
                {**observed.error_rates, **synced[self.names.error_rate]},
            )
        yield from gauge_metrics(self.names, gauges)

    def _merged_users(self) -> dict[str, int]:
        flags: dict[str, UniqueUsers] = {}
        for path in self._directory.files(self._stem, "users", "sketch"):
            read_users(path, self._hash, flags)
        kept = set(sorted(flags.keys() - {OTHER})[: self._caps.max_flag_keys])
        for key in flags.keys() - kept - {OTHER}:
            flags.setdefault(OTHER, UniqueUsers(self._hash)).merge(flags.pop(key))
        return {key: users.count() for key, users in flags.items() if users.count()}

    def merged_report(self) -> SelfReport:
        """Return the sum of the reports; what only the living have (a backlog, a breaker) is theirs."""
        reports = []
        for path in self._directory.files(self._stem, "report", "json"):
            with contextlib.suppress(OSError, ValueError, msgspec.MsgspecError):
                report = msgspec.json.decode(path.read_bytes(), type=SelfReport)
                pid = int(path.stem.split("_")[-2])
                reports.append(report if _alive(pid) else _of_the_dead(report))
        ledgers = [report.ledger for report in reports if report.ledger is not None]
        return SelfReport(
            add_up([report.overflow for report in reports]),
            add_up([report.sanitised for report in reports]),
            max((report.flag_keys for report in reports), default=0),
            add_up([report.scrape_failures for report in reports]),
            max((report.scrape_success for report in reports if report.scrape_success is not None), default=None),
            combine(ledgers),
        )


def _publish_for_ever(series: weakref.ref[SharedSeries], report: weakref.WeakMethod[Callable[[], SelfReport]]) -> None:
    pause = threading.Event()
    while not pause.wait(_PUBLISH_SECONDS):
        target, ask = series(), report()
        if target is None or ask is None:
            return
        target._write(ask())  # noqa: SLF001 - this is its own thread
        del target, ask


def _of_the_dead(report: SelfReport) -> SelfReport:
    if report.ledger is None:
        return report
    sinks = {
        name: attrs.evolve(
            sink, queued=0, in_flight=0, spooled=0, backlog_bytes=0, backlog_age_seconds=None, breaker="closed"
        )
        for name, sink in report.ledger.sinks.items()
    }
    ledger: DeliveryStats = attrs.evolve(report.ledger, sinks=sinks)
    return attrs.evolve(report, ledger=ledger)


def _alive(pid: int) -> bool:
    if os.name == "nt":
        return True  # asking would need another library; a report of the dead then shows its last backlog
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _merge_files(path: Path) -> Iterable[Metric]:
    merged: Iterable[Metric] = MultiProcessCollector(None, str(path)).collect()  # type: ignore[no-untyped-call]
    return merged


def _error_rates(evaluations: Metric) -> dict[str, float]:
    totals: defaultdict[str, float] = defaultdict(float)
    errors: defaultdict[str, float] = defaultdict(float)
    for sample in evaluations.samples:
        if sample.name.endswith("_total"):
            totals[sample.labels["flag_key"]] += sample.value
            if sample.labels["reason"] == EvaluationReason.ERROR:
                errors[sample.labels["flag_key"]] += sample.value
    return {flag_key: errors[flag_key] / total for flag_key, total in totals.items() if total}


def _merge_overflow(metric: Metric, caps: LabelCaps) -> None:
    """Keep the caps: each process may have admitted other flags than the rest."""
    keys = sorted({sample.labels["flag_key"] for sample in metric.samples} - {OTHER})
    kept = {*keys[: caps.max_flag_keys], OTHER}
    sums: defaultdict[tuple[str, tuple[tuple[str, str], ...]], float] = defaultdict(float)
    for sample in metric.samples:
        labels = sample.labels
        if labels["flag_key"] not in kept:
            labels = {**labels, "flag_key": OTHER}
            if "variant" in labels:
                labels["variant"] = OTHER
        sums[sample.name, tuple(labels.items())] += sample.value
    metric.samples = [Sample(name, dict(labels), value) for (name, labels), value in sums.items()]
