"""Hostile values: every kind of object that may reach a field of an event, and events that carry one.

::

    @pytest.mark.parametrize("place", PLACES)
    @pytest.mark.parametrize("kind", HOSTILE_KINDS)
    def test_a_hostile_value_harms_no_other_event(kind, place, pipeline):
        pipeline.record_nowait(hostile_event(place, HOSTILE_KINDS[kind]()))

Each kind is a function, since some values can be used once only, and pytest could not show others. Text and errors in
them contain ``CANARY``, which may be in no log, error or traceback.
"""

from __future__ import annotations

import collections
import collections.abc
import enum
import importlib
import importlib.util
import ipaddress
import json
import math
import pathlib
import sys
import threading
import types
import uuid
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, timedelta, timezone, tzinfo
from datetime import time as time_of_day
from decimal import Decimal
from fractions import Fraction
from functools import partial
from typing import Any, NamedTuple
from unittest import mock
from zoneinfo import ZoneInfo

import attrs
import uuid_utils

from ..canonical import MAX_EVENT_BYTES, MAX_KEY_CHARS
from ..events import FlagEvaluationEvent
from ..frozen import FrozenEvent
from .samples import plain_event

__all__ = ["CANARY", "HOSTILE_KINDS", "PLACES", "check_canonical", "hostile_event"]

CANARY = "CANARY"

PLACES = (
    *(name for name in FlagEvaluationEvent.__struct_fields__ if name != "context_attributes"),
    "context_attributes",
    "context name",
    "context value",
    "nested context value",
)
"""Where in an event a value can be."""


def hostile_event(place: str, value: Any, **fields: Any) -> FlagEvaluationEvent:
    """Return an event with ``value`` in one of ``PLACES``, and plain values, or ``fields``, everywhere else."""
    if place == "context name":
        return plain_event(0, **fields | {"context_attributes": _OneItem(value, CANARY)})
    if place == "context value":
        return plain_event(0, **fields | {"context_attributes": {"plan": value, "country": "GB"}})
    if place == "nested context value":
        return plain_event(0, **fields | {"context_attributes": {"user": {"plans": [value]}}})
    return plain_event(0, **fields | {place: value})


_TEXT_LIMITS = {
    **dict.fromkeys(
        (
            "flag_key",
            "reason",
            "variant",
            "targeting_key",
            "error_type",
            "flag_version",
            "flag_set_id",
            "provider_name",
        ),
        MAX_KEY_CHARS,
    ),
    "error_message": 2_000,
}


def check_canonical(event: Any) -> None:
    """Assert every promise about the canonical form of an event, whatever it was made of."""
    assert type(event) is FrozenEvent
    for name, limit in _TEXT_LIMITS.items():
        text = getattr(event, name)
        assert type(text) is str or (text is None and name not in {"flag_key", "reason"})
        assert text is None or ("\0" not in text and len(text) <= limit and text == text.encode().decode())
    assert event.reason
    assert type(event.timestamp) is datetime
    assert event.timestamp.tzinfo is UTC
    for data in (event.value_json, event.context_json):
        assert type(data) is bytes
        assert "\0" not in repr(json.loads(data, parse_constant=_refuse, object_pairs_hook=_without_duplicates))
    assert event.context_json.startswith(b"{")
    assert len(event.value_json) + len(event.context_json) <= MAX_EVENT_BYTES + len(b"{}")
    assert len(event.value_json) + len(event.context_json) <= event.size <= 2 * MAX_EVENT_BYTES
    assert type(event.event_id) is str
    assert str(uuid.UUID(event.event_id)) == event.event_id.lower()
    assert type(event.evaluation_duration_ms) is float
    assert math.isfinite(event.evaluation_duration_ms)
    assert type(event.sample_rate) is float
    assert 0.0 < event.sample_rate <= 1.0
    assert type(event.kind) is str
    assert event.kind in {"evaluation", "exposure", "outcome"}


def _refuse(name: str) -> None:
    raise AssertionError(f"{name} is not JSON")


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    assert len({name for name, _ in pairs}) == len(pairs)
    return dict(pairs)


class _OneItem(collections.abc.Mapping[Any, Any]):
    """A mapping whose only key need not be hashable."""

    def __init__(self, key: Any, value: Any) -> None:
        self._item = (key, value)

    def __getitem__(self, key: object) -> Any:
        return self._item[1]

    def __iter__(self) -> Iterator[Any]:
        yield self._item[0]

    def __len__(self) -> int:
        return 1


def _raises(error: type[BaseException]) -> Any:
    def method(*_: Any, **__: Any) -> Any:
        raise error(CANARY)

    return method


def _endless(*_: Any) -> Iterator[int]:
    while True:
        yield 1


_SPECIAL = (
    "__str__", "__repr__", "__format__", "__hash__", "__eq__", "__bool__", "__len__", "__iter__", "__contains__",
    "__getitem__", "__int__", "__float__", "__index__", "__abs__", "__lt__", "__le__", "__gt__", "__ge__", "__bytes__",
    "__fspath__",
)  # fmt: skip
_OF_TEXT = ("encode", "replace", "isprintable", "isascii", "lower", "strip")
_OF_TABLES = ("items", "keys", "values", "get", "copy")


def _raising(base: type, error: type[BaseException], *names: str) -> type:
    """Return a subclass of ``base`` of which all methods raise that someone may call."""
    methods = {name: _raises(error) for name in (*_SPECIAL, *names)}
    return type(f"Raising{base.__name__.title()}", (base,), {**methods, "__module__": __name__})


def _lying(claimed: type) -> Any:
    """Return an object that claims to be of another class."""
    return type("Lying", (), {"__class__": property(lambda _: claimed), "__str__": lambda _: f"{CANARY} lying"})()


def _all_attributes_raise(error: type[BaseException]) -> Any:
    return type("Thorny", (), {"__getattribute__": _raises(error)})()


class _TrapMeta(type):
    __hash__ = __eq__ = __getattribute__ = __instancecheck__ = __subclasscheck__ = _raises(ValueError)


class _LyingMapping(collections.abc.Mapping[str, Any]):
    def __getitem__(self, key: str) -> Any:
        raise KeyError(CANARY)

    def __iter__(self) -> Iterator[str]:
        return iter(["a"])

    def __len__(self) -> int:
        return 10**9


class _EndlessMapping(_LyingMapping):
    def items(self) -> Any:
        return ((str(number), 1) for number in _endless())


class _Zone(tzinfo):
    utcoffset = dst = tzname = _raises(SystemExit)


class _Choice(enum.Enum):
    OBJECT = types.SimpleNamespace(a=CANARY)


class _Number(enum.IntEnum):
    ONE = 1


class _Word(enum.StrEnum):
    ONE = "one"


class _Pair(NamedTuple):
    first: int
    second: str


@attrs.define
class _Attrs:
    name: str


class _Selfish(enum.Enum):
    ME = 1

    @property
    def value(self) -> Any:
        return self


def _recursive() -> list[Any]:
    itself: list[Any] = [1]
    itself.append(itself)
    return itself


def _recursive_table() -> dict[str, Any]:
    itself: dict[str, Any] = {"a": 1}
    itself["itself"] = itself
    return itself


def _shared() -> list[Any]:
    """Return a list that stands for 2 ** 60 values in 60 lists."""
    value: list[Any] = [1]
    for _ in range(60):
        value = [value, value]
    return value


def _deep(depth: int) -> Any:
    value: Any = "bottom"
    for _ in range(depth):
        value = {"a": [value]}
    return value


def _changing() -> dict[str, Any]:
    """Return a table that another thread changes for a while."""
    table: dict[str, Any] = {str(number): number for number in range(50)}

    def change() -> None:
        for number in range(20_000):
            table[f"new-{number}"] = [number]
            table.pop(f"new-{number - 20}", None)

    threading.Thread(target=change, daemon=True).start()
    return table


def _coroutine() -> Any:
    async def never_awaited() -> None: ...

    coroutine = never_awaited()
    coroutine.close()  # else Python warns of it
    return coroutine


_TEXTS: dict[str, str] = {
    "empty text": "",
    "NUL": f"{CANARY}\0",
    "a lone surrogate": f"\ud800{CANARY}\udfff",
    "200 characters": "x" * 200,
    "5,000,000 characters": "x" * 5_000_000,
    "5,000,000 wide characters": "\N{PARTY POPPER}" * 5_000_000,
    "5,000,000 NULs": "\0" * 5_000_000,
    "every plane": "".join(chr(plane * 0x10000 + 0x0E01) for plane in range(17)),
    "right-to-left marks": "\u202eevil\u2066\u200f",
    "separators of lines": "a\u2028b\u2029c\x85\r\n\v\f",
    "terminal escapes": "\x1b[31m\x1b]0;title\x07\x9b",
    "rich markup": "[bold red]a[/] [link=https://a.example]",
    "HTML": "<script>alert(1)</script>&amp;",
    "SQL": "'; DROP TABLE analytics_events; -- \\' \"",
    "Prometheus labels": 'a"} 1\n# EOF\nb{c="\\',
    "a formula": '=HYPERLINK("https://a.example")',
    "JSON": '{"a": [1, "\\u0000"]}',
    "TOML": '[a]\nb = """\n${HOME}',
    "a quotation mark": 'a"b',
    "a path of JSON": "$.a",
    "a placeholder": "%s %(a)s {0} ${a} :a ?",
    "a name of objects": "__proto__",
    "the text null": "null",
}

_NUMBERS: dict[str, Any] = {
    "True": True,
    "False": False,
    "0": 0,
    "-0.0": -0.0,
    "NaN": math.nan,
    "infinity": math.inf,
    "-infinity": -math.inf,
    "2**53 + 1": 2**53 + 1,
    "2**63": 2**63,
    "-2**63 - 1": -(2**63) - 1,
    "10**5000": 10**5_000,
    "2**10,000,000": 1 << 10_000_000,
    "1j": 1j,
    "the largest float": sys.float_info.max,
    "an IntEnum": _Number.ONE,
    "a StrEnum": _Word.ONE,
    "an Enum of an object": _Choice.OBJECT,
    "an Enum with a property of its own": _Selfish.ME,
    "Decimal NaN": Decimal("sNaN"),
    "a large Decimal": Decimal("1E+1000"),
    "a long Decimal": Decimal("1" * 1_000_000),
    "a Fraction": Fraction(10**5_000, 3),
}
_TIMES: dict[str, Any] = {
    "a naive time": datetime(2026, 1, 31, 12),  # noqa: DTZ001 - that is the kind
    "a time in Kathmandu": datetime(2026, 1, 31, 12, tzinfo=ZoneInfo("Asia/Kathmandu")),
    "a folded time": datetime(2026, 10, 25, 2, 30, tzinfo=ZoneInfo("Europe/Berlin"), fold=1),
    "the year 1": datetime(1, 1, 1, tzinfo=timezone(timedelta(hours=23))),
    "the year 9999": datetime(9999, 12, 31, 23, 59, tzinfo=timezone(-timedelta(hours=23))),
    "a zone that raises": datetime(2026, 1, 1, tzinfo=_Zone()),
    "a date": date(2026, 1, 31),
    "a time of day": time_of_day(12, tzinfo=UTC),
    "a duration": timedelta.max,
    "seconds": 1_769_862_615.5,
    "milliseconds": 1_769_862_615_123,
    "a time in text": "2026-01-31T12:30:15+05:45",
}
_CONTAINERS: dict[str, Callable[[], Any]] = {
    "a list": lambda: [1, CANARY, None],
    "a tuple": lambda: (1, CANARY, (2,)),
    "a named tuple": lambda: _Pair(1, CANARY),
    "a set": lambda: {1, CANARY},
    "a frozenset": lambda: frozenset({1, CANARY}),
    "a deque": lambda: collections.deque([1, CANARY]),
    "a long deque": lambda: collections.deque(range(1_000_000)),
    "a generator": lambda: (number for number in range(3)),
    "a range": lambda: range(10**9),
    "a table": lambda: {"a": {CANARY: [None]}},
    "keys of every type": lambda: {1: 1, None: 2, False: 3, (1, 2): 4, 1.5: 5, math.nan: 6, b"x": 7, _Word.ONE: 8},
    "the same key twice": lambda: {1: "a", "1": "b"},
    "an ordered table": lambda: collections.OrderedDict(a=1),
    "a proxy of a table": lambda: types.MappingProxyType({"a": 1}),
    "a view of keys": lambda: dict.fromkeys(range(1_000_000)).keys(),
    "a list that ends never": lambda: type("Endless", (list,), {"__iter__": _endless})([1]),
    "a set that ends never": lambda: type("Endless", (set,), {"__iter__": _endless})([1]),
    "a mapping that ends never": lambda: _EndlessMapping(),  # noqa: PLW0108 - as the others
    "a mapping that lies about its length": lambda: _LyingMapping(),  # noqa: PLW0108 - as the others
    "a list in itself": _recursive,
    "a table in itself": _recursive_table,
    "shared lists": _shared,
    "depth 1,000": lambda: _deep(500),
    "70,000 integers": lambda: list(range(70_000)),
    "70,000 texts": lambda: [CANARY] * 70_000,
    "70,000 attributes": lambda: {str(number): number for number in range(70_000)},
    "1,000 attributes of 100 integers": lambda: {str(number): list(range(100)) for number in range(1_000)},
    "1,000 lists that share members": lambda: [[[CANARY] * 100] * 100] * 1_000,
    "a table that another thread changes": _changing,
}
_OBJECTS: dict[str, Callable[[], Any]] = {
    "an object": object,
    "a namespace": lambda: types.SimpleNamespace(a=CANARY),
    "an attrs object": lambda: _Attrs(CANARY),
    "an exception": lambda: ValueError(CANARY),
    "a UUID": lambda: uuid.UUID(int=5),
    "a fast UUID": lambda: uuid_utils.UUID(int=5),
    "an address": lambda: ipaddress.ip_address("2001:db8::1"),
    "a path": lambda: pathlib.PurePosixPath("/", CANARY),
    "bytes": lambda: b"\xff\0CANARY",
    "5,000,000 bytes": lambda: bytes(5_000_000),
    "a bytearray": lambda: bytearray(b"CANARY"),
    "a memoryview": lambda: memoryview(b"CANARY"),
    "a module": lambda: sys,
    "a function": lambda: _endless,
    "a built-in function": lambda: len,
    "a class": lambda: _Attrs,
    "a coroutine": _coroutine,
    "the ellipsis": lambda: ...,
    "a mock": mock.Mock,
    "a mock of text": lambda: mock.Mock(spec=str),
    "an object equal to all": lambda: mock.ANY,
    "a type with a trap": lambda: _TrapMeta("Trap", (), {})(),  # noqa: PLW0108 - made when it is used
}
for _error in (ValueError, SystemExit, KeyboardInterrupt):
    for _base, _given in ((str, CANARY), (int, 5), (float, 0.5), (bytes, b"CANARY"), (list, [1]), (dict, {"a": 1})):
        _OBJECTS[f"a {_base.__name__} whose methods raise {_error.__name__}"] = partial(
            _raising(_base, _error, *_OF_TEXT, *_OF_TABLES), _given
        )
    _OBJECTS[f"an object whose methods raise {_error.__name__}"] = _raising(object, _error)
    _OBJECTS[f"an object whose attributes raise {_error.__name__}"] = partial(_all_attributes_raise, _error)
    _OBJECTS[f"an object whose class raises {_error.__name__}"] = type(
        "Hidden", (), {"__class__": property(_raises(_error))}
    )
for _claimed in (str, int, float, dict, list, datetime, FlagEvaluationEvent):
    _OBJECTS[f"an object that claims to be of {_claimed.__name__}"] = partial(_lying, _claimed)


def _same(value: Any) -> Callable[[], Any]:
    return lambda: value


HOSTILE_KINDS: dict[str, Callable[[], Any]] = {
    **{name: _same(text) for name, text in _TEXTS.items()},
    **{name: _same(value) for name, value in (_NUMBERS | _TIMES).items()},
    **_CONTAINERS,
    **_OBJECTS,
}
"""Every kind of hostile value, by its description: each function makes one."""


def _library(name: str) -> Any:
    """Return a library's module, None where it is not installed."""
    return importlib.import_module(name) if importlib.util.find_spec(name) else None


if werkzeug := _library("werkzeug"):
    _local = importlib.import_module("werkzeug.local")
    HOSTILE_KINDS["a proxy of werkzeug"] = lambda: _local.LocalProxy(lambda: f"{CANARY} proxy")
    HOSTILE_KINDS["a proxy of werkzeug out of context"] = lambda: _local.LocalProxy(_raises(RuntimeError))
if wrapt := _library("wrapt"):
    HOSTILE_KINDS["a proxy of wrapt"] = lambda: wrapt.ObjectProxy(f"{CANARY} proxy")
if lazy := _library("lazy_object_proxy"):
    HOSTILE_KINDS["a lazy proxy"] = lambda: lazy.Proxy(lambda: f"{CANARY} proxy")
if numpy := _library("numpy"):
    for _name in ("bool_", "int64", "uint64", "float32", "float64", "complex128", "str_", "bytes_", "datetime64"):
        HOSTILE_KINDS[f"a {_name} of numpy"] = partial(getattr(numpy, _name), "2026" if _name == "datetime64" else 1)
    HOSTILE_KINDS["an array of numpy"] = lambda: numpy.zeros(1_000_000)
if pandas := _library("pandas"):
    HOSTILE_KINDS["a Timestamp of pandas"] = partial(pandas.Timestamp, "2026-01-31T12:30:15.123456789", tz="UTC")
    HOSTILE_KINDS["NaT of pandas"] = lambda: pandas.NaT
    HOSTILE_KINDS["NA of pandas"] = lambda: pandas.NA
if pydantic := _library("pydantic"):
    HOSTILE_KINDS["a model of pydantic"] = pydantic.create_model("Model", name=(str, CANARY))
