"""Every exception of flag-analytics.

::

    FlagAnalyticsError
    ├── EventError (ValueError)          an event cannot be read from what was given
    ├── ConfigError (ValueError)         all problems of one configuration, each with its path
    ├── PluginError                      a plugin is named but cannot be used
    │   └── PluginNotInstalledError (ImportError)   … because its distribution is missing
    ├── SourceError (TypeError)          an object cannot serve as an event source
    └── DeliveryError                    what a sink raises to say what became of a batch
        ├── SinkUnavailable              nothing was stored, a later attempt may succeed
        │   └── CommitUnknown            … or it was stored and the answer was lost
        ├── FatalConfiguration           no attempt can succeed before the configuration is mended
        └── BadBatch                     the content is refused: all of it, or the events that it names

Messages name the thing, the place, what was expected and what to do; never event content, never a secret.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import attrs

__all__ = [
    "BadBatch",
    "CommitUnknown",
    "ConfigError",
    "ConfigProblem",
    "DeliveryError",
    "EventError",
    "FatalConfiguration",
    "FlagAnalyticsError",
    "PluginError",
    "PluginNotInstalledError",
    "SinkUnavailable",
    "SourceError",
]


class FlagAnalyticsError(Exception):
    """The root of flag-analytics' own exceptions."""


class EventError(FlagAnalyticsError, ValueError):
    """An event cannot be read from what was given."""


@attrs.frozen
class ConfigProblem:
    """One thing wrong in a configuration: where (``collectors.memory.max_size``), what, and what to do about it."""

    path: str
    message: str

    def __str__(self) -> str:
        return f"{self.path}: {self.message}" if self.path else self.message


class ConfigError(FlagAnalyticsError, ValueError):
    """All the problems of one configuration, found before anything was created."""

    def __init__(self, problems: Sequence[ConfigProblem], source: str = "configuration") -> None:
        self.problems = tuple(problems)
        self.source = source
        lines = "".join(f"\n  - {problem}" for problem in self.problems)
        count = len(self.problems)
        super().__init__(f"{count} problem{'s' if count != 1 else ''} in {source}:{lines}")

    def __reduce__(self) -> tuple[type[ConfigError], tuple[Sequence[ConfigProblem], str]]:
        return type(self), (self.problems, self.source)


class PluginError(FlagAnalyticsError):
    """A plugin is named but cannot be used; the message names its distribution and what to do."""


class PluginNotInstalledError(PluginError, ImportError):
    """A backend is named whose distribution is not installed; the message holds the ``pip install`` line."""


class SourceError(FlagAnalyticsError, TypeError):
    """An object was given to ``AnalyticsAggregator`` that no installed plugin can read events from."""


class DeliveryError(FlagAnalyticsError):
    """What a sink raises from ``write`` to say what became of the batch.

    ``code`` is a short machine-readable cause (an SQLSTATE, an errno name, an HTTP status): it is what logs and
    dead letters show, since the message of a driver may quote event content.
    """

    def __init__(self, message: str = "", *, code: str = "") -> None:
        super().__init__(message)
        self.code = code


class SinkUnavailable(DeliveryError):  # noqa: N818 - it says what the sink is
    """Nothing of the batch was stored and a later attempt may succeed: the same batch is tried again.

    ``retry_after`` is the least pause before that, in seconds, as a backend asked for it; at most 300 are waited.
    """

    def __init__(self, message: str = "", *, code: str = "", retry_after: float = 0.0) -> None:
        super().__init__(message, code=code)
        self.retry_after = retry_after


class CommitUnknown(SinkUnavailable):
    """The connection was lost after the batch was sent: it may be stored, and is tried again under the same ids."""


class FatalConfiguration(DeliveryError):  # noqa: N818 - it says what is fatal
    """No attempt can succeed before the configuration is mended: a wrong password, a database that does not exist."""


class BadBatch(DeliveryError):  # noqa: N818 - it says what the batch is
    """The backend refused the content, and would again.

    Without ``refused`` and ``stored`` the bad events are found by bisection. A backend that answers for each event
    gives them instead, even if they are empty: events in neither are tried again.

    Args:
        message: For people; it is neither logged nor kept.
        refused: A short machine-readable reason for each refused event, by event id.
        stored: The ids of the events that are stored.
        code: As in ``DeliveryError``; it stands for a reason that is empty.

    Attributes:
        for_each: Whether it is an answer for each event.
    """

    def __init__(
        self,
        message: str = "",
        *,
        refused: Mapping[str, str] | None = None,
        stored: Iterable[str] | None = None,
        code: str = "",
    ) -> None:
        super().__init__(message, code=code)
        self.for_each = refused is not None or stored is not None
        self.refused = dict(refused or {})
        self.stored = frozenset(stored or ())
