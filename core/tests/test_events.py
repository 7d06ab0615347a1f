"""What an evaluation looks like, and how it travels as a dict."""

from __future__ import annotations

import copy
import dataclasses
import json
import os
import pickle
import subprocess
import sys
import threading
import uuid
from datetime import UTC, datetime, timedelta, timezone
from enum import Enum
from types import MappingProxyType

import msgspec
import pytest
from flag_analytics.errors import EventError
from flag_analytics.events import EvaluationReason, FlagEvaluationEvent, as_reason, new_event_id
from hypothesis import given
from hypothesis import strategies as st

NOW = datetime(2026, 1, 31, 12, 30, 15, 123456, UTC)
REFERENCE_FIELDS = (
    "timestamp",
    "flag_key",
    "value",
    "reason",
    "variant",
    "targeting_key",
    "context_attributes",
    "evaluation_duration_ms",
)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
optional_text = st.none() | st.text()
# Of fixed zones, since two wall times that a change of clocks made ambiguous never compare as equal (PEP 495).
zones = st.just(UTC) | st.integers(-23 * 60, 23 * 60).map(lambda minutes: timezone(timedelta(minutes=minutes)))
events = st.builds(
    FlagEvaluationEvent,
    timestamp=st.datetimes(timezones=st.none() | zones),
    flag_key=st.text(),
    value=json_values,
    reason=st.sampled_from(EvaluationReason) | st.text(),
    variant=optional_text,
    targeting_key=optional_text,
    context_attributes=st.dictionaries(st.text(max_size=5), json_values, max_size=3),
    evaluation_duration_ms=st.floats(allow_nan=False),
    event_id=st.uuids().map(str) | st.text(),
    error_type=optional_text,
    error_message=optional_text,
    flag_version=optional_text,
    flag_set_id=optional_text,
    provider_name=optional_text,
    kind=st.sampled_from(["evaluation", "exposure", "outcome"]),
    sample_rate=st.floats(0, 1, exclude_min=True),
)


def test_the_eight_fields_of_the_reference_come_first_and_by_position():
    event = FlagEvaluationEvent(NOW, "k", 1, EvaluationReason.STATIC, "v", "user", {"a": 1}, 1.5)
    assert event.__struct_fields__[:8] == REFERENCE_FIELDS
    assert [getattr(event, name) for name in REFERENCE_FIELDS] == [
        NOW, "k", 1, EvaluationReason.STATIC, "v", "user", {"a": 1}, 1.5
    ]  # fmt: skip


def test_the_other_fields_are_by_name_only():
    with pytest.raises(TypeError):
        FlagEvaluationEvent(NOW, "k", 1, "STATIC", None, None, {}, 0.0, new_event_id())


def test_the_defaults_are_those_of_the_reference():
    event = FlagEvaluationEvent(timestamp=NOW, flag_key="k", value=True, reason=EvaluationReason.STATIC)
    assert (event.variant, event.targeting_key, event.context_attributes, event.evaluation_duration_ms) == (
        None, None, {}, 0.0
    )  # fmt: skip
    assert (event.kind, event.sample_rate, event.error_type, event.provider_name) == ("evaluation", 1.0, None, None)


def test_no_two_events_share_their_default_context():
    one, other = (FlagEvaluationEvent(NOW, "k", 1, "STATIC") for _ in range(2))
    assert one.context_attributes is not other.context_attributes


@pytest.mark.parametrize("name", ["timestamp", "value", "event_id", "sample_rate"])
def test_an_event_cannot_be_changed(name):
    event = FlagEvaluationEvent(NOW, "k", 1, "STATIC")
    with pytest.raises(AttributeError):
        setattr(event, name, None)


def test_the_reasons_are_the_references_and_three_more():
    assert [reason.value for reason in EvaluationReason][:7] == [
        "DEFAULT", "STATIC", "TARGETING_MATCH", "OVERRIDE", "SPLIT", "DISABLED", "ERROR"
    ]  # fmt: skip
    assert {"CACHED", "STALE", "UNKNOWN"} == {reason.value for reason in EvaluationReason} - {
        "DEFAULT", "STATIC", "TARGETING_MATCH", "OVERRIDE", "SPLIT", "DISABLED", "ERROR"
    }  # fmt: skip
    assert EvaluationReason.STATIC == "STATIC"
    assert f"{EvaluationReason.STATIC}" == "STATIC"


# --- now


def test_now_stamps_the_time_and_takes_the_other_fields_in_their_order():
    before = datetime.now(UTC)
    event = FlagEvaluationEvent.now("k", 1, "STATIC", "v", "user", {"a": 1}, 1.5, kind="exposure", flag_version="7")
    assert before <= event.timestamp <= datetime.now(UTC)
    assert event.timestamp.tzinfo is UTC
    assert event == FlagEvaluationEvent(
        event.timestamp, "k", 1, "STATIC", "v", "user", {"a": 1}, 1.5,
        event_id=event.event_id, kind="exposure", flag_version="7",
    )  # fmt: skip


@pytest.mark.parametrize("reason", [EvaluationReason.STATIC, "OF_ITS_OWN"])
def test_now_needs_a_key_a_value_and_a_reason_and_has_the_constructors_defaults(reason):
    event = FlagEvaluationEvent.now("k", True, reason)
    assert event == FlagEvaluationEvent(event.timestamp, "k", True, reason, event_id=event.event_id)


def test_now_takes_exactly_the_fields_that_the_constructor_takes():
    values = {"flag_key": "k", "value": 1, "reason": "STATIC"}
    further = {name: None for name in FlagEvaluationEvent.__struct_fields__[1:] if name not in values}
    event = FlagEvaluationEvent.now(**values, **further)
    assert [name for name in further if getattr(event, name) is not None] == ["context_attributes"]
    with pytest.raises(TypeError, match="colour"):
        FlagEvaluationEvent.now("k", 1, "STATIC", colour="red")
    with pytest.raises(TypeError):
        FlagEvaluationEvent.now("k", 1, "STATIC", None, None, {}, 0.0, new_event_id())


# --- as a dict


@given(events)
def test_a_dict_and_back_loses_nothing(event):
    assert FlagEvaluationEvent.from_dict(event.to_dict()) == event


@given(events)
def test_a_dict_of_plain_values_survives_json(event):
    assert FlagEvaluationEvent.from_dict(json.loads(json.dumps(event.to_dict()))) == event


@given(events)
def test_an_event_survives_pickle_and_copy(event):
    assert pickle.loads(pickle.dumps(event)) == event
    assert copy.deepcopy(event) == event


def test_a_dict_has_every_field_under_its_own_name():
    event = FlagEvaluationEvent(NOW, "k", 1, EvaluationReason.SPLIT)
    fields = event.to_dict()
    assert tuple(fields) == event.__struct_fields__
    assert fields["timestamp"] == "2026-01-31T12:30:15.123456+00:00"
    assert type(fields["reason"]) is str


def test_the_dict_of_an_event_is_its_own():
    context = {"a": 1}
    fields = FlagEvaluationEvent(NOW, "k", 1, "STATIC", context_attributes=context).to_dict()
    fields["context_attributes"]["a"] = 2
    assert context == {"a": 1}


class OtherReason(str, Enum):  # noqa: UP042 - as other libraries write it
    SPLIT = "SPLIT"


def test_a_reason_of_another_enumeration_becomes_its_value():
    fields = FlagEvaluationEvent(NOW, "k", 1, OtherReason.SPLIT).to_dict()
    assert (fields["reason"], type(fields["reason"])) == ("SPLIT", str)
    assert as_reason(OtherReason.SPLIT) is EvaluationReason.SPLIT


def test_a_mapping_of_another_class_becomes_a_dict():
    event = FlagEvaluationEvent(NOW, "k", 1, "STATIC", context_attributes=MappingProxyType({"a": 1}))
    assert event.to_dict()["context_attributes"] == {"a": 1}


def test_an_event_of_rubbish_has_a_dict_too():
    event = FlagEvaluationEvent(None, 5, object, None, context_attributes=None)
    assert event.to_dict()["timestamp"] is None


def test_unknown_names_are_ignored_and_defaults_stand():
    event = FlagEvaluationEvent.from_dict(
        {"timestamp": "2026-01-31T12:30:15Z", "flag_key": "k", "value": 1, "reason": "STATIC", "colour": "red"}
    )
    assert event.timestamp == datetime(2026, 1, 31, 12, 30, 15, tzinfo=UTC)
    assert event.reason is EvaluationReason.STATIC
    assert uuid.UUID(event.event_id).version == 7


def test_a_reason_that_is_none_of_ours_stays_as_it_is():
    fields = {"timestamp": NOW, "flag_key": "k", "value": 1, "reason": "PREREQUISITE_FAILED"}
    assert FlagEvaluationEvent.from_dict(fields).reason == "PREREQUISITE_FAILED"


@pytest.mark.parametrize("missing", ["timestamp", "flag_key", "value", "reason"])
def test_a_dict_without_a_required_field_is_refused_with_its_name(missing):
    fields = FlagEvaluationEvent(NOW, "k", 1, "STATIC").to_dict()
    del fields[missing]
    with pytest.raises(EventError, match=f"event has no {missing}: expected at least"):
        FlagEvaluationEvent.from_dict(fields)


@pytest.mark.parametrize("timestamp", ["CANARY", "", 5, None, b"2026", [], "2026-13-01"])
def test_a_timestamp_that_is_none_is_refused_without_quoting_it(timestamp):
    with pytest.raises(EventError, match="timestamp is not ISO 8601") as caught:
        FlagEvaluationEvent.from_dict({"timestamp": timestamp, "flag_key": "k", "value": 1, "reason": "STATIC"})
    assert "CANARY" not in str(caught.value)
    assert caught.value.__context__ is None


@pytest.mark.parametrize("fields", [None, 5, [], "event"])
def test_what_is_no_mapping_is_no_event(fields):
    with pytest.raises(EventError, match="expected a mapping"):
        FlagEvaluationEvent.from_dict(fields)


# --- ids


def test_an_id_is_a_uuid_of_version_seven_and_sorts_by_time():
    first = new_event_id()
    assert uuid.UUID(first).version == 7
    assert str(uuid.UUID(first)) == first
    stamp = uuid.UUID(first).int >> 80
    assert abs(stamp / 1000 - datetime.now(UTC).timestamp()) < 60


def test_ids_made_by_many_threads_are_all_different():
    made: list[list[str]] = []
    threads = [threading.Thread(target=lambda: made.append([new_event_id() for _ in range(5_000)])) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({one for ids in made for one in ids}) == 40_000


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_ids_made_after_a_fork_differ_from_the_parents_and_the_siblings():
    program = """
import os, sys
from flag_analytics.events import new_event_id
made = [new_event_id() for _ in range(100)]
pipes = []
for _ in range(16):
    read, write = os.pipe()
    if os.fork() == 0:
        os.write(write, " ".join(new_event_id() for _ in range(500)).encode())
        os._exit(0)
    os.close(write)
    pipes.append(read)
made += [new_event_id() for _ in range(500)]
for read in pipes:
    with os.fdopen(read) as stream:
        made += stream.read().split()
    os.wait()
print(len(made), len(set(made)))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.split() == ["8600", "8600"]


def test_events_with_one_id_and_one_content_are_equal():
    event = FlagEvaluationEvent(NOW, "k", 1, "STATIC")
    assert msgspec.structs.replace(event, value=1) == event
    assert FlagEvaluationEvent(NOW, "k", 1, "STATIC") != event


def test_a_timestamp_keeps_its_zone_until_it_is_accepted():
    zone = timezone(timedelta(hours=5, minutes=30))
    moment = NOW.astimezone(zone)
    assert FlagEvaluationEvent(moment, "k", 1, "STATIC").timestamp.utcoffset() == timedelta(hours=5, minutes=30)


def test_a_dataclass_with_the_same_attributes_is_no_less_of_an_event():
    made = dataclasses.make_dataclass("Event", REFERENCE_FIELDS)
    fields = dataclasses.asdict(made(NOW, "k", 1, "STATIC", None, None, {}, 0.0))
    assert FlagEvaluationEvent.from_dict(fields).flag_key == "k"


def test_an_event_is_changed_by_replacing_it_under_its_own_id():
    before = FlagEvaluationEvent(NOW, "checkout", True, EvaluationReason.SPLIT, sample_rate=0.5)
    after = before.replace(variant="on", value=None)
    assert (after.variant, after.value, after.sample_rate) == ("on", None, 0.5)
    assert after.replace(variant=None, value=True) == before
    assert after.event_id == before.event_id
    with pytest.raises(TypeError, match="nothing"):
        before.replace(nothing=1)


@pytest.mark.skipif(sys.version_info < (3, 13), reason="copy.replace is new in Python 3.13")
def test_the_standard_librarys_replace_does_the_same():
    before = FlagEvaluationEvent(NOW, "checkout", True, EvaluationReason.SPLIT)
    assert copy.replace(before, variant="on") == before.replace(variant="on")
