"""Errors as the client sees them: ``application/problem+json`` (RFC 9457), each with what was expected."""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus

import msgspec
from starlette.requests import Request
from starlette.responses import Response

__all__ = ["PROBLEM_JSON", "Problem", "ProblemError", "answer_problem", "problem_response"]

PROBLEM_JSON = "application/problem+json"


class Problem(msgspec.Struct, omit_defaults=True):
    """What went wrong with a request (RFC 9457), and what was expected of it."""

    status: int
    title: str
    detail: str
    type: str = "about:blank"
    parameter: str | None = None
    expected: str | None = None


class ProblemError(Exception):
    """Ends a request with a problem.

    Attributes:
        status: The HTTP status.
        detail: What is wrong, and what to do.
        parameter: The parameter that is wrong.
        expected: What it should be.
        headers: Further headers of the answer.
    """

    def __init__(
        self,
        status: int,
        detail: str,
        *,
        parameter: str | None = None,
        expected: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.parameter = parameter
        self.expected = expected
        self.headers = headers


def problem_response(error: ProblemError) -> Response:
    """Return the answer to a request that ended with this problem."""
    body = Problem(
        error.status,
        HTTPStatus(error.status).phrase,
        error.detail,
        parameter=error.parameter,
        expected=error.expected,
    )
    return Response(msgspec.json.encode(body), error.status, error.headers, PROBLEM_JSON)


async def answer_problem(_: Request, error: Exception) -> Response:
    """Handle a ``ProblemError`` that a handler raised."""
    assert isinstance(error, ProblemError)
    return problem_response(error)
