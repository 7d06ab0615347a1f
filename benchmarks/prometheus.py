"""The cost of the Prometheus exporter for its caller, and of a scrape with hostile labels."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from itertools import repeat

from flag_analytics.events import FlagEvaluationEvent
from flag_analytics_prometheus import DEFAULT_DURATION_BUCKETS, PrometheusExporter
from prometheus_client import CollectorRegistry, Counter, Histogram

from ._harness import Contender, Figure, Limit, Table, Timed, awaits, calls, compare, installed, judge
from ._samples import EVENT

_HOSTILE_EVENTS = 1_000_000
_HOSTILE_FLAG_KEYS = 50_000


def record() -> Table:
    """Time the caller's cost of one event: one user seen before, then a new user each time."""
    exporter = PrometheusExporter(CollectorRegistry())
    newcomers = PrometheusExporter(CollectorRegistry())
    contenders = [
        Contender("prometheus_client counter and histogram, cached children", _cached_children()),
        Contender("flag-analytics record_nowait", calls(exporter.record_nowait, EVENT)),
        Contender("flag-analytics await record", awaits(exporter.record, EVENT)),
        Contender("flag-analytics record_nowait, always another user", _other_users(newcomers), most=100_000),
    ]
    notes = []
    if installed("litestar_flags"):
        contenders.append(Contender("litestar-flags await record", _litestar_flags()))
    else:
        notes.append("not installed: litestar_flags")
    peer = "prometheus_client counter and histogram, cached children"
    return compare(
        "PrometheusExporter.record",
        contenders,
        limits=[
            Limit("flag-analytics record_nowait", at_most=0.6, times=peer),
            Limit("flag-analytics await record", at_most=0.7, times=peer),
            Limit("flag-analytics record_nowait, always another user", at_most=0.9, times=peer),
            Limit("litestar-flags await record", at_least=5.0, times="flag-analytics await record"),
        ],
        notes=notes,
    )


def hostile_labels() -> Table:
    """Feed 1,000,000 events of 50,000 hostile flag keys and 1,000,000 users, and scrape; each exporter on its own."""
    figures = _hostile("flag-analytics", limits=True)
    notes = []
    if installed("litestar_flags"):
        figures += _hostile("litestar-flags", limits=False)
    else:
        notes.append("not installed: litestar_flags")
    return Table(
        f"{_HOSTILE_EVENTS:,} events, {_HOSTILE_FLAG_KEYS:,} hostile flag keys, {_HOSTILE_EVENTS:,} users",
        figures=figures,
        verdicts=judge(figures),
        notes=notes,
    )


def _cached_children() -> Timed:
    registry = CollectorRegistry()
    counter = Counter("evaluations", "", ["flag_key", "reason", "variant"], registry=registry)
    histogram = Histogram("duration", "", ["flag_key"], registry=registry, buckets=DEFAULT_DURATION_BUCKETS)
    count = counter.labels(EVENT.flag_key, str(EVENT.reason), EVENT.variant).inc
    observe = histogram.labels(EVENT.flag_key).observe

    def both() -> None:
        count()
        observe(0.0015)

    return calls(both)


def _other_users(exporter: PrometheusExporter) -> Timed:
    from time import perf_counter_ns

    serial = iter(range(10**9))

    def timed(operations: int) -> int:
        events = [
            FlagEvaluationEvent(
                EVENT.timestamp, EVENT.flag_key, True, EVENT.reason, EVENT.variant, f"user-{number}", {}, 1.5
            )
            for number, _ in zip(serial, repeat(None, operations), strict=False)
        ]
        record_nowait = exporter.record_nowait
        started = perf_counter_ns()
        for event in events:
            record_nowait(event)
        return perf_counter_ns() - started

    return timed


def _litestar_flags() -> Timed:
    from litestar_flags.analytics import FlagEvaluationEvent as TheirEvent
    from litestar_flags.analytics import PrometheusExporter as TheirExporter
    from litestar_flags.types import EvaluationReason as TheirReason

    exporter = TheirExporter(registry=CollectorRegistry())
    event = TheirEvent(
        EVENT.timestamp,
        EVENT.flag_key,
        True,
        TheirReason.TARGETING_MATCH,
        EVENT.variant,
        EVENT.targeting_key,
        dict(EVENT.context_attributes),
        EVENT.evaluation_duration_ms,
    )
    return awaits(exporter.record, event)


def _hostile(contender: str, *, limits: bool) -> list[Figure]:
    command = [sys.executable, "-m", "benchmarks.prometheus", contender]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    scrape_ms, scrape_mb, memory_mb, error, seconds = (float(word) for word in output.split())
    return [
        Figure(f"{contender}: scrape, fastest of 5", scrape_ms, "ms", at_most=200.0 if limits else None),
        Figure(f"{contender}: size of a scrape", scrape_mb, "MB", at_most=5.0 if limits else None),
        Figure(f"{contender}: memory of the exporter", memory_mb, "MiB", at_most=64.0 if limits else None),
        Figure(f"{contender}: unique users, off by", error, "%", at_most=3.0 if limits else None),
        Figure(f"{contender}: recording all of it", seconds, "s"),
    ]


def _measure_hostile(contender: str) -> None:
    """Print the figures of one exporter in this process: milliseconds, megabytes, mebibytes, percent, seconds."""
    import gc
    import time
    from pathlib import Path
    from types import SimpleNamespace

    from prometheus_client import generate_latest

    def resident() -> float:
        gc.collect()
        fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
        return float(fields["VmRSS"].split()[0]) / 1024

    registry = CollectorRegistry()
    if contender == "flag-analytics":
        exporter = PrometheusExporter(registry)
    else:
        from litestar_flags.analytics import PrometheusExporter as TheirExporter

        exporter = TheirExporter(registry=registry)

    def event(number: int) -> SimpleNamespace:
        flag = number % _HOSTILE_FLAG_KEYS
        return SimpleNamespace(
            flag_key=f'evil-{flag}"}} 1\n# EOF\n',
            reason="SPLIT",
            variant=f"variant-{flag % 7}",
            targeting_key=f"user-{number}",
            context_attributes={},
            value=True,
            timestamp=EVENT.timestamp,
            evaluation_duration_ms=1.5,
        )

    async def feed() -> float:
        started = time.perf_counter()
        for number in range(_HOSTILE_EVENTS):
            await exporter.record(event(number))
        return time.perf_counter() - started

    before = resident()
    seconds = asyncio.run(feed())
    memory = resident() - before
    times = []
    for _ in range(5):
        started = time.perf_counter()
        text = generate_latest(registry)
        times.append((time.perf_counter() - started) * 1000)
    users = sum(
        sample.value
        for metric in registry.collect()
        if metric.name == "feature_flag_unique_users"
        for sample in metric.samples
    )
    error = abs(users - _HOSTILE_EVENTS) / _HOSTILE_EVENTS * 100
    print(min(times), len(text) / 1e6, memory, error, seconds)


BENCHMARKS = (record, hostile_labels)

if __name__ == "__main__":
    _measure_hostile(sys.argv[1])
