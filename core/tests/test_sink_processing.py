"""Processors of one sink: it gets what they leave, the other sinks get the events as they are."""

from __future__ import annotations

import asyncio

import pytest
from flag_analytics import FlagEvaluationEvent, open_pipeline
from flag_analytics.config.reading import read_config
from flag_analytics.errors import BadBatch, ConfigError
from flag_analytics.fanout import Fanout
from flag_analytics.freezer import Freezer
from flag_analytics.inline import InlineSinks
from flag_analytics.protocols import Batch, RecordResult
from flag_analytics.reports import DeadLetter, DeliveryOptions
from flag_analytics.sink_processing import processed
from flag_analytics.testing.doubles import RecordingCollector, RecordingSink
from flag_analytics_delivery import Delivery


def event(number=0, **fields):
    context = {"email": "a@example.com", "plan": "team"}
    return FlagEvaluationEvent.now("f", number, "STATIC", targeting_key="user-1", context_attributes=context, **fields)


def frozen(number=0):
    return Freezer().freeze(event(number))


def anonymous(event):
    return event.replace(targeting_key=None)


def odd_only(event):
    return event if event.value % 2 else None


def breaks(event):
    raise ValueError("user-1")


def test_without_processors_a_sink_stays_itself():
    sink = RecordingSink()
    assert processed(sink, []) is sink


async def test_a_batch_arrives_as_the_processors_leave_it_under_its_own_id():
    sink = RecordingSink()
    batch = Batch("b", (frozen(1), frozen(2), frozen(3)))
    around = processed(sink, [anonymous, odd_only])
    await around.write(batch)
    (written,) = sink.batches
    assert written.id == "b"
    assert [event.value for event in written] == [1, 3]
    assert {event.targeting_key for event in written} == {None}
    assert [event.event_id for event in written] == [batch.events[0].event_id, batch.events[2].event_id]
    assert [event.received_at for event in written] == [batch.events[0].received_at, batch.events[2].received_at]
    assert around.filtered == 1


async def test_of_a_batch_without_anything_left_the_sink_hears_nothing():
    sink = RecordingSink()
    await processed(sink, [odd_only]).write(Batch("b", (frozen(2),)))
    assert sink.batches == []


async def test_an_answer_of_the_sink_is_handed_back():
    class Refusing(RecordingSink):
        async def write(self, batch):
            return BadBatch(refused={batch.events[0].event_id: "TOO_OLD"})

    bad = frozen(1)
    answer = await processed(Refusing(), [anonymous]).write(Batch("b", (bad,)))
    assert answer.refused == {bad.event_id: "TOO_OLD"}


def test_an_event_that_breaks_a_processor_is_refused_before_the_sink_sees_it():
    seen = []

    class Preparing(RecordingSink):
        def prepare(self, event):
            seen.append(event.targeting_key)

    with pytest.raises(ValueError, match="user-1"):
        processed(Preparing(), [breaks]).prepare(frozen())
    with pytest.raises(TypeError, match="a processor returned int"):
        processed(Preparing(), [lambda event: 5]).prepare(frozen())
    assert seen == []
    processed(Preparing(), [anonymous]).prepare(frozen())
    assert seen == [None]


async def test_dead_letters_are_kept_by_the_sink_as_the_processors_leave_them():
    class Keeping(RecordingSink):
        letters = ()

        async def write_dead_letters(self, letters):
            self.letters = (*self.letters, *letters)

    def letter():
        return DeadLetter("s", frozen(), "BadBatch", "X", "b", 0.0)

    sink = Keeping()
    await processed(sink, [anonymous]).write_dead_letters([letter()])
    await processed(sink, [breaks]).write_dead_letters([letter()])
    assert [kept.event.targeting_key for kept in sink.letters] == [None]
    assert not hasattr(processed(RecordingSink(), [anonymous]), "write_dead_letters")


def test_an_inline_sink_takes_what_is_left():
    collector = RecordingCollector()
    sink = processed(collector, [anonymous, odd_only])
    assert sink.record_nowait(event(1)) is RecordResult.ACCEPTED
    assert sink.record_nowait(frozen(3)) is RecordResult.ACCEPTED
    assert sink.record_nowait(event(2)) is RecordResult.FILTERED
    assert [(each.value, each.targeting_key) for each in collector.events] == [(1, None), (3, None)]


def test_all_else_of_a_sink_is_as_it_is():
    class Named(RecordingSink):
        delivery = "its settings"

    sink = Named()
    around = processed(sink, [anonymous])
    assert around.delivery == "its settings"
    assert not hasattr(around, "ping")
    asyncio.run(around.close())
    assert sink.closes == 1


CONFIG = {
    "collectors": {
        "memory/raw": {},
        "memory/hashed": {"processors": [{"type": "hash_targeting_key", "key": "a-key-of-enough-characters"}]},
        "memory/sampled": {
            "processors": [{"type": "redact", "attributes": ["email"]}, {"type": "sample", "rate": 1e-9}]
        },
    }
}


async def test_each_sink_of_a_pipeline_has_its_own_processors():
    async with open_pipeline(CONFIG) as pipeline:
        assert pipeline.record_nowait(event())
        raw, hashed, sampled = [await each.get_events() for each in pipeline.collectors.values()]
        stats = pipeline.stats()
    assert raw[0].targeting_key == "user-1"
    assert hashed[0].targeting_key.startswith("1:")
    assert sampled == []
    assert stats.sinks["memory/sampled"].dropped == {"filtered": 1}
    assert stats.balanced()


@pytest.mark.parametrize(
    ("processors", "path", "words"),
    [
        ({"type": "sample"}, "collectors.memory.processors", "expected an array of tables"),
        ([{"type": "sampel"}], "collectors.memory.processors[0].type", "did you mean 'sample'?"),
        ([{"type": "sample"}], "collectors.memory.processors[0].rate", "is required"),
        ([{"type": "deduplicate_exposures"}], "collectors.memory.processors[0].type", "set it in [[processors]]"),
    ],
)
def test_a_mistake_is_reported_with_its_path(processors, path, words):
    with pytest.raises(ConfigError) as raised:
        read_config({"collectors": {"memory": {"processors": processors}}})
    (problem,) = raised.value.problems
    assert problem.path == path
    assert words in problem.message


class FailingAtFirst(RecordingSink):
    failures = 1

    async def write(self, batch):
        if self.failures:
            self.failures -= 1
            raise OSError
        return await super().write(batch)


async def test_what_a_sinks_processors_drop_is_in_its_ledger_once_however_often_a_batch_comes():
    sink = processed(FailingAtFirst(), [odd_only])
    engine = Delivery({"ours": sink}, DeliveryOptions(retry_initial_seconds=0.001))
    fanout = Fanout(["ours"], InlineSinks({}), engine, close_timeout_seconds=1.0, filtering={"ours": sink})
    for number in range(5):
        fanout.record_nowait(event(number))
    report, stats = await fanout.flush(), fanout.stats()
    ledger = stats.sinks["ours"]
    assert (ledger.accepted, ledger.delivered, dict(ledger.dropped)) == (5, 2, {"filtered": 3})
    assert (ledger.filtered, ledger.lost, ledger.retries) == (3, 0, 1)
    assert (report.complete, report.stored, report.dropped) == (True, 2, {"filtered": 3})
    assert stats.balanced()
    assert stats.health(closed=False)["sinks"]["ours"]["filtered"] == 3
    await fanout.close()


async def test_the_ledger_of_a_configured_sink_has_what_its_processors_drop(tmp_path):
    database = {"connection_string": f"sqlite+aiosqlite:///{(tmp_path / 'flags.db').as_posix()}"}
    source = {"collectors": {"database": {**database, "processors": [{"type": "sample", "rate": 1e-9}]}, "memory": {}}}
    async with open_pipeline(source) as pipeline:
        pipeline.record_nowait(event())
        assert await pipeline.flush()
        sinks = pipeline.stats().sinks
    assert (sinks["database"].delivered, sinks["database"].filtered) == (0, 1)
    assert (sinks["memory"].delivered, sinks["memory"].filtered) == (1, 0)
