"""Several worker processes, one set of metrics, by prometheus_client's rules for ``PROMETHEUS_MULTIPROC_DIR``.

Each process counts in memory and keeps its numbers in files of the library's format, so that the library's own
``MultiProcessCollector`` adds them up, too. Unique users and each process's report on itself lie beside them, in files
of our own. A scrape adds up the files of the others and the memory of this process.
"""

from __future__ import annotations

import secrets
import time
import weakref
from collections.abc import Callable, Iterator

import attrs
import msgspec
from flag_analytics.processes import new_lock, sleep, start_thread
from prometheus_client.metrics_core import Metric

from .labels import LabelCaps
from .library_files import MOST_RECENT, Key, ValuesFile
from .merged import AllProcesses
from .self_metrics import SelfReport, combine_reports
from .series import Cell, Gauges, LocalSeries, MetricNames, error_rates, flag_metrics, gauge_metrics
from .shared_directory import SharedDirectory
from .unique_users import UniqueUsers, keyed_hash
from .users_file import UsersFile

__all__ = ["SharedSeries"]

_PUBLISH_SECONDS = 1.0


class SharedSeries:
    """The numbers of this process, which others can read, and those of all processes when they are scraped.

    Args:
        names: The names of the metrics.
        buckets: The upper bounds of the duration histogram, in seconds.
        caps: The most label values there can be, for this process and once more for the merged metrics.
        directory: The directory that the processes share.
    """

    def __init__(
        self, names: MetricNames, buckets: tuple[float, ...], caps: LabelCaps, directory: SharedDirectory
    ) -> None:
        self.names = names
        self._caps = caps
        self._directory = directory
        self._hash = keyed_hash(directory.secret())
        self._all = AllProcesses(directory, names, caps, self._hash)
        self._local = LocalSeries(names, buckets, self._new_users, self._writer, max_unsettled=1)
        self.clear()

    def clear(self) -> None:
        """Begin files of this process, as the child of a fork does."""
        self._local.clear()
        self._files: dict[str, ValuesFile] = {}
        self._gauges: dict[Key, Callable[[float, float], None]] = {}
        self._users_file: UsersFile | None = None
        self._report_name = ""
        self._publishing = new_lock()
        self._publisher: object | None = None
        self.write_failures = 0
        """Numbers, and reports, that could not be written to the directory."""

    def cell(self, flag_key: str, reason: str, variant: str) -> Cell:
        self._directory.join()
        return self._local.cell(flag_key, reason, variant)

    def users(self) -> dict[str, int]:
        return self._local.users()

    def collect(self) -> Iterator[Metric]:
        return self._local.collect()

    def set_gauges(self, flag_key: str, unique_users: float, error_rate: float) -> None:
        """Keep values for all processes to show; the latest stand. The caller holds the owner's lock."""
        self._directory.join()
        now = time.time()
        for name, text, value in (
            (self.names.unique_users, MetricNames.UNIQUE_USERS_HELP, unique_users),
            (self.names.error_rate, MetricNames.ERROR_RATE_HELP, error_rate),
        ):
            key = Key(name, name, (("flag_key", flag_key),), text)
            write = self._gauges.get(key)
            if write is None:
                write = self._gauges[key] = self._file(MOST_RECENT).writer(key.text())
            write(value, now)

    def _writer(self, kind: str, name: str, text: str, sample: str, labels: dict[str, str]) -> Callable[[float], None]:
        write = self._file(kind).writer(Key(name, sample, tuple(labels.items()), text).text())
        return lambda value: write(value, 0.0)

    def _file(self, kind: str) -> ValuesFile:
        file = self._files.get(kind)
        if file is None:
            name = f"{kind}_flag-analytics-{self._directory.owner}-{secrets.token_hex(2)}.db"
            file = self._files[kind] = ValuesFile(self._directory.path / name, self._count_failure)
        return file

    def _new_users(self, flag_key: str) -> UniqueUsers:
        try:
            if self._users_file is None:
                path = self._directory.path / self._all.own_name("users", "sketch")
                self._users_file = UsersFile(path, self._caps.max_flag_keys + 1)
            return self._users_file.add(flag_key, self._hash)
        except OSError:
            self._count_failure()
            return UniqueUsers(self._hash)

    def _count_failure(self) -> None:
        self.write_failures += 1

    def publish(self, report: Callable[[], SelfReport], *, now: bool = False) -> None:
        """Write this process's report once a second from now on, and at once if ``now``."""
        if self._publisher is None:
            with self._publishing:
                if self._publisher is None:
                    self._publisher = start_thread(
                        _publish_for_ever, weakref.ref(self), weakref.WeakMethod(report), name="prometheus-report"
                    )
        if now:
            self._write_report(report())

    def _write_report(self, report: SelfReport) -> None:
        owner = self._directory.join()
        with self._publishing:
            if not self._report_name:
                self._report_name = self._all.own_name("report", "json")
            draft = self._directory.path / f"{self._report_name}.{owner}.draft"
            try:
                draft.write_bytes(msgspec.json.encode(report))
                draft.replace(self._directory.path / self._report_name)
            except OSError:
                self._count_failure()

    def complete(self, report: SelfReport) -> SelfReport:
        """Return the report with the failures to write to and to read from the directory."""
        sanitised = dict(report.sanitised)
        if self.write_failures:
            sanitised["not_shared"] = self.write_failures
        return attrs.evolve(report, sanitised=sanitised, files_skipped=self._directory.skipped)

    def collect_merged(self, gauges: Gauges | None) -> Iterator[Metric]:
        """Yield every metric in the directory, ours within their caps and with the gauges of all processes."""
        own = {file.path.name for file in self._files.values()}
        if self._users_file is not None:
            own.add(self._users_file.path.name)
        totals, users = self._all.read(own)
        for flag_key, observed in self._local.flag_users():  # before the values are copied: it adds up all events
            users.setdefault(flag_key, UniqueUsers(self._hash)).merge(observed)
        for kind, file in self._files.items():
            totals.add(kind, "", file.values.copy())
        self._all.cap(totals)
        metrics = {metric.name: metric for metric in flag_metrics(self.names)} | totals.metrics()
        set_users = _by_flag(metrics.pop(self.names.unique_users, None))
        set_rates = _by_flag(metrics.pop(self.names.error_rate, None))
        yield from metrics.values()
        if gauges is None:
            counts = {key: float(count) for key, some in self._all.cap_users(users).items() if (count := some.count())}
            rates = error_rates(metrics[self.names.evaluations], metrics[self.names.errors])
            gauges = Gauges({**counts, **set_users}, {**rates, **set_rates})
        yield from gauge_metrics(self.names, gauges)

    def merged_report(self, own: SelfReport) -> SelfReport:
        """Return the sum of the reports of all processes."""
        others = self._all.read_reports(self._report_name)
        return combine_reports([self.complete(own), *others])

    def fold_if_free(self) -> None:
        self._all.fold_if_free()


def _by_flag(gauge: Metric | None) -> dict[str, float]:
    samples = [] if gauge is None else gauge.samples
    return {sample.labels["flag_key"]: sample.value for sample in samples if "flag_key" in sample.labels}


def _publish_for_ever(series: weakref.ref[SharedSeries], report: weakref.WeakMethod[Callable[[], SelfReport]]) -> None:
    while True:
        sleep(_PUBLISH_SECONDS)
        target, ask = series(), report()
        if target is None or ask is None:
            return
        target.publish(ask, now=True)
        target.fold_if_free()
        del target, ask
