"""What core costs its caller: recording into one memory backend, and being imported."""

from __future__ import annotations

import subprocess
import sys
import time
from itertools import repeat
from types import SimpleNamespace

from flag_analytics.pipeline import open_pipeline

from ._harness import Contender, Figure, Limit, Table, Timed, calls, compare, installed
from ._samples import EVENT

_BURST = 5_000
"""Half of what both peers' queues hold by default, so that no event is dropped: that would be cheaper."""
_SUSTAINED = 50_000
"""Enough for a peer's own thread to take its share of the interpreter while the caller goes on."""


def record() -> Table:
    """Time one event's way into a pipeline with a memory collector, beside two peers' ways into their own queues."""
    with open_pipeline({"collectors": {"memory": {"max_size": 10_000}}}) as pipeline:
        peers, notes = queueing_peers()
        return compare(
            "record_nowait with one memory backend",
            [Contender("flag-analytics record_nowait", calls(pipeline.record_nowait, EVENT)), *peers],
            limits=[
                Limit("flag-analytics record_nowait", at_most=1_000),
                Limit("flag-analytics record_nowait", at_most=0.25, times="LaunchDarkly send_event"),
                Limit("flag-analytics record_nowait", at_most=0.1, times="PostHog capture"),
            ],
            notes=notes,
        )


def import_time() -> Table:
    """Time ``import flag_analytics`` in fresh interpreters beside the three libraries it stands on."""
    return compare(
        "import, in a fresh interpreter",
        [
            Contender("import flag_analytics", _fresh_import("flag_analytics"), most=1),
            Contender("import attrs, pluggy, msgspec", _fresh_import("attrs, pluggy, msgspec"), most=1),
            Contender("… and all that a first pipeline needs", _fresh_import("flag_analytics.pipeline"), most=1),
        ],
        limits=[Limit("import flag_analytics", at_most=2.0, times="import attrs, pluggy, msgspec")],
        figures=[Figure("backends and test tools imported along", _strangers("flag_analytics"), "modules", at_most=0)],
        rounds=15,
    )


def queueing_peers() -> tuple[list[Contender], list[str]]:
    """Return the peers that put an event into a queue of their own, and what to say of those that are not here."""
    peers = []
    if installed("ldclient"):
        send_event = _launchdarkly_send_event()
        peers.append(Contender("LaunchDarkly send_event", send_event, most=_SUSTAINED))
        peers.append(Contender("LaunchDarkly send_event, short burst", send_event, most=_BURST))
    if installed("posthog"):
        peers.append(Contender("PostHog capture", _posthog_capture(), most=_BURST))
    return peers, [f"not installed: {name}" for name in ("ldclient", "posthog") if not installed(name)]


def _launchdarkly_send_event() -> Timed:
    """Return what times LaunchDarkly's ``send_event``: its real processor and thread, an HTTP client that says 202."""
    from ldclient.client import Context
    from ldclient.config import Config
    from ldclient.impl.events.event_processor import DefaultEventProcessor
    from ldclient.impl.events.types import EventInputEvaluation
    from ldclient.impl.model import FeatureFlag

    http = SimpleNamespace(request=lambda *_, **__: SimpleNamespace(status=202, headers={}), clear=lambda: None)
    processor = DefaultEventProcessor(Config("key", diagnostic_opt_out=True, events_max_pending=2 * _SUSTAINED), http)
    context = Context.builder("user-12345").set("plan", "premium").set("country", "GB").build()
    flag = FeatureFlag({"key": "checkout_redesign", "version": 1, "on": True, "variations": [True], "salt": ""})
    now = int(time.time() * 1000)
    event = EventInputEvaluation(now, context, flag.key, flag, 0, True, None, False)

    def timed(operations: int) -> int:
        turns = repeat(None, operations)
        started = time.perf_counter_ns()
        for _ in turns:
            processor.send_event(event)
        took = time.perf_counter_ns() - started
        processor._wait_until_inactive()  # noqa: SLF001 - empties its queue between rounds, outside the time
        return took

    return timed


def _posthog_capture() -> Timed:
    """Return what times PostHog's ``capture`` into its queue; nothing is sent."""
    from posthog import Posthog

    client = Posthog("key", host="http://127.0.0.1:9", send=False, disable_geoip=True)
    properties = {"$feature_flag": "checkout_redesign", "$feature_flag_response": True, "plan": "premium"}

    def timed(operations: int) -> int:
        turns = repeat(None, operations)
        started = time.perf_counter_ns()
        for _ in turns:
            client.capture("$feature_flag_called", distinct_id="user-12345", properties=properties)
        took = time.perf_counter_ns() - started
        lane = client._analytics_lane.queue  # noqa: SLF001 - empties its queue between rounds, outside the time
        while not lane.empty():
            lane.get_nowait()
            lane.task_done()
        return took

    return timed


def _fresh_import(names: str) -> Timed:
    code = f"import time\nstarted = time.perf_counter_ns()\nimport {names}\nprint(time.perf_counter_ns() - started)"

    def timed(operations: int) -> int:
        return sum(int(_python(code)) for _ in range(operations))

    return timed


def _strangers(name: str) -> int:
    code = f"import sys, {name}\nprint(*sys.modules)"
    return sum(
        module.startswith("flag_analytics_") or module in {"pytest", "_pytest", "hypothesis"}
        for module in _python(code).split()
    )


def _python(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout


BENCHMARKS = (record, import_time)
