"""The settings of the API: who may ask, what is shown, and how much a question may cost."""

from __future__ import annotations

from typing import Any

import attrs
from flag_analytics.errors import ConfigError, ConfigProblem

__all__ = ["LOOPBACK_HOSTS", "MIN_TOKEN_CHARS", "ApiOptions"]

MIN_TOKEN_CHARS = 16
"""Long enough that trying all of them is no way in."""
LOOPBACK_HOSTS = ("localhost", "127.0.0.1", "::1")

_at_least_one = attrs.validators.ge(1)
_above_zero = attrs.validators.gt(0.0)
_up_to_a_second = attrs.validators.and_(attrs.validators.ge(0.0), attrs.validators.le(1.0))


def _check_token(_: Any, __: Any, token: Any) -> None:
    if token is None:
        return
    if not isinstance(token, str) or len(token) < MIN_TOKEN_CHARS or not token.isascii() or not token.isprintable():
        raise ConfigError(
            [
                ConfigProblem(
                    "token",
                    f"it is not fit to be one: expected at least {MIN_TOKEN_CHARS} printable ASCII characters, such as "
                    "those of `python -c 'import secrets; print(secrets.token_urlsafe())'`",
                )
            ],
            "the API",
        )


def _check_access(options: ApiOptions, _: Any, __: Any) -> None:
    if options.token is None and not options.guarded and not options.loopback:
        raise ConfigError(
            [
                ConfigProblem(
                    "token",
                    "anyone who reaches the application could read it: give a token, or guarded=True where the "
                    "application checks by itself who may come here, or loopback=True for this machine alone",
                )
            ],
            "the API",
        )


@attrs.frozen(kw_only=True)
class ApiOptions:
    """The settings of the API. Times are in seconds.

    One of ``token``, ``guarded`` and ``loopback`` is needed. With a token and ``loopback``, both are required of a
    request.

    Attributes:
        token: What a client must know: ``Authorization: Bearer TOKEN``; at least 16 printable ASCII characters.
        guarded: The application that mounts the API checks by itself who may ask.
        loopback: Answer clients on this machine alone, and those only under one of ``allowed_hosts``, so that a foreign
            page in a browser on this machine cannot ask (DNS rebinding).
        allowed_hosts: The names in a ``Host`` header that are known, without a port.
        show_people: Show targeting keys and context attributes, and allow to filter by them.
        shown_attributes: Context attributes that say nothing about people: shown without ``show_people``.
        question_timeout_seconds: The longest a question may take.
        max_questions: The most questions that are asked of the source at once.
        cache_seconds: How long an answer may be given again, as of its ``as_of``; 0 never.
        max_live_clients: The most open ``/live`` streams.
        max_export_events: The most events in one export.

    Raises:
        ConfigError: the token is too short, or none of the three ways of access is chosen.
    """

    token: str | None = attrs.field(default=None, repr=False, validator=_check_token, metadata={"secret": True})
    guarded: bool = False
    loopback: bool = attrs.field(default=False, validator=_check_access)
    allowed_hosts: tuple[str, ...] = attrs.field(default=LOOPBACK_HOSTS, converter=tuple)
    show_people: bool = False
    shown_attributes: tuple[str, ...] = attrs.field(default=("environment", "release", "http.route"), converter=tuple)
    question_timeout_seconds: float = attrs.field(default=10.0, validator=_above_zero)
    max_questions: int = attrs.field(default=4, validator=_at_least_one)
    cache_seconds: float = attrs.field(default=1.0, validator=_up_to_a_second)
    max_live_clients: int = attrs.field(default=1_000, validator=_at_least_one)
    max_export_events: int = attrs.field(default=100_000, validator=_at_least_one)
