"""``/openapi.json``: OpenAPI 3.1, made from the types of the parameters and answers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs
import msgspec
from flag_analytics.pipeline import Pipeline

from .answers import Delivery, Events, FlagDetail, Flags, Health, Outcomes, Plugins, Series
from .live import LiveMessage
from .parameters import EventsQuery, FlagQuery, FlagsQuery, NoQuery, OutcomesQuery, SeriesQuery
from .problems import PROBLEM_JSON, Problem

__all__ = ["OPERATIONS", "Operation", "document"]

_KEY = {
    "name": "key",
    "in": "path",
    "required": True,
    "description": "The flag's key; one that is empty, `.` or `..`, has a slash or begins with `~` is written as `~` "
    "and the URL-safe Base64 of its UTF-8.",
    "schema": {"type": "string", "minLength": 1, "pattern": "^[A-Za-z0-9_-]+$"},
    "example": "new-checkout",
}
_STREAM = "text/event-stream"
_OTHER_FORMS = {"csv": "text/csv", "jsonl": "application/x-ndjson"}
_PROBLEMS = {
    "400": "A parameter is wrong",
    "401": "A token is needed",
    "403": "Not for this client",
    "404": "There is no such address",
    "421": "The Host header names an unknown host",
    "501": "No collector can answer this",
    "503": "The source does not answer, or too many questions wait",
    "504": "The question took too long",
}


@attrs.frozen
class Operation:
    """One question of the API.

    Attributes:
        path: The path, with the parameter in braces.
        name: The operation's id.
        summary: What it answers.
        query: The type of its parameters.
        answer: The type of its answer.
        media_type: The form of the answer.
    """

    path: str
    name: str
    summary: str
    query: type[msgspec.Struct]
    answer: type[msgspec.Struct]
    media_type: str = "application/json"


OPERATIONS = (
    Operation("/flags", "flags", "The flags that were evaluated, a page at a time", FlagsQuery, Flags),
    Operation("/flags/{key}", "flag", "All figures of one flag", FlagQuery, FlagDetail),
    Operation("/flags/{key}/series", "series", "One flag over time", SeriesQuery, Series),
    Operation(
        "/flags/{key}/outcomes", "outcomes", "What users did after they met a flag, by variant", OutcomesQuery, Outcomes
    ),
    Operation("/events", "events", "Single events, the newest first", EventsQuery, Events),
    Operation("/health", "health", "Whether the pipeline and its backends are well", NoQuery, Health),
    Operation("/delivery", "delivery", "What became of every event, by backend", NoQuery, Delivery),
    Operation("/plugins", "plugins", "The parts of the pipeline, and the installed plugins", NoQuery, Plugins),
    Operation("/live", "live", "What happens, as server-sent events", NoQuery, LiveMessage, _STREAM),
)


def document(version: str, server: str) -> dict[str, Any]:
    """Return the OpenAPI document.

    Args:
        version: The version of the distribution.
        server: Where the API is mounted.
    """
    types = [*(operation.query for operation in OPERATIONS), *(operation.answer for operation in OPERATIONS), Problem]
    schemas, components = msgspec.json.schema_components(types, ref_template="#/components/schemas/{name}")
    queries = dict(zip((operation.path for operation in OPERATIONS), schemas, strict=False))
    answers = dict(zip((operation.path for operation in OPERATIONS), schemas[len(OPERATIONS) :], strict=False))
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "flag-analytics",
            "version": version,
            "summary": "What feature flags are doing, and what became of every event",
            "description": (Pipeline.__doc__ or "").splitlines()[0],
            "license": {"name": "MIT", "identifier": "MIT"},
        },
        "servers": [{"url": server or "/"}],
        "security": [{"token": []}, {}],
        "paths": {
            operation.path: {"get": _described(operation, queries, answers, components, schemas[-1])}
            for operation in OPERATIONS
        },
        "components": {
            "schemas": {name: schema for name, schema in components.items() if not name.endswith("Query")},
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
    }


def _described(
    operation: Operation,
    queries: Mapping[str, Any],
    answers: Mapping[str, Any],
    components: Mapping[str, Any],
    problem: Any,
) -> dict[str, Any]:
    query = components[queries[operation.path]["$ref"].rpartition("/")[2]]
    parameters = [
        {
            "name": name,
            "in": "query",
            "required": name in query.get("required", ()),
            **({"description": description} if (description := schema.get("description")) else {}),
            "schema": {field: value for field, value in schema.items() if field != "description"},
        }
        for name, schema in query["properties"].items()
    ]
    content = {operation.media_type: {"schema": answers[operation.path]}}
    for form in query["properties"].get("format", {}).get("enum", ()):
        if form in _OTHER_FORMS:
            content[_OTHER_FORMS[form]] = {"schema": {"type": "string"}}
    answered = {"200": {"description": operation.summary, "content": content}}
    if operation.path == "/health":
        answered["503"] = {"description": "The pipeline is closed", "content": content}
    problems = {
        status: {"description": words, "content": {PROBLEM_JSON: {"schema": problem}}}
        for status, words in _PROBLEMS.items()
        if status not in answered
    }
    return {
        "operationId": operation.name,
        "summary": operation.summary,
        "parameters": [_KEY, *parameters] if "{key}" in operation.path else parameters,
        "responses": answered | problems,
    }
