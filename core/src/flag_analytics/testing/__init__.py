r"""The conformance kit: what every backend promises, as tests that a plugin inherits, and doubles to build others with.

A tutorial. Say you have written a backend, a class with ``write`` and ``close`` as in ``flag_analytics.protocols``::

    @attrs.frozen
    class JsonLinesSink:
        options: Options

        async def write(self, batch: Batch) -> None:
            lines = "".join(json.dumps(event.to_dict()) + "\n" for event in batch)
            with self.options.path.open("a", encoding="utf-8") as file:
                file.write(lines)

        async def close(self) -> None:
            pass

Install ``flag-analytics[testing]``, and put this into ``tests/test_conformance.py``::

    import json

    import pytest
    from flag_analytics import FlagEvaluationEvent
    from flag_analytics.testing import CollectorContract
    from flag_analytics_jsonl.plugin import JsonLinesSink, Options


    class TestJsonLines(CollectorContract):
        @pytest.fixture
        def collector(self, tmp_path):
            return JsonLinesSink(Options(tmp_path / "events.jsonl"))

        async def stored(self, collector):
            lines = collector.options.path.read_text("utf-8").splitlines()
            return [FlagEvaluationEvent.from_dict(json.loads(line)) for line in lines]

Run ``pytest``. Each failure is a sentence of the contract that does not hold yet.

**The fixture.** ``collector`` returns a new backend with nothing stored, at each call. It may be an ``async`` fixture.
What it returns may be anything that configuration can create: a ``BatchSink`` (which the kit puts behind the delivery
engine, as a pipeline does), an ``InlineSink``, or a plain ``AnalyticsCollector``. ``ExporterContract`` is the same with
a fixture named ``exporter``.

**Reading back.** ``stored(collector)`` returns every stored event in the order of writing: as events, or as dicts of
``FlagEvaluationEvent.to_dict()``. A collector with the method ``get_events()`` needs no ``stored``. An exporter's
``exported(exporter)`` returns how many evaluations of each flag the monitoring system has been told of.

**Capabilities.** Not every backend can do everything. What yours cannot, or can besides, you say in class attributes
(``idempotent = True``), which are listed in the contracts' docstrings. The tests for what is not there are skipped.

**Rules.** Do not override a test: the kit notices. Where your backend has a good reason to deviate, override the test
with one that is marked ``@pytest.mark.xfail(reason="...")``, so that the results show the reason.

For other tests there are ``ManualClock``, ``RecordingSink`` and ``RecordingCollector``, which remember what they are
given, and ``FailingSink``, which fails as its script says.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

try:
    import pytest
except ImportError as error:
    raise ImportError(
        "flag_analytics.testing needs pytest: run `pip install 'flag-analytics[testing]'`", name="pytest"
    ) from error

# So that a failing assert in them shows its values as one in a test file does.
_WITH_ASSERTIONS = (
    "children", "collectors", "exporters", "life_cycle", "parity", "processors", "samples", "sources", "subjects",
    "threads", "writing",
)  # fmt: skip
pytest.register_assert_rewrite(*(f"{__name__}.{module}" for module in _WITH_ASSERTIONS))

if TYPE_CHECKING:
    from .clock import ManualClock as ManualClock
    from .collectors import CollectorContract as CollectorContract
    from .doubles import FailingSink as FailingSink
    from .doubles import LostAnswer as LostAnswer
    from .doubles import RecordingCollector as RecordingCollector
    from .doubles import RecordingSink as RecordingSink
    from .exporters import ExporterContract as ExporterContract
    from .processors import ProcessorContract as ProcessorContract
    from .samples import plain_event as plain_event
    from .samples import plain_events as plain_events
    from .sources import EventSourceContract as EventSourceContract

_MODULES = {
    "CollectorContract": "collectors",
    "EventSourceContract": "sources",
    "ExporterContract": "exporters",
    "FailingSink": "doubles",
    "LostAnswer": "doubles",
    "ManualClock": "clock",
    "ProcessorContract": "processors",
    "RecordingCollector": "doubles",
    "RecordingSink": "doubles",
    "plain_event": "samples",
    "plain_events": "samples",
}
__all__ = [
    "CollectorContract",
    "EventSourceContract",
    "ExporterContract",
    "FailingSink",
    "LostAnswer",
    "ManualClock",
    "ProcessorContract",
    "RecordingCollector",
    "RecordingSink",
    "plain_event",
    "plain_events",
]


def __getattr__(name: str) -> Any:
    # Imported when it is used: the kit's pytest plugin is loaded in every test run, and needs none of it.
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_MODULES[name]}", __name__), name)
