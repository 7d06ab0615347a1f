"""Events to try a backend with: plain ones, edge cases, and hostile ones."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, timezone
from enum import Enum
from types import SimpleNamespace
from typing import Any

from ..events import EvaluationReason, FlagEvaluationEvent
from ..frozen import FrozenEvent

__all__ = [
    "HARD_SAMPLES",
    "described",
    "edge_case_values",
    "foreign_event",
    "frozen_event",
    "hostile_events",
    "plain_event",
    "plain_events",
]

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


def plain_event(number: int = 0, **fields: Any) -> FlagEvaluationEvent:
    """Return an event that differs from that of any other number in every field that can differ."""
    defaults: dict[str, Any] = {
        # Of a minute ago, so that no backend takes it for skewed, or for too old to keep.
        "timestamp": datetime.now(UTC) - timedelta(minutes=1) + timedelta(microseconds=number),
        "flag_key": f"flag-{number}",
        "value": f"value-{number}",
        "reason": EvaluationReason.SPLIT,
        "variant": f"variant-{number}",
        "targeting_key": f"user-{number}",
        "context_attributes": {"plan": f"plan-{number}"},
        "evaluation_duration_ms": 0.25 + number,
    }
    return FlagEvaluationEvent(**(defaults | fields))


def plain_events(count: int, **fields: Any) -> list[FlagEvaluationEvent]:
    """Return events numbered from 0; read backwards, their keys are others."""
    return [plain_event(number, **fields) for number in range(count)]


def frozen_event(number: int = 0, *, size: int = 700) -> FrozenEvent:
    """Return an accepted event that is told from others by ``number``; it weighs ``size`` bytes in a queue."""
    return FrozenEvent(
        datetime(2026, 1, 1, tzinfo=UTC), "f", b"true", "STATIC", None, None, b"{}", 0.0, f"{number:06d}",
        None, None, None, None, None, "evaluation", 1.0, 0.0, size,
    )  # fmt: skip


_PLANES = (
    "é ß ﬁ İ ı 漢字 \u0301 \u200d \u202e \ufeff \uffff 𐍈 😀👩\u200d🚀 𠀀 \U00030000 \U000e0041 \U000f0000 \U0010fffd"
)
"""Characters of every plane that has any, with those that are folded, joined, turned round or dropped by mistake."""
_KEY_CHARS = 190
_LONG_KEY = "k" * (_KEY_CHARS - 2) + "漢🚩"

_FALSY: tuple[Any, ...] = (None, False, 0, 0.0, "", [], {})

HARD_SAMPLES: dict[str, list[dict[str, Any]]] = {
    "times before 1970": [
        {"timestamp": datetime(1969, 12, 31, 23, 59, 59, 999_999, UTC)},
        {"timestamp": datetime(1900, 2, 28, 0, 0, 0, 1, UTC)},
    ],
    "times after 2038": [
        {"timestamp": datetime(2038, 1, 19, 3, 14, 8, 1, UTC)},
        {"timestamp": datetime(2107, 7, 1, 12, 0, 0, 999_999, UTC)},
    ],
    "microseconds": [
        {"timestamp": datetime(2026, 1, 31, 12, 30, 15, microsecond, UTC)}
        for microsecond in (0, 1, 123_457, 499_999, 500_000, 999_999)
    ],
    "hours that clocks are turned back to": [
        {"timestamp": datetime(2026, 11, 1, hour, 30, tzinfo=UTC)} for hour in (4, 5, 6, 7)
    ],
    "zones": [
        {"timestamp": datetime(2026, 1, 31, 12, tzinfo=timezone(timedelta(hours=hours)))} for hours in (-12, 5.75, 14)
    ],
    "long keys": [
        {"flag_key": _LONG_KEY, "variant": _LONG_KEY, "targeting_key": _LONG_KEY},
        {"flag_key": _LONG_KEY[:-1] + "z", "variant": _LONG_KEY[:-1] + "z", "targeting_key": _LONG_KEY[:-1] + "z"},
    ],
    "long messages": [{"error_message": "m" * 1_999 + "漢"}],
    "large values": [{"value": "v" * 60_000}, {"value": 1, "context_attributes": {"a": "v" * 60_000}}],
    "texts of every plane": [{"value": _PLANES, "variant": _PLANES, "context_attributes": {_PLANES: _PLANES}}],
    "control characters": [{"value": "a\tb\r\nc\x1f\x7f\x85\u2028", "variant": "a\tb\r\nc\x1f\x7f\x85\u2028"}],
    "letters that differ in case": [{"flag_key": key, "variant": key} for key in ("Flag", "flag", "FLAG", "fläg")],
    "spaces at the ends": [{"variant": text, "targeting_key": text} for text in (" a", "a ", "a", " ", "")],
    "large integers": [{"value": value} for value in (2**53 + 1, -(2**53) - 1, 2**63 - 1, -(2**63))],
    "falsy values": [{"value": value} for value in _FALSY],
    "values that look alike": [
        {"value": value, "context_attributes": {"a": value}} for value in (1, 1.5, True, "1", "true", [1], {"1": 1})
    ],
    "no variant, and one named default": [{"variant": variant} for variant in (None, "default", "", "None", "null")],
    "durations": [{"evaluation_duration_ms": value} for value in (1e-9, 1e9, 0.1 + 0.2, 1 / 3, 0.0, 123_456.789_012)],
    "sample rates": [{"sample_rate": value} for value in (1e-6, 1 / 3, 0.1, 1.0)],
}
"""Fields of events that are stored wrongly by mistake, by what is hard about them."""


def edge_case_values() -> list[Any]:
    """Return values that JSON can hold and that careless code takes for one another."""
    return [
        None,
        False,
        True,
        0,
        1,
        0.5,
        "",
        "0",
        "None",
        "false",
        'it\'s "quoted" \\ and\nbroken',
        "naïve 漢字 🚩",
        [],
        {},
        [None],
        {"a": None},
        {"a": [1, {"b": [True, None, "x"]}], "": {}},
        2**53 + 1,
        -(2**63),
    ]


def foreign_event(number: int = 0) -> Any:
    """Return an object of another class with the reference's attributes, as other SDKs send them."""
    event = plain_event(number)
    return SimpleNamespace(**{name: getattr(event, name) for name in REFERENCE_FIELDS})


class _Mood(Enum):
    GOOD = "good"


class _Unspeakable:
    def __repr__(self) -> str:
        raise RuntimeError("no repr")

    __str__ = __repr__

    def __hash__(self) -> int:
        raise RuntimeError("no hash")

    def __eq__(self, other: object) -> bool:
        raise RuntimeError("no comparison")

    def __bool__(self) -> bool:
        raise RuntimeError("no truth")


class _Lying(str):
    __slots__ = ()

    def __str__(self) -> str:
        raise RuntimeError("no text")

    def __eq__(self, other: object) -> bool:
        raise RuntimeError("no comparison")

    def __hash__(self) -> int:
        raise RuntimeError("no hash")


def hostile_events() -> Iterator[tuple[str, Any]]:
    """Yield what no backend should be sent, with what is wrong with it; each is to be stored in some canonical form."""
    endless: list[Any] = []
    endless.append(endless)
    deep: Any = 0
    for _ in range(200):
        deep = [deep]
    odd_values: dict[str, Any] = {
        "not a number": float("nan"),
        "an infinite number": float("inf"),
        "a huge number": 10**5_000,
        "a NUL": "a\0b",
        "a lone surrogate": "a\ud800b",
        "bytes": b"\xff\0",
        "a set": {1, 2},
        "an enum": _Mood.GOOD,
        "an object that cannot be shown": _Unspeakable(),
        "text that cannot be read": _Lying("text"),
        "a list in itself": endless,
        "too deep a list": deep,
        "too long a text": "x" * 100_000,
        "keys that are no text": {1: "a", None: "b", (2, 3): "c"},
    }
    for what, value in odd_values.items():
        yield f"{what} as value", plain_event(flag_key="hostile", value=value)
        yield f"{what} in the context", plain_event(flag_key="hostile", context_attributes={"a": value})
        yield f"{what} as targeting key", plain_event(flag_key="hostile", targeting_key=value)
        yield f"{what} as variant", plain_event(flag_key="hostile", variant=value)
        yield f"{what} as reason", plain_event(flag_key="hostile", reason=value)
        yield f"{what} as duration", plain_event(flag_key="hostile", evaluation_duration_ms=value)
    yield "no time", plain_event(flag_key="hostile", timestamp=None)
    yield "a time without zone", plain_event(flag_key="hostile", timestamp=datetime.now(UTC).replace(tzinfo=None))
    yield "a context that is none", plain_event(flag_key="hostile", context_attributes=None)
    yield "a context that is a list", plain_event(flag_key="hostile", context_attributes=[1])
    yield "an id that is none", plain_event(flag_key="hostile", event_id="not a uuid")


def described(event: Any, *, every_field: bool) -> dict[str, Any]:
    """Return the fields of an event, or of its ``to_dict()``, in a form in which equal means the same."""
    if isinstance(event, dict):
        event = FlagEvaluationEvent.from_dict(event)
    fields: dict[str, Any] = event.to_dict()
    assert event.timestamp.tzinfo is not None, "a time comes back without its zone: return it as UTC"
    fields["timestamp"] = event.timestamp.astimezone(UTC).isoformat()
    fields["value"] = json.dumps(event.value, sort_keys=True)  # in Python True == 1 == 1.0
    fields["context_attributes"] = json.dumps(dict(event.context_attributes), sort_keys=True)
    return fields if every_field else {name: fields[name] for name in REFERENCE_FIELDS}
