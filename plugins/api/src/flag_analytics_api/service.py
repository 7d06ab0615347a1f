"""What every handler works with: the pipeline, the options, the bounds, and the envelope of an answer."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Awaitable, Callable, Iterable
from datetime import UTC, datetime
from typing import Any

import msgspec
from flag_analytics.aggregator import AnalyticsAggregator, Scope
from flag_analytics.canonical import canonical_key
from flag_analytics.config.plan import Plan
from flag_analytics.errors import SourceError
from flag_analytics.pipeline import Pipeline
from flag_analytics.sources import Accuracy
from starlette.requests import Request
from starlette.responses import Response

from .answers import Panel, TimeWindow
from .losses import Losses, sink_of
from .options import ApiOptions
from .parameters import FiguresQuery, WhereQuery, where_of
from .problems import ProblemError
from .questions import Questions
from .windows import Asked, asked_window

__all__ = ["Service", "is_fast", "key_in", "pack_cursor", "unpack_cursor"]

JSON = "application/json"
_encode = msgspec.json.Encoder().encode


class Service:
    """One API over one pipeline.

    Args:
        pipeline: Open; the API only reads.
        options: See ``ApiOptions``.
        plan: The configuration of the pipeline, to show its parts.
        panels: Further pictures of a dashboard.
    """

    def __init__(
        self, pipeline: Pipeline, options: ApiOptions, plan: Plan | None = None, panels: tuple[Panel, ...] = ()
    ) -> None:
        self.pipeline = pipeline
        self.options = options
        self.plan = plan
        self.panels = panels
        self.losses = Losses(pipeline)
        self._questions = Questions(
            options.max_questions, options.question_timeout_seconds, keep_seconds=options.cache_seconds
        )

    @property
    def aggregator(self) -> AnalyticsAggregator:
        """Answers questions.

        Raises:
            ProblemError: no collector of the pipeline keeps events.
        """
        try:
            return self.pipeline.aggregator
        except SourceError as error:
            raise ProblemError(501, str(error)) from None

    @property
    def collector(self) -> Any:
        """The collector that questions are answered from."""
        _ = self.aggregator
        return self.pipeline.collectors.get(sink_of(self.pipeline) or "")

    def asked(self, query: WhereQuery) -> Asked:
        """Return the window of a question."""
        return asked_window(query.window, query.until, datetime.now(UTC))

    def scope(self, query: WhereQuery, asked: Asked) -> Scope:
        """Return the filter and the end of a question, as the aggregator takes them."""
        scope: Scope = {"where": where_of(query, self.options), "until": asked.end}
        return {**scope, "accuracy": "fast"} if is_fast(query) else scope

    async def answer(self, name: str, question: Callable[[], Awaitable[Any]]) -> Response:
        """Return the JSON of an answer; equal questions are asked once in a moment."""

        async def encoded() -> bytes:
            return _encode(await question())

        return Response(await self._questions.ask(name, encoded), media_type=JSON)

    async def bounded(self, name: str, question: Callable[[], Awaitable[bytes]]) -> bytes:
        """Return an answer of any form, within the same bounds."""
        return await self._questions.ask(name, question)

    async def envelope(self, asked: Asked, *, estimated: bool, accuracies: Iterable[Accuracy] = ()) -> dict[str, Any]:
        """Return what an answer says of itself; of several accuracies the worst."""
        bounds: dict[str, float] = {}
        missing: set[str] = set()
        complete_since: datetime | None = None
        for accuracy in accuracies:
            bounds |= {part: max(bound, bounds.get(part, 0.0)) for part, bound in accuracy.bounds.items()}
            missing |= accuracy.missing
            if accuracy.complete_since is not None:
                complete_since = max(accuracy.complete_since, complete_since or accuracy.complete_since)
        return {
            "as_of": datetime.now(UTC),
            "window": TimeWindow(asked.start, asked.end),
            "exact": not estimated and not bounds and complete_since is None,
            "estimated": estimated,
            "bounds": bounds,
            "missing": sorted(missing),
            "complete_since": complete_since,
            "loss": await self.losses.within(asked.start, self.pipeline.event_source),
        }


def is_fast(query: WhereQuery) -> bool:
    """Return whether a question allows an answer from rollups."""
    return isinstance(query, FiguresQuery) and query.accuracy == "fast"


def key_in(request: Request) -> str:
    """Return the flag's key in the path.

    A key that no path can hold (empty, ``.``, ``..``, or with a slash) is written as ``~`` and the URL-safe Base64 of
    its UTF-8, as is one that begins with ``~``.

    Raises:
        ProblemError: what follows ``~`` is no such Base64.
    """
    text: str = request.path_params["key"]
    return canonical_key(_unpacked(text[1:], "key").decode("utf-8", "replace") if text.startswith("~") else text)


def pack_cursor(*parts: Any) -> str:
    """Return a cursor that holds these values."""
    return base64.urlsafe_b64encode(_encode(parts)).rstrip(b"=").decode()


def unpack_cursor(cursor: str, kind: Any) -> tuple[Any, ...]:
    """Return the values of a cursor, which are a tuple of this type.

    Raises:
        ProblemError: it is none that this API has given.
    """
    try:
        parts: tuple[Any, ...] = msgspec.json.decode(_unpacked(cursor, "cursor"), type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        raise _bad_base64("cursor") from None
    return parts


def _unpacked(text: str, parameter: str) -> bytes:
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4), b"-_", validate=True)
    except (binascii.Error, ValueError):
        raise _bad_base64(parameter) from None


def _bad_base64(parameter: str) -> ProblemError:
    expected = "next_cursor of an answer" if parameter == "cursor" else "~ and the URL-safe Base64 of the key's UTF-8"
    return ProblemError(400, f"{parameter} cannot be read", parameter=parameter, expected=expected)
