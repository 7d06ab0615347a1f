"""The canonical form: any Python value in, one immutable, bounded, counted event out."""

from __future__ import annotations

import math
import string
import threading
import time
import uuid
from collections import OrderedDict, deque
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from enum import Enum, IntEnum
from fractions import Fraction
from functools import partial
from ipaddress import ip_address
from pathlib import PurePosixPath
from types import MappingProxyType, SimpleNamespace
from typing import Any
from zoneinfo import ZoneInfo

import msgspec
import pytest
import uuid_utils
from flag_analytics.canonical import MAX_EVENT_BYTES, MAX_KEY_CHARS, MAX_VALUES, canonical_key
from flag_analytics.errors import EventError
from flag_analytics.events import EvaluationReason, FlagEvaluationEvent, new_event_id
from flag_analytics.freezer import Freezer
from flag_analytics.frozen import FrozenEvent
from flag_analytics.testing.hostile import HOSTILE_KINDS, check_canonical
from flag_analytics.testing.samples import plain_event
from hypothesis import example, given
from hypothesis import strategies as st

NOW = datetime(2026, 1, 31, 12, 30, 15, 123456, UTC)
KEY_FIELDS = (
    "flag_key", "reason", "variant", "targeting_key", "error_type", "flag_version", "flag_set_id", "provider_name"
)  # fmt: skip


event = partial(
    plain_event,
    timestamp=NOW,
    flag_key="checkout",
    value=True,
    reason="SPLIT",
    variant=None,
    targeting_key=None,
    context_attributes={},
    evaluation_duration_ms=0.0,
)


def freezer(**options: Any) -> Freezer:
    return Freezer(clock=NOW.timestamp, **options)


def frozen(**changes: Any) -> tuple[FrozenEvent, dict[str, int]]:
    """Return the canonical form of an event, and what was counted."""
    one = freezer()
    return one.freeze(event(**changes)), one.changes()


# --- what the ordinary event becomes


def test_an_ordinary_event_is_kept_as_it_is_and_nothing_is_counted():
    sent = event(
        variant="on",
        targeting_key="user-1",
        context_attributes={"plan": "pro", "age": 5, "beta": False, "score": 1.5, "none": None, "näme": "Zoë 🎉"},
        evaluation_duration_ms=1.5,
        provider_name="flagd",
        flag_version="7",
        kind="exposure",
    )
    one = freezer()
    assert one.freeze(sent).thaw() == msgspec.structs.replace(sent, reason=EvaluationReason.SPLIT)
    assert one.changes() == {}


def test_freezing_twice_changes_nothing_more():
    one = freezer()
    first = one.freeze(event(flag_key="x" * 500, value={"a": {1, 2}}, timestamp="2026-01-31T12:00:00"))
    assert one.freeze(first) is first
    counted = one.changes()
    again = one.freeze(first.thaw())
    assert (again.flag_key, again.value_json, again.timestamp) == (first.flag_key, first.value_json, first.timestamp)
    assert one.changes() == counted


plain_text = st.text(max_size=60)
anything_plain = st.none() | st.booleans() | st.integers() | st.floats() | plain_text
plain_events = st.builds(
    event,
    timestamp=st.datetimes(timezones=st.just(UTC)),
    flag_key=plain_text,
    value=anything_plain | st.just({}),
    reason=st.sampled_from(EvaluationReason) | plain_text,
    variant=st.none() | plain_text,
    targeting_key=st.none() | plain_text,
    context_attributes=st.dictionaries(
        plain_text | st.integers() | st.sampled_from(EvaluationReason), anything_plain, max_size=4
    ),
    evaluation_duration_ms=st.floats() | st.integers(),
    event_id=st.uuids().map(str)
    | st.uuids().map(lambda one: str(one).upper())
    | st.text("0f-7", min_size=36, max_size=36),
    error_message=st.none() | plain_text,
    provider_name=st.none() | plain_text,
    kind=st.sampled_from(["evaluation", "exposure", "outcome", "other"]),
    sample_rate=st.sampled_from([1.0, 1, True, 0.5, 0.0, 2.0]),
)


@given(plain_events)
@example(event(reason=""))
@example(event(value="\0"))
@example(event(value="\\"))
@example(event(context_attributes={1: "a", "1": "b"}))
@example(event(context_attributes={date(2026, 1, 1): "a"}))
@example(event(context_attributes={"\0": 1}))
@example(event(event_id="zzzzzzzz-zzzz-7zzz-zzzz-zzzzzzzzzzzz"))
@example(event(event_id="\0" * 36))
def test_the_quick_way_and_the_careful_way_come_to_the_same(sent):
    quick, careful = freezer(), freezer()
    one, other = quick.freeze(sent), careful._freeze_any(sent)
    check_canonical(one)
    same = {"event_id": one.event_id.lower(), "size": 0}
    assert msgspec.structs.replace(one, **same) == msgspec.structs.replace(other, **same)
    assert quick.changes() == careful.changes()
    assert abs(one.size - other.size) < 1_000


# --- hostile values


class Colour(Enum):
    RED = "red"
    NESTED = {"a": 1}  # noqa: RUF012 - an enumeration's member
    NOTHING = None


class Level(IntEnum):
    LOW = 1


class Named:
    """Stands for a hostile value until the moment it is used: pytest and hypothesis could not show some of them."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __repr__(self) -> str:
        return f"Named({self.name!r})"


def unfold(value: Any) -> Any:
    """Return ``value`` with the hostile values in place of their names."""
    if isinstance(value, Named):
        return HOSTILE_KINDS[value.name]()
    if isinstance(value, list):
        return [unfold(item) for item in value]
    return {key: unfold(item) for key, item in value.items()} if isinstance(value, dict) else value


def explosive() -> Any:
    """Seven lists of a hundred, each holding the one before: 10 ** 14 values in 700 references."""
    value: Any = 0
    for _ in range(7):
        value = [value] * 100
    return value


def deep(levels: int) -> Any:
    value: Any = "bottom"
    for _ in range(levels):
        value = {"down": value}
    return value


@given(
    st.dictionaries(
        st.sampled_from(FlagEvaluationEvent.__struct_fields__),
        st.recursive(
            st.sampled_from(sorted(HOSTILE_KINDS)).map(Named)
            | anything_plain
            | st.text()
            | st.datetimes()
            | st.binary(max_size=5),
            lambda inner: (
                st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3) | st.integers(), inner, max_size=3)
            ),
            max_leaves=5,
        ),
        max_size=6,
    )
)
def test_no_combination_of_values_breaks_the_canonical_form(fields):
    check_canonical(frozen(**unfold(fields))[0])


def test_what_stands_for_ten_to_the_fourteenth_values_is_refused_at_once():
    started = time.perf_counter()
    one, changes = frozen(value=explosive(), context_attributes={"a": HOSTILE_KINDS["a list that ends never"]()})
    assert time.perf_counter() - started < 5  # it would take years
    assert (one.value, one.context_attributes, changes) == (None, {"a": [1]}, {"size": 1})


# --- each change, and its count


@pytest.mark.parametrize(
    ("given_value", "expected", "counted"),
    [
        ("a\0b", "a\ufffdb", {"text": 1}),
        ("a\ud800b", "a\ufffdb", {"text": 1}),
        ("\udfff\ud800", "\ufffd\ufffd", {"text": 1}),
        ("\ud83d\ude00", "😀", {"text": 1}),
        (Named("a str whose methods raise ValueError"), "CANARY", {}),
        (math.nan, None, {"number": 1}),
        ([math.inf, -math.inf], [None, None], {"number": 2}),
        (2**63 - 1, 2**63 - 1, {}),
        (-(2**63), -(2**63), {}),
        (2**63, "9223372036854775808", {"number": 1}),
        (Named("10**5000"), "int of 16610 bits", {"number": 1}),
        (-0.0, -0.0, {}),
        (1e308, 1e308, {}),
        (True, True, {}),
        (Level.LOW, 1, {}),
        (Colour.NESTED, {"a": 1}, {}),
        (object(), "<object>", {"type": 1}),
        (Named("a type with a trap"), "<Trap>", {"type": 1}),
        (b"\xff\0", "/wA=", {}),
        (date(2026, 1, 31), "2026-01-31", {}),
        (NOW, "2026-01-31T12:30:15.123456Z", {}),
        (timedelta(seconds=90), "PT90S", {}),
        (Decimal("1.10"), "1.10", {}),
        (uuid.UUID(int=5), "00000000-0000-0000-0000-000000000005", {}),
        (uuid_utils.UUID(int=5), "00000000-0000-0000-0000-000000000005", {}),
        ((1, [2]), [1, [2]], {}),
        ({"b", "a"}, ["a", "b"], {}),
        (frozenset({3, 20, 1}), [1, 20, 3], {}),
        ({1: "a", 2.5: "b"}, {"1": "a", "2.5": "b"}, {}),
        ({None: 1}, {"": 1}, {}),
        ({(1, 2): 1, True: 2, b"x": 3}, {"[1,2]": 1, "true": 2, "78": 3}, {}),
        ({object(): 1}, {"<object>": 1}, {"type": 1}),
        ({EvaluationReason.SPLIT: 1, Colour.RED: 2}, {"SPLIT": 1, "red": 2}, {}),
        (Named("a dict whose methods raise SystemExit"), {"a": 1}, {}),
        (Named("a list whose methods raise KeyboardInterrupt"), [1], {}),
        (Named("a float whose methods raise ValueError"), 0.5, {}),
        (Named("a list that ends never"), [1], {}),
        (Named("a mapping that ends never"), None, {"size": 1}),
        (
            {"inner": Named("a mapping that lies about its length"), "kept": 1},
            {"inner": "<_LyingMapping>", "kept": 1},
            {"type": 1},
        ),
        (deque([1, "a"]), [1, "a"], {}),
        (MappingProxyType({"a": 1}), {"a": 1}, {}),
        ("x" * 65_534, "x" * 65_534, {}),
        ("x" * 65_535, None, {"size": 1}),
        ([0] * (MAX_VALUES - 12), [0] * (MAX_VALUES - 12), {}),
        ([0] * (MAX_VALUES - 11), None, {"size": 1}),
        (b"x" * 60_000, None, {"size": 1}),
    ],
)
def test_a_value_takes_its_canonical_form_and_each_change_is_counted(given_value, expected, counted):
    one, changes = frozen(value=unfold(given_value))
    assert one.value == expected
    assert type(one.value) is type(expected)
    assert changes == counted


@pytest.mark.parametrize(("levels", "counted"), [(8, {}), (9, {"depth": 1}), (5_000, {"depth": 1})])
def test_eight_levels_are_kept_and_what_is_below_becomes_null(levels, counted):
    one, changes = frozen(value=deep(levels))
    value = one.value
    for _ in range(8):
        value = value["down"]
    assert value == ("bottom" if levels == 8 else None)
    assert changes == counted


@pytest.mark.parametrize(
    ("context", "expected", "counted"),
    [
        (None, {}, {}),
        ({}, {}, {}),
        (OrderedDict(a=1), {"a": 1}, {}),
        (Named("an ordered table"), {"a": 1}, {}),
        ([("a", 1)], {}, {"type": 1}),
        ("text", {}, {"type": 1}),
        (Named("a dict whose methods raise ValueError"), {"a": 1}, {}),
        (Named("an object that claims to be of dict"), {}, {"type": 1}),
        ({"a": "x" * 70_000}, {"a": "x" * 32_765}, {"size": 1}),
        ({"a": "x\0"}, {"a": "x\ufffd"}, {"text": 1}),
        ({"a\0": 1}, {"a\ufffd": 1}, {"text": 1}),
    ],
)
def test_a_context_is_always_a_table(context, expected, counted):
    one, changes = frozen(context_attributes=unfold(context))
    assert one.context_attributes == expected
    assert changes == counted


def test_a_context_gets_the_room_that_the_value_leaves():
    one, changes = frozen(value="x" * 40_000, context_attributes={"a": "y" * 40_000})
    assert (len(one.value), set(one.context_attributes["a"]), changes) == (40_000, {"y"}, {"size": 1})
    assert len(one.value_json) + len(one.context_json) <= MAX_EVENT_BYTES


@pytest.mark.parametrize("name", KEY_FIELDS)
def test_a_long_key_keeps_its_beginning_and_a_hash_of_the_whole(name):
    one, changes = frozen(**{name: "k" * 191})
    other, _ = frozen(**{name: "k" * 192})
    assert getattr(one, name)[:174] == "k" * 173 + "~"
    assert len(getattr(one, name)) == MAX_KEY_CHARS
    assert getattr(one, name) != getattr(other, name)
    assert changes == {"long_key": 1}
    assert frozen(**{name: "k" * 190})[1] == {}


def test_a_long_error_message_is_cut():
    one, changes = frozen(error_message="m" * 2_001)
    assert (one.error_message, changes) == ("m" * 2_000, {"long_text": 1})


class Tenant:
    """With a text of its own, as an application's class for ids may be."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.asked = 0

    def __repr__(self) -> str:
        self.asked += 1
        return f"tenant-{self.name}"


class Quiet:
    """Without one."""


@pytest.mark.parametrize(
    ("key", "expected", "counted"),
    [
        (None, None, {}),
        ("", "", {}),
        (0, "0", {}),
        (5, "5", {}),
        (-(10**100), str(-(10**100)), {}),
        (False, "false", {}),
        (True, "true", {}),
        ("true", "true", {}),
        (1.5, "1.5", {}),
        (1.0, "1.0", {}),
        (math.nan, "nan", {}),
        (Decimal("1.50"), "1.50", {}),
        (Fraction(1, 3), "1/3", {}),
        (1j, "1j", {}),
        (b"user\0", "7573657200", {}),
        (bytearray(b""), "", {}),
        (("tenant", 5, None, 1.5), '["tenant",5,null,1.5]', {}),
        ((Tenant("a"), uuid.UUID(int=5)), '["tenant-a","00000000-0000-0000-0000-000000000005"]', {}),
        ((Quiet(),), '["<Quiet>"]', {"type": 1}),
        ({"b", "a"}, '["a","b"]', {}),
        ({"a": 1}, '{"a":1}', {}),
        (uuid.UUID(int=5), "00000000-0000-0000-0000-000000000005", {}),
        (ip_address("2001:db8::1"), "2001:db8::1", {}),
        (PurePosixPath("/a/b"), "/a/b", {}),
        (date(2026, 1, 31), "2026-01-31", {}),
        (Colour.RED, "red", {}),
        (Colour.NOTHING, None, {}),
        (Tenant("a"), "tenant-a", {}),
        (Tenant, f"<class '{__name__}.Tenant'>", {}),
        (Named("a str whose methods raise SystemExit"), "CANARY", {}),
        (Named("an object that claims to be of str"), "CANARY lying", {}),
        (Named("a proxy of werkzeug"), "CANARY proxy", {}),
        (Named("a proxy of wrapt"), "CANARY proxy", {}),
        (Named("a lazy proxy"), "CANARY proxy", {}),
        (Named("a proxy of werkzeug out of context"), None, {"type": 1}),
        (Quiet(), None, {"type": 1}),
        (object(), None, {"type": 1}),
        (len, "<built-in function len>", {}),
        (lambda: None, None, {"type": 1}),
        (Named("a mock of text"), None, {"type": 1}),
        (Named("an object whose methods raise KeyboardInterrupt"), None, {"type": 1}),
        (Named("an object whose class raises SystemExit"), None, {"type": 1}),
        (1 << 10_000_000, None, {"type": 1}),
        ([0] * 70_000, None, {"type": 1}),
    ],
    ids=lambda _: "",
)
@pytest.mark.parametrize("name", ["targeting_key", "variant"])
def test_a_key_keeps_its_identity_whatever_its_type_is(name, key, expected, counted):
    one, changes = frozen(**{name: unfold(key)})
    assert (getattr(one, name), changes) == (expected, counted)


def test_the_text_of_a_key_is_asked_for_once():
    tenant = Tenant("a")
    frozen(targeting_key=tenant)
    assert tenant.asked == 1


def test_no_two_of_many_keys_become_one():
    keys = [0, 1, -1, 1.5, 0.0, -0.0, "a", b"a", b"b", (1, 2), (1, "2"), ("1", 2), ((1,), 2), Decimal(2), True, False,
            "", "x" * 9_000, "x" * 9_001, b"x" * 9_000, b"x" * 9_001, 10**5_000, 10**5_000 + 1]  # fmt: skip
    assert len({frozen(targeting_key=key)[0].targeting_key for key in keys}) == len(keys)


@pytest.mark.parametrize("reason", [None, "", EvaluationReason.UNKNOWN])
def test_an_event_without_a_reason_has_an_unknown_one(reason):
    assert frozen(reason=reason)[0].reason == "UNKNOWN"


@pytest.mark.parametrize(
    ("moment", "expected", "counted"),
    [
        (NOW.replace(tzinfo=None), NOW, {"naive_timestamp": 1}),
        (NOW.astimezone(ZoneInfo("Asia/Kathmandu")), NOW, {}),
        (NOW.isoformat(), NOW, {}),
        ("yesterday", NOW, {"timestamp": 1}),
        (None, NOW, {"timestamp": 1}),
        (1_700_000_000, NOW, {"timestamp": 1}),
        (Named("a zone that raises"), NOW, {"timestamp": 1}),
        (Named("an object that claims to be of datetime"), NOW, {"timestamp": 1}),
        (datetime.min.replace(tzinfo=timezone(timedelta(hours=1))), NOW, {"timestamp": 1}),
        ("2026-06-30T23:59:60Z", NOW, {"timestamp": 1}),
        (NOW - timedelta(days=30), NOW - timedelta(days=30), {}),
        (NOW - timedelta(days=31), NOW - timedelta(days=31), {"clock_skew": 1}),
        (NOW + timedelta(minutes=4), NOW + timedelta(minutes=4), {}),
        (NOW + timedelta(minutes=6), NOW + timedelta(minutes=6), {"clock_skew": 1}),
        (NOW.replace(year=9999), NOW.replace(year=9999), {"clock_skew": 1}),
    ],
)
def test_a_timestamp_is_brought_to_utc_and_a_strange_one_is_counted(moment, expected, counted):
    one, changes = frozen(timestamp=unfold(moment))
    assert (one.timestamp, changes) == (expected, counted)


class Moment(datetime):
    """As freezegun or pandas make them."""


def test_a_subclass_of_datetime_becomes_a_plain_one_on_the_quick_way_too():
    one, changes = frozen(timestamp=Moment(2026, 1, 31, 12, tzinfo=UTC))
    assert type(one.timestamp) is datetime
    assert changes == {}


@pytest.mark.parametrize("zone", ["Europe/Berlin", "America/New_York"])
def test_both_of_two_equal_wall_times_in_autumn_keep_their_moment(zone):
    first = datetime(2026, 10, 25, 2, 30, tzinfo=ZoneInfo(zone))
    for fold in (0, 1):
        moment = first.replace(fold=fold)
        assert frozen(timestamp=moment)[0].timestamp.timestamp() == moment.timestamp()


@pytest.mark.parametrize(
    ("duration", "expected", "counted"),
    [
        (5, 5.0, {}),
        (-1.0, -1.0, {}),
        (Decimal("1.5"), 1.5, {}),
        (None, 0.0, {}),
        (math.nan, 0.0, {"number": 1}),
        (math.inf, 0.0, {"number": 1}),
        (10**400, 0.0, {"type": 1}),
        ("fast", 0.0, {"type": 1}),
        (Named("an object whose methods raise ValueError"), 0.0, {"type": 1}),
        (1j, 0.0, {"type": 1}),
    ],
)
def test_a_duration_is_a_finite_number_of_milliseconds(duration, expected, counted):
    one, changes = frozen(evaluation_duration_ms=unfold(duration))
    assert (one.evaluation_duration_ms, changes) == (expected, counted)


@pytest.mark.parametrize(
    ("rate", "expected", "counted"),
    [
        (0.5, 0.5, {}),
        (1, 1.0, {}),
        (0, 1.0, {"sample_rate": 1}),
        (1.5, 1.0, {"sample_rate": 1}),
        (math.nan, 1.0, {"sample_rate": 1}),
        ("0.5", 1.0, {"sample_rate": 1}),
        (None, 1.0, {}),
        (Named("a float whose methods raise ValueError"), 0.5, {}),
    ],
)
def test_a_sample_rate_is_above_zero_and_at_most_one(rate, expected, counted):
    one, changes = frozen(sample_rate=unfold(rate))
    assert (one.sample_rate, changes) == (expected, counted)


@pytest.mark.parametrize("kind", ["click", "", 5, Named("a str whose methods raise ValueError"), Colour.RED])
def test_an_unknown_kind_is_an_evaluation_and_counted(kind):
    one, changes = frozen(kind=unfold(kind))
    assert (one.kind, changes) == ("evaluation", {"kind": 1})


# --- ids


def test_an_id_that_is_no_uuid_always_becomes_the_same_one():
    one, changes = frozen(event_id="order-5")
    assert changes == {"event_id": 1}
    assert frozen(event_id="order-5")[0].event_id == one.event_id
    assert frozen(event_id="order-6")[0].event_id != one.event_id
    assert uuid.UUID(one.event_id).version == 5


@pytest.mark.parametrize(
    "form", [str, lambda one: one.hex, lambda one: one.urn, lambda one: f"{{{one}}}", lambda one: one]
)
def test_every_spelling_of_a_uuid_is_the_same_id(form):
    one = uuid.uuid4()
    found, changes = frozen(event_id=form(one))
    assert (found.event_id, changes) == (str(one), {})


@pytest.mark.parametrize("odd", [object(), b"id", 1.5, True, ("a",), Named("an object whose methods raise ValueError")])
def test_ids_of_types_that_have_no_text_do_not_make_two_events_one(odd):
    (one, changes), (other, _) = frozen(event_id=unfold(odd)), frozen(event_id=unfold(odd))
    assert one.event_id != other.event_id
    assert changes == {"event_id": 1}


@pytest.mark.parametrize("missing", [None, ""])
def test_an_event_without_an_id_gets_one(missing):
    one, changes = frozen(event_id=missing)
    assert uuid.UUID(one.event_id).version == 7
    assert changes == {}


def test_ids_stay_unique_when_the_clock_steps_back():
    clock = iter([NOW.timestamp(), NOW.timestamp() - 3600] * 500)
    one = Freezer(clock=lambda: next(clock))
    assert len({one.freeze(SimpleNamespace(flag_key="k")).event_id for _ in range(1_000)}) == 1_000


# --- mutation afterwards changes nothing


def test_what_is_done_to_an_event_after_it_is_frozen_changes_nothing():
    value, context = {"list": [1, 2]}, {"nested": {"a": 1}, "plain": "x"}
    one, _ = frozen(value=value, context_attributes=context)
    value["list"].append(3)
    context["nested"]["a"] = 2
    context.clear()
    assert one.value == {"list": [1, 2]}
    assert one.context_attributes == {"nested": {"a": 1}, "plain": "x"}


def test_what_is_done_to_what_a_frozen_event_gives_out_changes_nothing():
    one, _ = frozen(value={"a": [1]}, context_attributes={"b": 1})
    one.value["a"].append(2)
    one.context_attributes.clear()
    one.thaw().context_attributes.clear()
    assert (one.value, one.context_attributes) == ({"a": [1]}, {"b": 1})
    with pytest.raises(AttributeError):
        one.flag_key = "other"


def test_a_context_that_another_thread_keeps_changing_can_be_frozen():
    context: dict[str, Any] = {str(i): i for i in range(50)}
    stop = threading.Event()

    def churn() -> None:
        i = 0
        while not stop.is_set():
            context[f"new-{i}"] = [i]
            context.pop(f"new-{i - 20}", None)
            i += 1

    thread = threading.Thread(target=churn)
    thread.start()
    try:
        one = freezer()
        kept = [one.freeze(event(context_attributes=context)).context_attributes for _ in range(2_000)]
    finally:
        stop.set()
        thread.join()
    assert all(len(attributes) >= 50 for attributes in kept)
    assert one.changes() == {}


# --- objects of other classes


def test_an_object_with_the_same_attributes_is_an_event():
    foreign = SimpleNamespace(
        timestamp=NOW,
        flag_key="k",
        value=[1],
        reason=EvaluationReason.STATIC,
        variant="v",
        targeting_key="u",
        context_attributes={"a": 1},
        evaluation_duration_ms=2.0,
    )
    one = freezer()
    thawed = one.freeze(foreign).thaw()
    assert [getattr(thawed, name) for name in vars(foreign)] == list(vars(foreign).values())
    assert uuid.UUID(thawed.event_id).version == 7
    assert one.changes() == {}


def test_a_mapping_of_an_event_s_fields_is_that_event():
    sent = event(context_attributes={"a": 1}, variant="v", evaluation_duration_ms=2.0)
    assert freezer().freeze(sent.to_dict()).thaw() == freezer().freeze(sent).thaw()


@pytest.mark.parametrize("other", [None, 42, "event", b"event", [], {}, object(), event])
def test_what_has_no_flag_key_is_no_event(other):
    with pytest.raises(EventError, match="flag_key"):
        freezer().freeze(other)


class Subclass(FlagEvaluationEvent, frozen=True):
    pass


def test_an_event_of_a_subclass_is_an_event():
    sent = Subclass(NOW, "k", 1, "STATIC")
    assert freezer().freeze(sent).event_id == sent.event_id


def test_an_attribute_that_cannot_be_read_is_its_default_and_counted():
    class Thorny:
        timestamp = NOW
        flag_key = "k"

        @property
        def value(self) -> Any:
            raise RuntimeError

        @property
        def targeting_key(self) -> Any:
            raise KeyError

    one = freezer()
    thorny = one.freeze(Thorny())
    assert (thorny.flag_key, thorny.value, thorny.targeting_key) == ("k", None, None)
    assert one.changes() == {"unreadable": 2}


# --- clock and trace context


def test_the_time_of_acceptance_is_kept_beside_the_events_own():
    one = Freezer(clock=lambda: 1_800_000_000.25)
    assert one.freeze(event()).received_at == 1_800_000_000.25


def test_a_clock_that_was_wrong_and_is_put_right_is_believed_at_once():
    now = [NOW.timestamp() + 365 * 86_400]
    one = Freezer(clock=lambda: now[0])
    one.freeze(event())
    assert one.changes() == {"clock_skew": 1}
    now[0] = NOW.timestamp()
    one.freeze(event())
    one.freeze(event(value=[1]))
    assert one.changes() == {"clock_skew": 1}


@pytest.mark.parametrize("value", [True, [1]])
def test_the_trace_context_of_the_moment_is_kept(value):
    assert freezer(traceparent=lambda: "00-1-2-01").freeze(event(value=value)).traceparent == "00-1-2-01"


@pytest.mark.parametrize("value", [True, [1]])
def test_a_trace_context_that_cannot_be_had_costs_no_event_and_is_counted_nowhere_twice(value):
    one = freezer(traceparent=lambda: 1 / 0)
    old = one.freeze(event(value=value, timestamp=NOW - timedelta(days=90)))
    assert (old.flag_key, old.traceparent) == ("checkout", None)
    assert one.changes() == {"clock_skew": 1}


def test_changes_are_counted_by_many_threads_without_losing_one():
    one = freezer()

    def work() -> None:
        for _ in range(500):
            one.freeze(event(value="\0"))

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert one.changes() == {"text": 4_000}


# --- keys that questions are asked with


@given(
    st.text(max_size=300) | st.integers() | st.none() | st.sampled_from(EvaluationReason) | st.text(string.printable)
)
def test_a_question_about_a_key_finds_what_was_recorded_under_it(key):
    assert canonical_key(key) == frozen(flag_key=key)[0].flag_key


@given(st.text(max_size=300), st.text(max_size=300))
def test_two_clean_keys_are_stored_alike_only_if_they_are_the_same(one, other):
    assert (canonical_key(one) == canonical_key(other)) is (clean(one) == clean(other))


def clean(text: str) -> str:
    return "".join(
        "\ufffd" if character == "\0" or 0xD800 <= ord(character) < 0xE000 else character for character in text
    )


def test_a_new_id_is_not_touched():
    made = new_event_id()
    assert frozen(event_id=made)[0].event_id == made


def test_a_context_that_is_too_large_keeps_every_attribute_cut_to_its_share():
    context = {f"key_{number}": f"value_{number}" * 100 for number in range(100)}
    one, changes = frozen(context_attributes=context)
    kept = one.context_attributes
    assert list(kept) == list(context)
    assert all(context[key].startswith(value) and len(value) > 100 for key, value in kept.items())
    assert changes == {"size": 1}
    assert one.size < 2 * MAX_EVENT_BYTES
