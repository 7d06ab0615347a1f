"""The parameters of each question as types: they are read, bounded and described in ``/openapi.json`` from here."""

from __future__ import annotations

import re
from datetime import datetime
from typing import Annotated, Any, Literal, TypeVar

import msgspec
from flag_analytics.sources import EventFilter
from msgspec import Meta
from starlette.datastructures import QueryParams

from .options import ApiOptions
from .problems import ProblemError
from .windows import WINDOW_PATTERN

__all__ = [
    "EventsQuery",
    "FiguresQuery",
    "FlagQuery",
    "FlagsQuery",
    "NoQuery",
    "OutcomesQuery",
    "SeriesQuery",
    "WhereQuery",
    "read_query",
    "where_of",
]

Q = TypeVar("Q", bound=msgspec.Struct)

Text = Annotated[str, Meta(max_length=512)]
Texts = Annotated[list[Text], Meta(max_length=20)]
Kind = Literal["evaluation", "exposure", "outcome"]
Kinds = Annotated[list[Kind], Meta(max_length=3)]
Groups = Annotated[int, Meta(ge=1, le=50)]
Dimension = Annotated[
    str,
    Meta(
        pattern=r"^(variant|reason|flag_version|environment|context\..{1,200})$",
        description="variant, reason, flag_version, environment or context.NAME",
        examples=["variant"],
    ),
]
Cursor = Annotated[str, Meta(max_length=1_024, description="next_cursor of the page before")]


class NoQuery(msgspec.Struct, forbid_unknown_fields=True):
    """There are no parameters."""


class WindowQuery(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """A window of time."""

    window: Annotated[
        str, Meta(pattern=WINDOW_PATTERN, description="How far back: 90s, 15m, 1h, 7d, 2w or all", examples=["24h"])
    ] = "1h"
    until: Annotated[datetime, Meta(tz=True, description="Where the window ends; by default now")] | None = None


class WhereQuery(WindowQuery, kw_only=True, forbid_unknown_fields=True):
    """A window of time and the events in it to look at; a parameter that is repeated means one of the values."""

    environment: Texts = []
    variant: Texts = []
    reason: Texts = []
    provider: Texts = []
    kind: Kinds = []
    user: Annotated[Texts, Meta(description="Targeting keys; only with show_people")] = []
    where: Annotated[
        list[Annotated[str, Meta(max_length=512, pattern=r"^[^=]+=")]],
        Meta(max_length=20, description="Context attributes, as NAME=VALUE", examples=[["release=2026.11"]]),
    ] = []


class FiguresQuery(WhereQuery, kw_only=True, forbid_unknown_fields=True):
    """Events to look at, and how exactly."""

    accuracy: Annotated[
        Literal["exact", "fast"],
        Meta(description="fast: from rollups where they are kept; the answer says within which bounds"),
    ] = "exact"


class FlagsQuery(FiguresQuery, kw_only=True, forbid_unknown_fields=True):
    """The list of flags."""

    search: Annotated[Text, Meta(description="A part of the key, whatever the case")] = ""
    sort: Literal["key", "-key", "count", "-count", "last_seen", "-last_seen"] = "-count"
    limit: Annotated[int, Meta(ge=1, le=100)] = 20
    cursor: Cursor = ""
    detail: Annotated[
        Literal["counts", "full"],
        Meta(description="full: also users, errors, latency and a small series of each flag on the page"),
    ] = "counts"
    format: Literal["json", "csv"] = "json"


class FlagQuery(FiguresQuery, kw_only=True, forbid_unknown_fields=True):
    """One flag."""

    group_by: Dimension | None = None
    groups: Groups = 10


class SeriesQuery(FlagQuery, kw_only=True, forbid_unknown_fields=True):
    """One flag over time."""

    step: Annotated[
        str, Meta(pattern=r"^([1-9][0-9]{0,5}[smhdw]|auto)$", description="1s, 5m, 1h, 1d or auto", examples=["1h"])
    ] = "auto"
    format: Literal["json", "csv"] = "json"


class OutcomesQuery(WhereQuery, kw_only=True, forbid_unknown_fields=True):
    """What users did after they had met a flag; the filter is about their exposures alone."""

    outcome: Annotated[Text, Meta(description="The name of the outcome, as it was recorded", examples=["purchase"])]
    control: Annotated[
        Text, Meta(description="The variant that others are compared with; by default control, off or default")
    ] = ""
    expect: Annotated[
        list[Annotated[str, Meta(max_length=512, pattern=r"^.+=[0-9]{1,9}(\.[0-9]{1,9})?$")]],
        Meta(
            max_length=50,
            description="The planned share of each variant, as NAME=NUMBER; by default equal ones",
            examples=[["control=90", "treatment=10"]],
        ),
    ] = []


class EventsQuery(WhereQuery, kw_only=True, forbid_unknown_fields=True):
    """Single events, the newest first."""

    flag: Annotated[Text, Meta(description="The flag's key")] | None = None
    limit: Annotated[int, Meta(ge=1, le=500)] = 50
    cursor: Cursor = ""
    format: Annotated[
        Literal["json", "csv", "jsonl"], Meta(description="csv and jsonl: all events of the window, as a file")
    ] = "json"


def read_query(kind: type[Q], given: QueryParams) -> Q:
    """Return the parameters of a request as one of these types.

    Raises:
        ProblemError: a parameter is unknown, repeated, or out of its bounds; the problem names it.
    """
    fields = {field.encode_name: field for field in msgspec.structs.fields(kind)}
    raw: dict[str, Any] = {}
    for name in given:
        values = given.getlist(name)
        if name not in fields:
            known = ", ".join(fields) or "none"
            raise ProblemError(400, "there is no such parameter", parameter=_short(name), expected=f"one of: {known}")
        if isinstance(fields[name].default_factory, type) and fields[name].default_factory is list:
            raw[name] = values
        elif len(values) > 1:
            raise ProblemError(400, f"{name} is given more than once", parameter=name, expected="one value")
        else:
            raw[name] = values[0]
    for name, value in raw.items():
        try:
            raw[name] = msgspec.convert(value, fields[name].type, strict=False)
        except msgspec.ValidationError:
            expected = expectation(fields[name].type)
            raise ProblemError(400, f"{name} is not usable", parameter=name, expected=expected) from None
    for name, field in fields.items():
        if field.required and name not in raw:
            raise ProblemError(400, f"{name} is missing", parameter=name, expected=expectation(field.type))
    return kind(**raw)


def expectation(kind: Any) -> str:
    """Return in words what a value of this type looks like."""
    schema = msgspec.json.schema(kind)
    for one in schema.get("anyOf", ()):
        if one.get("type") != "null":
            schema = {**schema, **one}
    if "enum" in schema:
        return "one of: " + ", ".join(map(str, schema["enum"]))
    if schema.get("type") == "integer":
        return f"an integer from {schema['minimum']} to {schema['maximum']}"
    if schema.get("type") == "array":
        item = schema["items"]
        what = "one of: " + ", ".join(item["enum"]) if "enum" in item else schema.get("description", "texts")
        return f"{what}; at most {schema['maxItems']} of them"
    if schema.get("format") == "date-time":
        return "a time with its zone, such as 2026-01-31T12:00:00Z"
    return str(schema.get("description") or f"a text of at most {schema.get('maxLength')} characters")


def where_of(query: WhereQuery, options: ApiOptions) -> EventFilter:
    """Return the filter of a question.

    Raises:
        ProblemError: it would tell about people, which is not allowed here.
    """
    if query.user and not options.show_people:
        raise ProblemError(403, "people are not shown here: set show_people to filter by user", parameter="user")
    context: dict[str, frozenset[Any]] = {}
    for pair in query.where:
        name, _, text = pair.partition("=")
        check_attribute(name, "where", options)
        context[name] = context.get(name, frozenset()) | _meanings(text)
    given: dict[str, Any] = {"kinds": tuple(query.kind)} if query.kind else {}
    return EventFilter(
        environment=_any_of(query.environment),
        variant=_any_of(query.variant),
        reasons=_any_of(query.reason),
        provider_name=_any_of(query.provider),
        targeting_key=_any_of(query.user),
        context=context,
        **given,
    )


def check_attribute(name: str, parameter: str, options: ApiOptions) -> None:
    """Refuse a question about a context attribute that may tell about people.

    Raises:
        ProblemError: it is not one of ``shown_attributes``, and people are not shown.
    """
    if not options.show_people and name not in options.shown_attributes:
        raise ProblemError(
            403,
            "this attribute may tell about people, who are not shown here: set show_people, or add it to "
            "shown_attributes",
            parameter=parameter,
            expected=", ".join(options.shown_attributes) or None,
        )


def _any_of(values: list[str]) -> frozenset[str] | None:
    return frozenset(values) or None


def _meanings(text: str) -> frozenset[Any]:
    """Return the values that a text may stand for: itself, and the number or boolean that it spells."""
    if re.fullmatch(r"true|false|-?[0-9]{1,15}(\.[0-9]{1,15})?", text):
        return frozenset({text, msgspec.json.decode(text)}) if not re.match(r"-?0[0-9]", text) else frozenset({text})
    return frozenset({text})


def _short(name: str) -> str:
    return name if len(name) <= 80 else f"{name[:80]}…"
