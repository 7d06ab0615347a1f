"""How a frozen event is written to a file, and read again."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import msgspec
import pytest
from flag_analytics.events import FlagEvaluationEvent
from flag_analytics.freezer import Freezer
from flag_analytics.frozen import FrozenEvent, decode_event, encode_event
from hypothesis import given
from hypothesis import strategies as st

json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
optional_text = st.none() | st.text()
frozen_events = st.builds(
    lambda **fields: Freezer(traceparent=lambda: fields["flag_key"][:5]).freeze(FlagEvaluationEvent(**fields)),
    timestamp=st.datetimes(timezones=st.just(UTC)),
    flag_key=st.text(),
    value=json_values,
    reason=st.text(min_size=1),
    variant=optional_text,
    targeting_key=optional_text,
    context_attributes=st.dictionaries(st.text(max_size=5), json_values, max_size=3),
    evaluation_duration_ms=st.floats(allow_nan=False),
    error_type=optional_text,
    error_message=optional_text,
    flag_version=optional_text,
    flag_set_id=optional_text,
    provider_name=optional_text,
    kind=st.sampled_from(["evaluation", "exposure", "outcome"]),
    sample_rate=st.floats(0, 1, exclude_min=True),
)

STORED = (
    b'[1769862615123456,"checkout",{"a": [1]},"SPLIT","on",null,{"plan":"pro"},1.5,'
    b'"0198c0de-0000-7000-8000-000000000001",null,"late",null,null,"flagd","exposure",0.5,1769862616.25,777,null]'
)
"""What spools of version 1 hold."""
EVENT = FrozenEvent(
    datetime(2026, 1, 31, 12, 30, 15, 123456, UTC),
    "checkout",
    b'{"a": [1]}',
    "SPLIT",
    "on",
    None,
    b'{"plan":"pro"}',
    1.5,
    "0198c0de-0000-7000-8000-000000000001",
    None,
    "late",
    None,
    None,
    "flagd",
    "exposure",
    0.5,
    1769862616.25,
    777,
)


@given(frozen_events)
def test_an_event_survives_being_written_and_read(event):
    body = encode_event(event)
    assert decode_event(body) == event
    assert b"\n" not in body
    assert len(json.loads(body)) == len(FrozenEvent.__struct_fields__)


def test_the_form_in_files_is_that_of_the_first_version():
    assert encode_event(EVENT) == STORED
    assert decode_event(STORED) == EVENT


def test_a_row_without_the_last_optional_field_is_read_with_its_default():
    assert decode_event(STORED.replace(b",null]", b"]")) == EVENT


@pytest.mark.parametrize(
    "body",
    [b"", b"[]", b"{}", b"null", STORED[:-1], STORED.replace(b"777", b'"777"'), STORED.replace(b"exposure", b"x")],
)
def test_what_is_not_such_an_array_is_refused(body):
    with pytest.raises(msgspec.MsgspecError):
        decode_event(body)


def test_a_time_beyond_all_years_is_refused():
    with pytest.raises(OverflowError):
        decode_event(STORED.replace(b"1769862615123456", b"9" * 18))
