"""Adds up the values of several processes, and turns them into metrics as prometheus_client's own merge does."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator

from prometheus_client.metrics_core import Metric
from prometheus_client.samples import Sample
from prometheus_client.utils import floatToGoString

from .library_files import MOST_RECENT, SUMMED, Key, Values, parse_key

__all__ = ["Totals"]

Labels = tuple[tuple[str, str], ...]


class Totals:
    """The values of all processes, by kind of file."""

    def __init__(self) -> None:
        self.by_kind: dict[str, Values] = {}
        self._gauges: dict[str, list[tuple[str, Values]]] = {}

    def add(self, kind: str, owner: str, values: Values) -> None:
        """Add one file's values; ``owner`` is the label ``pid`` of gauges that are shown for each process."""
        if kind not in SUMMED and kind != MOST_RECENT:
            self._gauges.setdefault(kind, []).append((owner, values))
            return
        total = self.by_kind.setdefault(kind, {})
        for key, (value, at) in values.items():
            before, then = total.get(key, (0.0, -math.inf))
            if kind in SUMMED:
                total[key] = (before + value, 0.0)
            elif at > then:
                total[key] = (value, at)

    def metrics(self) -> dict[str, Metric]:
        """Return the metrics by name."""
        metrics: dict[str, Metric] = {}
        for kind, values in self.by_kind.items():
            by_metric: defaultdict[str, list[tuple[Key, float]]] = defaultdict(list)
            for text, (value, _) in values.items():
                key = parse_key(text)
                by_metric[key.metric].append((key, value))
            for entries in by_metric.values():
                samples = _histogram(entries) if kind == "histogram" else (_sample(*entry) for entry in entries)
                _start(metrics, kind, entries[0][0]).samples += samples
        for kind, files in self._gauges.items():
            for key, sample in _gauge_samples(kind.rpartition("_")[2].removeprefix("live"), files):
                _start(metrics, "gauge", key).samples.append(sample)
        return metrics


def _start(metrics: dict[str, Metric], kind: str, key: Key) -> Metric:
    metric = metrics.get(key.metric)
    if metric is None:
        metric = metrics[key.metric] = Metric(key.metric, key.help, kind.partition("_")[0])
    return metric


def _sample(key: Key, value: float, *more: tuple[str, str]) -> Sample:
    return Sample(key.sample, dict((*key.labels, *more)), value)


def _histogram(entries: list[tuple[Key, float]]) -> Iterator[Sample]:
    """Yield buckets that include those below them, the count, and the sum."""
    buckets: defaultdict[Labels, dict[float, float]] = defaultdict(dict)
    name = ""
    for key, value in entries:
        upper = dict(key.labels).get("le")
        if upper is None:
            yield _sample(key, value)
        else:
            name = key.metric
            rest = tuple(label for label in key.labels if label[0] != "le")
            buckets[rest][float(upper)] = value
    for labels, by_bound in buckets.items():
        running = 0.0
        for bound, value in sorted(by_bound.items()):
            running += value
            yield Sample(f"{name}_bucket", {**dict(labels), "le": floatToGoString(bound)}, running)  # type: ignore[no-untyped-call]
        yield Sample(f"{name}_count", dict(labels), running)


def _gauge_samples(mode: str, files: list[tuple[str, Values]]) -> Iterator[tuple[Key, Sample]]:
    if mode == "all":
        for owner, values in files:
            for text, (value, _) in values.items():
                key = parse_key(text)
                yield key, _sample(key, value, ("pid", owner))
        return
    found: defaultdict[str, list[tuple[float, float]]] = defaultdict(list)
    for _, values in files:
        for text, numbers in values.items():
            found[text].append(numbers)
    for text, entries in found.items():
        key = parse_key(text)
        yield key, _sample(key, _combined(mode, entries))


def _combined(mode: str, entries: list[tuple[float, float]]) -> float:
    """Return the value of a gauge over processes; an entry is a value and its time."""
    if mode == "mostrecent":
        return max(entries, key=lambda entry: entry[1])[0]
    values = [value for value, _ in entries]
    return math.fsum(values) if mode == "sum" else min(values) if mode == "min" else max(values)
