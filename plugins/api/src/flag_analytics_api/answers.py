"""The answers of the API as types; ``/openapi.json`` is made from them."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

import msgspec
from msgspec import Meta

__all__ = [
    "DeadLetterCount",
    "Delivery",
    "EventItem",
    "Events",
    "Exposure",
    "Figures",
    "FlagDetail",
    "FlagItem",
    "Flags",
    "Health",
    "Ledger",
    "Live",
    "Loss",
    "OutcomeDifference",
    "Outcomes",
    "Panel",
    "Plugin",
    "Plugins",
    "Series",
    "SeriesLine",
    "SinkHealth",
    "Step",
    "TimeWindow",
    "VariantOutcome",
    "VariantUsers",
]

Percent = Annotated[float, Meta(ge=0, le=100)]


class TimeWindow(msgspec.Struct):
    """The window of an answer; both ends belong to it. Without a start it reaches back to the first event."""

    start: datetime | None
    end: datetime


class Loss(msgspec.Struct):
    """Events that are missing from a window's figures, as far as the ledger of the asked process tells.

    ``since`` is where their count begins, at the start of the window or earlier; null is the start of the process. A
    source that keeps only the newest events has forgotten those before ``complete_from``.
    """

    events: int
    reasons: dict[str, int]
    since: datetime | None = None
    complete_from: datetime | None = None


class Envelope(msgspec.Struct, kw_only=True):
    """What every answer about a window says of itself.

    ``exact``: the figures were counted from every stored event. Where they are not, ``error_bound`` is their relative
    standard error, if it is known. ``estimated``: sampled events are among them, counted back by their rate.

    Of a fast answer, or one about events that were removed, ``bounds`` are relative errors by part, as ratios: of users
    two standard errors, of latencies the most that they are off. Figures of the parts in ``missing`` are null or empty.
    Events before ``complete_since`` are in no figure.
    """

    as_of: datetime
    window: TimeWindow
    exact: bool = True
    error_bound: float | None = None
    estimated: bool = False
    bounds: dict[str, float] = {}
    missing: list[str] = []
    complete_since: datetime | None = None
    loss: Loss


class Figures(msgspec.Struct, kw_only=True):
    """The figures of some events; latencies in milliseconds, 0 where none was measured; null for what is missing."""

    evaluations: int
    evaluation_rate: float
    users: int | None
    error_rate: Percent
    latency_p50: float | None
    latency_p90: float | None
    latency_p99: float | None
    variants: dict[str, int]
    variant_users: dict[str, int]
    reasons: dict[str, int]
    crossover_users: int | None


class FlagItem(msgspec.Struct, kw_only=True):
    """One flag of the list.

    ``status``: ``failing`` with errors in more than 1 % of evaluations (only told in full detail), ``quiet`` where the
    last tenth of the window has none, else ``active``.
    """

    key: str
    count: int
    first_seen: datetime
    last_seen: datetime
    status: str
    estimated: bool
    users: int | None = None
    error_rate: Percent | None = None
    latency_p99: float | None = None
    series: list[int] | None = None


class Flags(Envelope, kw_only=True):
    """A page of flags; ``total`` counts all that were found."""

    flags: list[FlagItem]
    total: int
    next_cursor: str | None = None


class VariantUsers(msgspec.Struct):
    """Users who saw a variant first: their share of all, in percent, and its 95 % interval (Wilson's)."""

    variant: str
    users: int
    share: Percent
    low: Percent
    high: Percent


class Exposure(msgspec.Struct):
    """Users by the variant that they saw first; those who crossed over saw another one later."""

    users: int
    variants: list[VariantUsers]
    crossover_users: int
    switch_back_users: int


class FlagDetail(Envelope, kw_only=True):
    """All figures of one flag, and those of each group where groups were asked for.

    ``exposure`` is null in a fast answer: which variant a user saw first, only the events tell.
    """

    key: str
    figures: Figures
    exposure: Exposure | None
    group_by: str | None = None
    groups: dict[str, Figures] | None = None


class Step(msgspec.Struct):
    """One step of a series: ``unfinished`` where the window ends before it does, so that it compares with no other.

    ``users`` is null in a fast answer: rollups do not tell users by the step.
    """

    start: datetime
    end: datetime
    count: int
    errors: int
    users: int | None
    unfinished: bool


class SeriesLine(msgspec.Struct):
    """One line of a chart; ``group`` is null without groups."""

    group: str | None
    steps: list[Step]


class Series(Envelope, kw_only=True):
    """One flag over time."""

    key: str
    step_seconds: float
    group_by: str | None
    lines: list[SeriesLine]


class OutcomeDifference(msgspec.Struct):
    """The rate of a variant less that of the control, in percentage points, and its 95 % interval (Newcombe's)."""

    points: float
    low: float
    high: float
    significant: bool


class VariantOutcome(msgspec.Struct, kw_only=True):
    """Users who saw a variant first, and those of them with the outcome afterwards.

    The rate is in percent, with its 95 % interval (Wilson's). Outcomes with a number as their value have a sum and a
    mean; without any, the mean is null. ``difference`` is null for the control, and where there are doubts.
    """

    variant: str
    users: int
    converted_users: int
    rate: Percent
    low: Percent
    high: Percent
    values: int
    value_sum: float
    value_mean: float | None
    difference: OutcomeDifference | None


class Outcomes(Envelope, kw_only=True):
    """What the users of a flag did, by the variant that they saw first.

    ``doubts`` say why the variants must not be compared. ``control`` is null where no user saw the flag.
    """

    key: str
    outcome: str
    control: str | None
    variants: list[VariantOutcome]
    crossover_users: int
    doubts: list[str]


class EventItem(msgspec.Struct, kw_only=True):
    """One event. Where people are not shown, ``user`` is null and ``context`` has only what tells nothing of them."""

    id: str
    at: datetime
    flag: str
    kind: str
    variant: str | None
    reason: str
    value: Any
    user: str | None
    context: dict[str, Any]
    duration_ms: float
    error_type: str | None
    provider: str | None
    flag_version: str | None
    sample_rate: float


class Events(Envelope, kw_only=True):
    """A page of events, the newest first."""

    events: list[EventItem]
    people_shown: bool
    next_cursor: str | None = None


class SinkHealth(msgspec.Struct, kw_only=True):
    """One backend at a glance."""

    role: str
    status: str
    breaker: str
    pending: int
    lag: int
    last_error: str | None


class Health(msgspec.Struct, kw_only=True):
    """``status`` is ``ok``, ``degraded`` or ``closed``."""

    status: str
    sinks: dict[str, SinkHealth]


class Ledger(msgspec.Struct, kw_only=True):
    """What became of every event that one backend was given.

    Always: accepted + recovered = delivered + waiting + the sum of lost + refused. What is lost as ``filtered``, the
    backend's own processors have dropped on purpose.
    """

    role: str
    status: str
    breaker: str
    accepted: int
    recovered: int
    delivered: int
    waiting: int
    queued: int
    in_flight: int
    spooled: int
    set_aside: int
    refused: int
    lost: dict[str, int]
    attempts: int
    retries: int
    lag: int
    backlog_bytes: int
    backlog_age_seconds: float | None
    last_success: datetime | None
    last_error: str | None


class DeadLetterCount(msgspec.Struct):
    """Events that a backend refused for good, by the reason it gave."""

    sink: str
    error: str
    events: int
    latest: datetime


class Live(msgspec.Struct):
    """The clients of ``/live``: open now, refused for want of room, and dropped since they did not keep up."""

    clients: int
    refused: int
    dropped: int


class Delivery(msgspec.Struct, kw_only=True):
    """The ledger of the asked process since its start. Always: recorded = accepted + the sum of refused."""

    as_of: datetime
    status: str
    recorded: int
    accepted: int
    refused: dict[str, int]
    sanitised: dict[str, int]
    future_events: int | None
    balanced: bool
    sinks: dict[str, Ledger]
    dead_letters: list[DeadLetterCount]
    live: Live


class Plugin(msgspec.Struct, kw_only=True):
    """One part of the pipeline. Of its options, numbers and switches are shown, and that others are set."""

    role: str
    name: str
    kind: str
    options: dict[str, int | float | bool | str]


class Installed(msgspec.Struct):
    """One installed plugin."""

    name: str
    distribution: str
    version: str


class Panel(msgspec.Struct):
    """A further picture of the dashboard: the address of its figures, and how they are drawn."""

    title: str
    question: str
    chart: str


class Plugins(msgspec.Struct, kw_only=True):
    """The parts of the pipeline, and the installed plugins."""

    parts: list[Plugin]
    installed: list[Installed]
    show_people: bool
    panels: list[Panel]
