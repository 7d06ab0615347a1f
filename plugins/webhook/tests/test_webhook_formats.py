"""What each receiver gets: the request line, the headers and every field of the body."""

from __future__ import annotations

import base64
import json
from datetime import UTC, datetime

import pytest
from flag_analytics import BadBatch, ConfigError, open_pipeline
from flag_analytics.testing import plain_event, plain_events
from flag_analytics.testing.subjects import Subject
from flag_analytics_webhook import WebhookOptions, WebhookSink, verify_signature

ID = "01890a5d-ac96-774b-bcce-b302099a8057"
MOMENT = datetime(2026, 1, 31, 12, 0, 0, 123_457, tzinfo=UTC)
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"


def event(**fields):
    known = {
        "flag_key": "checkout",
        "value": {"a": [1]},
        "variant": "on",
        "reason": "TARGETING_MATCH",
        "targeting_key": "jane",
        "context_attributes": {"plan": "pro"},
        "evaluation_duration_ms": 1.5,
        "timestamp": MOMENT,
        "event_id": ID,
    }
    return plain_event(**{**known, **fields})


PROPERTIES = {
    "flag_key": "checkout",
    "variant": "on",
    "value": {"a": [1]},
    "reason": "TARGETING_MATCH",
    "kind": "evaluation",
    "evaluation_duration_ms": 1.5,
    "context": {"plan": "pro"},
}


async def sent(receiver, *events, **options):
    sink = WebhookSink(WebhookOptions(url=receiver.url, **options))
    receiver.answer = lambda _: (200, {})
    await Subject(sink).store(*events)
    await sink.close()
    ((method, headers, body),) = receiver.requests
    assert method == "POST"
    return headers, body


def without(properties, *names):
    return {name: value for name, value in properties.items() if name not in names}


async def test_json_has_every_field_of_every_event(receiver):
    other = event(event_id="01890a5d-ac96-774b-bcce-b302099a8058", variant=None)
    headers, body = await sent(receiver, event(), other, key="abc")
    assert headers["Content-Type"] == "application/json"
    assert headers["Authorization"] == "Bearer abc"
    assert body["events"] == [event().to_dict(), other.to_dict()]
    assert body["batch_id"]


async def test_cloudevents_are_of_version_one(receiver):
    headers, body = await sent(receiver, event(), format="cloudevents", source="/shop")
    assert headers["Content-Type"] == "application/cloudevents-batch+json"
    assert body == [
        {
            "specversion": "1.0",
            "id": ID,
            "source": "/shop",
            "type": "flag_analytics.evaluation",
            "subject": "checkout",
            "time": "2026-01-31T12:00:00.123457+00:00",
            "datacontenttype": "application/json",
            "data": event().to_dict(),
        }
    ]


async def test_go_feature_flag_gets_feature_events(receiver):
    anonymous = event(targeting_key=None, variant=None, reason="ERROR")
    headers, body = await sent(receiver, event(flag_version="7"), anonymous, format="go_feature_flag", key="abc")
    assert headers["Authorization"] == "Bearer abc"
    assert body["meta"] == {"provider": "flag-analytics"}
    known, unknown = body["events"]
    assert known == {
        "kind": "feature",
        "contextKind": "user",
        "userKey": "jane",
        "creationDate": 1_769_860_800,
        "key": "checkout",
        "variation": "on",
        "value": {"a": [1]},
        "default": False,
        "version": "7",
        "source": "PROVIDER_CACHE",
        "metadata": {"event_id": ID, "reason": "TARGETING_MATCH"},
    }
    assert (unknown["contextKind"], unknown["userKey"], unknown["default"]) == ("anonymousUser", "anonymous", True)


async def test_posthog_gets_flag_calls(receiver):
    anonymous = event(targeting_key=None, variant=None, value=True, error_type="GENERAL")
    headers, body = await sent(receiver, event(), anonymous, format="posthog", key="phc_1")
    assert "Authorization" not in headers
    assert body["api_key"] == "phc_1"
    known, unknown = body["batch"]
    assert without(known, "properties") == {
        "event": "$feature_flag_called",
        "uuid": ID,
        "distinct_id": "jane",
        "timestamp": "2026-01-31T12:00:00.123457+00:00",
    }
    assert known["properties"] == {
        **PROPERTIES,
        "$lib": "flag-analytics",
        "$feature_flag": "checkout",
        "$feature_flag_response": "on",
        "$feature_flag_reason": "TARGETING_MATCH",
        "$feature/checkout": "on",
    }
    assert unknown["distinct_id"] == "anonymous"
    properties = unknown["properties"]
    assert properties["$process_person_profile"] is False
    assert (properties["$feature_flag_response"], properties["$feature_flag_error"]) == (True, "GENERAL")


async def test_segment_gets_tracks(receiver):
    exposure = event(targeting_key=None, kind="exposure")
    headers, body = await sent(receiver, event(), exposure, format="segment", key="wk")
    assert headers["Authorization"] == "Basic " + base64.b64encode(b"wk:").decode()
    known, seen = body["batch"]
    assert known == {
        "type": "track",
        "messageId": ID,
        "userId": "jane",
        "event": "Feature Flag Evaluated",
        "timestamp": "2026-01-31T12:00:00.123457+00:00",
        "properties": PROPERTIES,
        "context": {"library": {"name": "flag-analytics"}},
    }
    assert (seen["event"], seen["anonymousId"]) == ("Experiment Viewed", "anonymous")
    assert "userId" not in seen
    assert (seen["properties"]["experiment_id"], seen["properties"]["variation_id"]) == ("checkout", "on")


async def test_amplitude_gets_events_and_exposures(receiver):
    exposure = event(targeting_key=None, kind="exposure")
    _, body = await sent(receiver, event(), exposure, format="amplitude", key="ak")
    assert (body["api_key"], body["options"]) == ("ak", {"min_id_length": 1})
    known, seen = body["events"]
    assert known == {
        "event_type": "flag_evaluated",
        "user_id": "jane",
        "time": 1_769_860_800_123,
        "insert_id": ID,
        "library": "flag-analytics",
        "event_properties": PROPERTIES,
    }
    assert (seen["event_type"], seen["device_id"]) == ("$exposure", "anonymous")


async def test_amplitude_names_bad_events_by_their_places(receiver):
    sink = WebhookSink(WebhookOptions(url=receiver.url, format="amplitude", key="ak"))
    batch = Subject(sink).batch(*plain_events(3))
    first, _, third = (event.event_id for event in batch)
    receiver.replies = [
        (400, {"code": 400, "events_with_invalid_fields": {"time": [0, 7]}, "events_with_missing_fields": {"x y": [2]}})
    ]
    with pytest.raises(BadBatch) as caught:
        await sink.write(batch)
    await sink.close()
    assert (caught.value.refused, caught.value.stored) == ({first: "time", third: "refused"}, frozenset())


async def test_mixpanel_gets_imports(receiver):
    exposure = event(targeting_key=None, kind="exposure")
    headers, body = await sent(receiver, event(), exposure, format="mixpanel", key="mp")
    assert headers["Authorization"] == "Basic " + base64.b64encode(b"mp:").decode()
    known, seen = body
    own = {"time": 1_769_860_800_123, "distinct_id": "jane", "$insert_id": ID, "mp_lib": "flag-analytics"}
    assert known == {"event": "flag_evaluated", "properties": {**PROPERTIES, **own}}
    assert (seen["event"], seen["properties"]["distinct_id"]) == ("$experiment_started", "")
    assert (seen["properties"]["Experiment name"], seen["properties"]["Variant name"]) == ("checkout", "on")


async def test_mixpanel_names_bad_events_by_their_places(receiver):
    sink = WebhookSink(WebhookOptions(url=receiver.url, format="mixpanel", key="mp"))
    batch = Subject(sink).batch(*plain_events(2))
    first, second = (event.event_id for event in batch)
    failed = [{"index": 1, "field": "properties.time", "message": "…"}, {"index": -1}, {"index": 5}, 3]
    receiver.replies = [(400, {"code": 400, "failed_records": failed, "num_records_imported": 1})]
    with pytest.raises(BadBatch) as caught:
        await sink.write(batch)
    await sink.close()
    assert (caught.value.refused, caught.value.stored) == ({second: "properties.time"}, {first})


# -- signatures --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("compression", ["none", "gzip"])
async def test_a_request_is_signed_over_what_is_sent(receiver, compression):
    headers, _ = await sent(receiver, event(), signing_secret=SECRET, compression=compression)
    (body,) = receiver.raw
    assert verify_signature(SECRET, headers, body)
    assert not verify_signature(SECRET, headers, body + b" ")
    assert not verify_signature("whsec_" + base64.b64encode(b"another secret..").decode(), headers, body)
    assert not verify_signature(SECRET, {**headers, "webhook-id": "other"}, body)
    assert not verify_signature(SECRET, headers, body, now=int(headers["webhook-timestamp"]) + 301)
    assert not verify_signature(SECRET, {}, body)


def test_a_signature_is_the_one_that_the_standard_gives():
    """The example of the Standard Webhooks libraries' own tests."""
    headers = {
        "webhook-id": "msg_p5jXN8AQM9LWM0D4loKWxJek",
        "webhook-timestamp": "1614265330",
        "webhook-signature": "v1,other v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
    }
    assert verify_signature(SECRET, headers, b'{"test": 2432232314}', now=1614265330)
    headers["webhook-signature"] = "v1,other"
    assert not verify_signature(SECRET, headers, b'{"test": 2432232314}', now=1614265330)


async def test_without_a_secret_nothing_is_signed(receiver):
    headers, _ = await sent(receiver, event())
    assert "webhook-signature" not in headers
    assert headers["webhook-id"]


async def test_a_batch_that_comes_again_has_the_same_id(receiver):
    sink = WebhookSink(WebhookOptions(url=receiver.url))
    batch = Subject(sink).batch(event())
    await sink.write(batch)
    await sink.write(batch)
    await sink.close()
    first, second = (headers["webhook-id"] for _, headers, _ in receiver.requests)
    assert first == second
    assert "." not in first


# -- options -----------------------------------------------------------------------------------------------------------


def problems_of(**options):
    with pytest.raises(ConfigError) as caught:
        open_pipeline({"exporters": {"webhook": options}})
    return str(caught.value)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({}, "exporters.webhook.url: is required"),
        ({"url": "ftp://example.org"}, "begins with http:// or https://"),
        ({"url": "http://x/", "format": "postdog"}, "did you mean 'posthog'"),
        ({"url": "http://x/", "signing_secret": "geheim"}, "at least 16 bytes"),
        ({"url": "http://x/", "signing_secret": "whsec_!geheim"}, "base64 after whsec_"),
        ({"url": "http://x/", "headers": {"X": "geheim\r\nY: 1"}}, "what HTTP allows in a header"),
        ({"url": "http://x/", "headers": {"X Y": "geheim"}}, "what HTTP allows in a header"),
        ({"url": "http://x/", "timeout": 0}, "more than 0 seconds"),
    ],
)
def test_an_option_that_is_wrong_is_named_and_not_quoted(options, says):
    message = problems_of(**options)
    assert says in message
    assert "geheim" not in message


async def test_own_headers_are_sent(receiver):
    headers, _ = await sent(receiver, event(), headers={"X-Team": "shop"})
    assert headers["X-Team"] == "shop"


def test_a_configuration_alone_sends_events(receiver, pipeline):
    opened = pipeline({"exporters": {"webhook": {"url": receiver.url}}})
    opened.record_nowait(event())
    assert opened.flush_sync(10.0)
    assert json.dumps(receiver.stored[ID]["value"]) == '{"a": [1]}'
