"""The canonical form: any Python value in, one immutable, bounded, counted event out."""

from __future__ import annotations

import collections.abc
import json
import math
import string
import threading
import time
import uuid
from collections import OrderedDict, defaultdict
from datetime import UTC, date, datetime, timedelta, timezone, tzinfo
from datetime import time as time_of_day
from decimal import Decimal
from enum import Enum, IntEnum
from functools import partial
from types import MappingProxyType, SimpleNamespace
from typing import Any
from zoneinfo import ZoneInfo

import msgspec
import pytest
import uuid_utils
from flag_analytics.canonical import MAX_EVENT_BYTES, MAX_KEY_CHARS, canonical_key
from flag_analytics.errors import EventError
from flag_analytics.events import EvaluationReason, FlagEvaluationEvent, new_event_id
from flag_analytics.freezer import Freezer
from flag_analytics.frozen import FrozenEvent
from flag_analytics.testing.samples import plain_event
from hypothesis import example, given
from hypothesis import strategies as st

NOW = datetime(2026, 1, 31, 12, 30, 15, 123456, UTC)
TEXT_FIELDS = ("flag_key", "reason", "variant", "targeting_key", "error_type", "error_message", "flag_version",
               "flag_set_id", "provider_name")  # fmt: skip
KEY_FIELDS = tuple(name for name in TEXT_FIELDS if name != "error_message")


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


def check_invariants(one: FrozenEvent) -> None:
    """Every promise about what sinks get, whatever went in."""
    assert type(one) is FrozenEvent
    assert type(one.timestamp) is datetime
    assert one.timestamp.tzinfo is UTC
    for name in TEXT_FIELDS:
        text = getattr(one, name)
        if text is None:
            assert name not in {"flag_key", "reason"}
            continue
        assert type(text) is str
        assert "\0" not in text
        assert len(text.encode()) <= 4 * (2_000 if name == "error_message" else MAX_KEY_CHARS)
        assert len(text) <= (2_000 if name == "error_message" else MAX_KEY_CHARS)
    for data in (one.value_json, one.context_json):
        assert type(data) is bytes
        assert (
            "\0"
            not in json.loads(data, parse_constant=_refuse_constant, object_pairs_hook=_refuse_duplicates).__repr__()
        )
    assert type(one.context_attributes) is dict
    assert len(one.value_json) + len(one.context_json) <= MAX_EVENT_BYTES + len(b"{}")
    assert len(one.value_json) + len(one.context_json) <= one.size <= 2 * MAX_EVENT_BYTES
    assert str(uuid.UUID(one.event_id)) == one.event_id.lower()
    assert type(one.event_id) is str
    assert type(one.evaluation_duration_ms) is float
    assert math.isfinite(one.evaluation_duration_ms)
    assert type(one.sample_rate) is float
    assert 0 < one.sample_rate <= 1
    assert type(one.kind) is str
    assert one.kind in {"evaluation", "exposure", "outcome"}
    assert one.reason


def _refuse_constant(name: str) -> None:
    raise AssertionError(f"{name} is not JSON")


def _refuse_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    names = [name for name, _ in pairs]
    assert len(set(names)) == len(names)
    return dict(pairs)


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
    check_invariants(one)
    same = {"event_id": one.event_id.lower(), "size": 0}
    assert msgspec.structs.replace(one, **same) == msgspec.structs.replace(other, **same)
    assert quick.changes() == careful.changes()
    assert abs(one.size - other.size) < 1_000


# --- hostile values


class LoudText(str):
    __slots__ = ()

    def __str__(self) -> str:
        raise RuntimeError("CANARY")

    __repr__ = __str__
    __format__ = __str__
    encode = replace = isprintable = isascii = __str__

    def __len__(self) -> int:
        return 3

    def __contains__(self, other: object) -> bool:
        raise RuntimeError

    def __iter__(self):
        raise RuntimeError


class LoudInt(int):
    def __int__(self) -> int:
        raise RuntimeError

    __index__ = __repr__ = __abs__ = bit_length = __int__

    def __le__(self, other: object) -> bool:
        raise RuntimeError

    __lt__ = __ge__ = __gt__ = __le__


class LoudFloat(float):
    def __float__(self) -> float:
        raise RuntimeError

    __repr__ = __float__

    def __lt__(self, other: object) -> bool:
        raise RuntimeError

    __le__ = __gt__ = __ge__ = __lt__


class LoudDict(dict):
    def items(self):
        raise RuntimeError

    __iter__ = keys = values = __len__ = __bool__ = items


class LyingDict(dict):
    def values(self):
        return []

    items = values


class LoudMapping(collections.abc.Mapping):
    def __getitem__(self, key: object) -> Any:
        raise RuntimeError

    def __iter__(self):
        raise RuntimeError

    def __len__(self) -> int:
        return 1


class EndlessMapping(LoudMapping):
    def items(self):
        return ((str(i), i) for i in iter(int, 1))


class EndlessList(list):
    def __iter__(self):
        while True:
            yield 1


class EndlessSet(set):
    __iter__ = EndlessList.__iter__


class LoudMoment(datetime):
    def astimezone(self, zone: tzinfo | None = None) -> datetime:
        raise RuntimeError

    isoformat = utcoffset = astimezone


class LoudZone(tzinfo):
    def utcoffset(self, moment: datetime | None) -> timedelta | None:
        raise RuntimeError

    dst = tzname = utcoffset


class LoudMeta(type):
    @property
    def __name__(cls) -> str:
        raise RuntimeError


class LoudType(metaclass=LoudMeta):
    pass


class LoudClass:
    @property
    def __class__(self) -> type:
        raise RuntimeError


class LoudEquality:
    def __eq__(self, other: object) -> bool:
        raise RuntimeError

    def __hash__(self) -> int:
        return 123_456_789

    def __bool__(self) -> bool:
        raise RuntimeError


class Colour(Enum):
    RED = "red"
    NESTED = {"a": 1}  # noqa: RUF012 - an enumeration's member
    NOTHING = None


class Level(IntEnum):
    LOW = 1


class SelfishEnum(Enum):
    ME = 1

    @property
    def value(self) -> Any:
        return self


class Named:
    """Stands for a hostile value until the moment it is used."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __repr__(self) -> str:
        return f"Named({self.name!r})"


def unfold(value: Any) -> Any:
    """Return ``value`` with the hostile values in place of their names."""
    if isinstance(value, Named):
        return HOSTILE[value.name]
    if isinstance(value, list):
        return [unfold(item) for item in value]
    return {key: unfold(item) for key, item in value.items()} if isinstance(value, dict) else value


def cyclic_list() -> list[Any]:
    loop: list[Any] = [1]
    loop.append(loop)
    return loop


def cyclic_dict() -> dict[str, Any]:
    loop: dict[str, Any] = {}
    loop["me"] = loop
    return loop


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


# By name, since neither pytest nor hypothesis could show, compare or even look at some of them.
HOSTILE: dict[str, Any] = {
    "loud text": LoudText("abc"),
    "loud int": LoudInt(5),
    "loud float": LoudFloat(0.5),
    "loud dict": LoudDict(a=1),
    "lying dict": LyingDict(a=object()),
    "loud mapping": LoudMapping(),
    "endless mapping": EndlessMapping(),
    "endless list": EndlessList([1]),
    "endless set": EndlessSet([1]),
    "endless inside": {"a": [EndlessList([1])]},
    "loud moment": LoudMoment(2026, 1, 1, tzinfo=UTC),
    "loud zone": datetime(2026, 1, 1, tzinfo=LoudZone()),
    "loud type": LoudType(),
    "the loud type itself": LoudType,
    "loud class": LoudClass(),
    "loud equality": LoudEquality(),
    "cyclic list": cyclic_list(),
    "cyclic dict": cyclic_dict(),
    "explosive": explosive(),
    "deep": deep(5_000),
    "enum": Colour.RED,
    "enum of a table": Colour.NESTED,
    "enum of none": Colour.NOTHING,
    "selfish enum": SelfishEnum.ME,
    "int enum": Level.LOW,
    "nan": math.nan,
    "infinity": -math.inf,
    "huge int": 10**5_000,
    "64 bits": 2**64,
    "lone surrogate": "a\ud800b",
    "nul": "a\0b",
    "escaped nul": "\\u0000",
    "line separators": "\u2028\u2029\x85\r\n",
    "long": "x" * 100_000,
    "long and wide": "é" * 40_000,
    "emoji": "👩‍👩‍👧‍👦" * 10,
    "many": list(range(100_000)),
    "many keys": {str(i): i for i in range(50_000)},
    "bytes": b"\xff\0",
    "many bytes": b"x" * 100_000,
    "bytearray": bytearray(b"x"),
    "memoryview": memoryview(b"x"),
    "decimal nan": Decimal("NaN"),
    "decimal": Decimal("1e400"),
    "uuid": uuid.uuid4(),
    "fast uuid": uuid_utils.uuid4(),
    "date": date.min,
    "time": time_of_day(1, 2, tzinfo=UTC),
    "longest time": timedelta.max,
    "naive": NOW.replace(tzinfo=None),
    "first moment": datetime.min.replace(tzinfo=timezone(timedelta(hours=23))),
    "last moment": datetime.max.replace(tzinfo=timezone(-timedelta(hours=23))),
    "gap": datetime(2026, 3, 29, 2, 30, tzinfo=ZoneInfo("Europe/Berlin")),
    "complex": 1j,
    "object": object(),
    "function": len,
    "generator": (i for i in range(3)),
    "range": range(5),
    "set": {"b", "a", 1},
    "mixed keys": {1: 1, None: 2, False: 3, (1, 2): 4, 1.5: 5, math.nan: 6, Colour.RED: 7, date.min: 8, b"x": 9},
    "hostile keys": {LoudEquality(): 1, LoudText("k"): 2, "\ud800": 3, "a\0": 4, LoudInt(7): 5},
    "same keys": {1: "a", "1": "b"},
    "ordered": OrderedDict(a=1),
    "default": defaultdict(list, a=[1]),
    "proxy": MappingProxyType({"a": 1}),
    "exception": ValueError("CANARY"),
    "ellipsis": ...,
    "namespace": SimpleNamespace(a=1),
    "none": None,
    "empty": "",
    "zero": 0,
    "true": True,
    "float": 5.0,
}


@pytest.mark.parametrize("name", FlagEvaluationEvent.__struct_fields__)
@pytest.mark.parametrize("hostile", HOSTILE)
def test_no_value_in_any_field_breaks_the_canonical_form(name, hostile):
    one, _ = frozen(**{name: HOSTILE[hostile]})
    check_invariants(one)
    assert "CANARY" not in one.value_json.decode()
    check_invariants(freezer().freeze(one.thaw()))


@pytest.mark.parametrize(
    "wrap", [lambda x: [x], lambda x: {"a": x}, lambda x: (x, {"b": [x]})], ids=["list", "dict", "both"]
)
@pytest.mark.parametrize("hostile", HOSTILE)
def test_no_nested_value_breaks_the_canonical_form(wrap, hostile):
    for name in ("value", "context_attributes"):
        check_invariants(frozen(**{name: wrap(HOSTILE[hostile])})[0])


@pytest.mark.parametrize("hostile", HOSTILE)
def test_whatever_is_given_in_place_of_an_event_is_one_or_is_refused_as_none(hostile):
    try:
        one = freezer().freeze(HOSTILE[hostile])
    except EventError as error:
        message = str(error)
    else:
        check_invariants(one)
        return
    assert "flag_key" in message
    assert "CANARY" not in message


@given(
    st.dictionaries(
        st.sampled_from(FlagEvaluationEvent.__struct_fields__),
        st.recursive(
            st.sampled_from(sorted(HOSTILE)).map(Named)
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
    check_invariants(frozen(**unfold(fields))[0])


def test_what_stands_for_ten_to_the_fourteenth_values_is_refused_at_once():
    started = time.perf_counter()
    one, changes = frozen(value=explosive(), context_attributes={"a": EndlessList([1])})
    assert time.perf_counter() - started < 5  # it would take years
    assert (one.value, one.context_attributes, changes) == (None, {"a": None}, {"size": 2})


# --- each change, and its count


@pytest.mark.parametrize(
    ("given_value", "expected", "counted"),
    [
        ("a\0b", "a\ufffdb", {"text": 1}),
        ("a\ud800b", "a\ufffdb", {"text": 1}),
        ("\udfff\ud800", "\ufffd\ufffd", {"text": 1}),
        ("\ud83d\ude00", "😀", {"text": 1}),
        (Named("loud text"), "abc", {}),
        (math.nan, None, {"number": 1}),
        ([math.inf, -math.inf], [None, None], {"number": 2}),
        (2**63 - 1, 2**63 - 1, {}),
        (-(2**63), -(2**63), {}),
        (2**63, "9223372036854775808", {"number": 1}),
        (Named("huge int"), "int of 16610 bits", {"number": 1}),
        (-0.0, -0.0, {}),
        (1e308, 1e308, {}),
        (True, True, {}),
        (Level.LOW, 1, {}),
        (Colour.NESTED, {"a": 1}, {}),
        (object(), "<object>", {"type": 1}),
        (Named("loud type"), "<LoudType>", {"type": 1}),
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
        ({(1, 2): 1}, {"<tuple>": 1}, {"type": 1}),
        ({EvaluationReason.SPLIT: 1, Colour.RED: 2}, {"SPLIT": 1, "red": 2}, {}),
        (Named("loud dict"), "<LoudDict>", {"type": 1}),
        ({"inner": Named("loud mapping"), "kept": 1}, {"inner": "<LoudMapping>", "kept": 1}, {"type": 1}),
        (MappingProxyType({"a": 1}), {"a": 1}, {}),
        ("x" * 65_534, "x" * 65_534, {}),
        ("x" * 65_535, None, {"size": 1}),
        ([0] * 40_000, None, {"size": 1}),
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
        (Named("lying dict"), {}, {}),
        ([("a", 1)], {}, {"type": 1}),
        ("text", {}, {"type": 1}),
        (Named("loud dict"), {}, {"type": 1}),
        ({"a": "x" * 70_000}, {"a": "x" * 32_766}, {"size": 1}),
        ({"a": "x\0"}, {"a": "x\ufffd"}, {"text": 1}),
        ({"a\0": 1}, {"a\ufffd": 1}, {"text": 1}),
    ],
)
def test_a_context_is_always_a_table(context, expected, counted):
    one, changes = frozen(context_attributes=unfold(context))
    assert one.context_attributes == expected
    assert changes == counted


def test_a_value_and_a_context_that_only_together_are_too_large_lose_the_context():
    one, changes = frozen(value="x" * 40_000, context_attributes={"a": "y" * 40_000})
    assert (len(one.value), one.context_attributes, changes) == (40_000, {}, {"size": 1})


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


@pytest.mark.parametrize(
    ("key", "expected", "counted"),
    [
        (5, "5", {}),
        (uuid.UUID(int=5), "00000000-0000-0000-0000-000000000005", {}),
        (Colour.RED, "red", {}),
        (10**100, "<int>", {"type": 1}),
        (True, "<bool>", {"type": 1}),
        (object(), "<object>", {"type": 1}),
        (b"user", "<bytes>", {"type": 1}),
        ("", "", {}),
        (None, None, {}),
        (Named("loud class"), None, {"unreadable": 1}),
    ],
)
def test_a_key_that_is_no_text_becomes_text(key, expected, counted):
    one, changes = frozen(targeting_key=unfold(key))
    assert (one.targeting_key, changes) == (expected, counted)


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
        (Named("loud moment"), NOW, {"timestamp": 1}),
        (Named("loud zone"), NOW, {"timestamp": 1}),
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
        (Named("loud equality"), 0.0, {"type": 1}),
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
        (Named("loud float"), 1.0, {"unreadable": 1}),
    ],
)
def test_a_sample_rate_is_above_zero_and_at_most_one(rate, expected, counted):
    one, changes = frozen(sample_rate=unfold(rate))
    assert (one.sample_rate, changes) == (expected, counted)


@pytest.mark.parametrize("kind", ["click", "", 5, Named("loud text"), Colour.RED])
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


@pytest.mark.parametrize("odd", [object(), b"id", 1.5, True, ("a",), Named("loud equality")])
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
