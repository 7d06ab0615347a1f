"""What the receiver answers decides over each event: stored, refused with its reason, or tried again."""

from __future__ import annotations

import socket
import time
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime, formatdate

import pytest
from flag_analytics import BadBatch, CommitUnknown, Delivery, DeliveryOptions, FatalConfiguration, SinkUnavailable
from flag_analytics.protocols import Batch
from flag_analytics.testing import plain_event, plain_events
from flag_analytics.testing.subjects import Subject
from flag_analytics_webhook import WebhookOptions, WebhookSink
from flag_analytics_webhook.statuses import retry_after_of

PROMPT = DeliveryOptions(flush_interval_seconds=0.0, retry_initial_seconds=0.01, close_timeout_seconds=5.0)
PATIENT = PROMPT.evolve(flush_interval_seconds=9.0)


@pytest.fixture
async def sink(receiver):
    sink = WebhookSink(WebhookOptions(url=receiver.url))
    yield sink
    await sink.close()


async def raised(sink, batch):
    with pytest.raises(Exception) as caught:
        await sink.write(batch)
    return caught.value


def batch_of(sink, count=3):
    return Subject(sink).batch(*plain_events(count))


@pytest.mark.parametrize("status", [200, 201, 202, 204])
async def test_any_success_stores_the_whole_batch(receiver, sink, status):
    receiver.replies = [(status, b"")]
    await sink.write(batch_of(sink))


@pytest.mark.parametrize(
    ("status", "error"),
    [
        *((status, FatalConfiguration) for status in (301, 307, 401, 403, 404, 405, 410, 415)),
        *((status, BadBatch) for status in (400, 409, 413, 422)),
        *((status, SinkUnavailable) for status in (408, 425, 429, 503)),
        *((status, CommitUnknown) for status in (500, 502, 504, 520, 207)),
    ],
)
async def test_each_status_has_its_meaning(receiver, sink, status, error):
    receiver.replies = [(status, b"not json", {"Location": receiver.url})]
    found = await raised(sink, batch_of(sink))
    assert (type(found), found.code) == (error, f"HTTP_{status}")
    assert len(receiver.requests) == 1, "it followed a redirect"


async def test_an_advice_names_the_option_to_check_and_no_secret(receiver):
    sink = WebhookSink(WebhookOptions(url=f"{receiver.url}?token=geheim", key="geheim"))
    receiver.replies = [(401, b"")]
    found = await raised(sink, batch_of(sink))
    assert "`key`" in str(found)
    assert "geheim" not in f"{found!r}{found}{sink!r}{sink.options!r}"
    await sink.close()


async def test_a_named_event_is_refused_with_its_reason_and_the_others_are_stored(receiver, sink):
    batch = batch_of(sink)
    receiver.replies = [(200, {"refused": {batch.events[1].event_id: "too_old"}})]
    found = await raised(sink, batch)
    assert found.refused == {batch.events[1].event_id: "too_old"}
    assert found.stored == {batch.events[0].event_id, batch.events[2].event_id}


async def test_after_207_what_is_not_named_comes_again(receiver, sink):
    first, second, _ = (batch := batch_of(sink)).events
    receiver.replies = [(207, {"stored": [first.event_id], "refused": {second.event_id: "late"}})]
    found = await raised(sink, batch)
    assert (found.refused, found.stored) == ({second.event_id: "late"}, {first.event_id})


async def test_a_reason_that_may_quote_the_event_is_not_kept(receiver, sink):
    batch = batch_of(sink)
    receiver.replies = [(422, {"refused": {batch.events[0].event_id: "the user jane@example.org is blocked"}})]
    assert (await raised(sink, batch)).refused == {batch.events[0].event_id: "refused"}


async def test_ids_of_foreign_events_count_for_nothing(receiver, sink):
    receiver.replies = [(200, {"refused": {"no such id": "x"}, "stored": ["neither"]})]
    found = await raised(sink, batch_of(sink))
    assert type(found) is SinkUnavailable


@pytest.mark.parametrize("body", [b"[" * 100_000, b"\xff", b'{"refused": 3}', b'{"refused": [1]}', b"x" * (3 * 2**20)])
async def test_garbage_in_place_of_an_answer_is_none(receiver, sink, body):
    receiver.replies = [(200, body)]
    await sink.write(batch_of(sink))


async def test_an_event_that_cannot_be_encoded_is_refused_alone(receiver, sink):
    class Unreadable:
        event_id = "01890a5d-ac96-774b-bcce-b302099a8057"

    batch = batch_of(sink)
    found = await raised(sink, Batch("b", (*batch.events, Unreadable())))
    assert found.refused == {Unreadable.event_id: "AttributeError"}
    assert found.stored == receiver.stored.keys() == {event.event_id for event in batch}


@pytest.mark.parametrize("as_date", [False, True])
async def test_retry_after_is_told_to_the_engine(receiver, sink, as_date):
    date = format_datetime(datetime.now(UTC) + timedelta(seconds=90), usegmt=True)
    receiver.replies = [(429, b"", {"Retry-After": date if as_date else "90"})]
    found = await raised(sink, batch_of(sink))
    assert 85 < found.retry_after <= 90


@pytest.mark.parametrize("text", ["", "soon", "-5", "nan", "inf", "Fri, 99 Foo 2020", formatdate(0), "9" * 400])
def test_a_pause_that_cannot_be_read_or_is_over_is_none(text):
    assert retry_after_of({"Retry-After": text}) == 0.0


def test_the_engine_waits_as_long_as_it_is_asked_to(receiver):
    receiver.replies = [(503, b"", {"Retry-After": "1"})]
    delivery = Delivery({"webhook": WebhookSink(WebhookOptions(url=receiver.url))}, PROMPT)
    started = time.monotonic()
    delivery.record_nowait(plain_event())
    assert delivery.flush_sync(10.0)
    assert time.monotonic() - started >= 1.0
    assert delivery.close_sync().stored == 1


def test_one_bad_event_of_eleven_costs_one_request(receiver):
    delivery = Delivery({"webhook": WebhookSink(WebhookOptions(url=receiver.url))}, PATIENT)

    def refuse_one(body):
        bad = {event["event_id"]: "bad" for event in body["events"] if event["flag_key"] == "flag-7"}
        receiver.store(event for event in body["events"] if event["event_id"] not in bad)
        return 200, {"refused": bad}

    receiver.answer = refuse_one
    for event in plain_events(11):
        delivery.record_nowait(event)
    delivery.flush_sync()
    report = delivery.close_sync()
    assert (report.stored, report.dead, len(receiver.requests), receiver.repeated) == (10, 1, 1, 0)
    (letter,) = delivery.dead_letters()
    assert (letter.event.flag_key, letter.code) == ("flag-7", "bad")


def test_without_answers_for_each_event_the_bad_one_is_found_all_the_same(receiver):
    delivery = Delivery({"webhook": WebhookSink(WebhookOptions(url=receiver.url))}, PATIENT)
    receiver.answer = lambda body: (400, b"") if any(e["flag_key"] == "flag-7" for e in body["events"]) else None
    for event in plain_events(11):
        delivery.record_nowait(event)
    delivery.flush_sync()
    report = delivery.close_sync()
    assert (report.stored, report.dead, receiver.repeated) == (10, 1, 0)


async def test_a_ping_succeeds_where_any_answer_comes(receiver, sink):
    await sink.ping()
    assert receiver.requests[0][0] == "HEAD"


async def test_a_ping_fails_where_nobody_answers(receiver, sink):
    sink = WebhookSink(WebhookOptions(url="http://127.0.0.1:9/"))
    with pytest.raises(SinkUnavailable) as caught:
        await sink.ping()
    assert caught.value.code == "ECONNREFUSED"


async def test_an_answer_that_does_not_come_in_time_leaves_the_batch_unknown(receiver):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = "http://{}:{}/".format(*silent.getsockname())
        sink = WebhookSink(WebhookOptions(url=url, timeout=timedelta(milliseconds=200)))
        assert type(await raised(sink, batch_of(sink))) is CommitUnknown
        await sink.close()
