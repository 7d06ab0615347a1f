"""When a sink is written to, what follows from each answer, and which event is given up. No thread, clock or socket.

``worker`` holds the lock, passes in monotonic times, does what ``poll`` returns, and reports what came of it::

    poll(now) ─> Write(batch) ─┬─> stored
                               ├─> answered(refused, stored): an answer for each event
                               └─> failed(why): pause with full jitter, then the same batch again
              ─> Read(…)       ─── took: the next events, off the disk
              ─> Ping          ──> pinged: is it the backend, or these events?
              ─> Wait(until)

Only ``BadBatch`` says that content is bad (``bisect``). A batch that fails otherwise ``SUSPECT_AFTER`` times is set
aside while the others flow, and is halved as its failures become unlikely for good events. An event that stands alone
is given up only with proof that it is this event: ``LEAST_FAILURES`` failures over ``LEAST_SECONDS``, each with others
stored before it, and so many that a good event would fail them all with a chance of at most ``MOST_CHANCE``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from enum import Enum

import attrs
from flag_analytics.frozen import FrozenEvent
from flag_analytics.protocols import Batch
from flag_analytics.reports import DeliveryOptions

from .bisect import Bisection, Dead, Part, most_refused
from .log import Cursor, Piece

__all__ = ["Backoff", "Failure", "Ping", "Read", "Resolved", "SinkMachine", "Wait", "Write", "chance_of_failing"]

SUSPECT_AFTER = 3
LEAST_FAILURES = 5
LEAST_SECONDS = 30.0
MOST_CHANCE = 1e-9
HALVING_CHANCE = 0.05
"""Below this chance that good events fail so often a set-aside part is halved, which costs little."""
MOST_SET_ASIDE = 1_000
"""Events that may be set aside, or one batch if that is more; beyond it a failing batch holds up the sink."""
CLOSING_PAUSE_SECONDS = 0.25
LONGEST_RETRY_AFTER_SECONDS = 300.0


class Failure(Enum):
    """Why a write did not store its batch."""

    BAD = "bad"
    """The content was refused."""
    UNAVAILABLE = "unavailable"
    """Nothing was stored; not the batch's fault."""
    UNKNOWN = "unknown"
    """The answer was lost: it may be stored."""
    UNEXPECTED = "unexpected"
    """An exception of another kind: it may be the batch's fault, and it may be stored."""
    TIMEOUT = "timeout"
    """No answer in time: it may be stored; a slow or locked backend is not the batch's fault."""
    FATAL = "fatal"
    """The configuration is wrong: no attempt can succeed before it is mended."""


@attrs.frozen
class Write:
    """Write this batch."""

    batch: Batch


@attrs.frozen
class Read:
    """Read up to ``limit`` events for a cursor off the disk, from position ``first`` on and before ``end``."""

    cursor: Cursor
    first: int
    end: int
    limit: int


@attrs.frozen
class Ping:
    """Find out whether the backend answers."""


@attrs.frozen
class Wait:
    """Nothing to do before this monotonic time; None: before something arrives."""

    until: float | None


@attrs.frozen
class Resolved:
    """What a report settled: the pieces that are stored, and the events that were given up."""

    stored: Sequence[tuple[Cursor, Piece]] = ()
    dead: Sequence[Dead] = ()


_NOTHING = Resolved()


def chance_of_failing(failures: int, *, others: int, others_failed: int) -> float:
    """Return the chance (0–1) that a good event fails so many times, given how many of the other writes failed.

    Laplace's rule of succession, applied once for each failure: the posterior predictive of a Bernoulli process with a
    uniform prior. It takes into account how little a few other writes tell.
    """
    chance = 1.0
    for number in range(1, failures + 1):
        chance *= (others_failed + number) / (others + 1 + number)
    return chance


@attrs.define
class Backoff:
    """Pauses between attempts: full jitter below a bound that doubles with each failure.

    https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/
    """

    initial: float
    longest: float
    failures: int = 0
    until: float | None = None

    def pause(self, now: float, jitter: float, *, at_least: float = 0.0) -> None:
        """Pause from now on; ``jitter`` is drawn uniformly from [0, 1)."""
        bound = min(self.longest, self.initial * 2.0 ** min(self.failures, 60))
        self.failures += 1
        self.until = now + min(at_least, LONGEST_RETRY_AFTER_SECONDS) + jitter * bound

    def clear(self) -> None:
        """Forget the failures: an attempt succeeded."""
        self.failures = 0
        self.until = None


@attrs.define(eq=False)
class Suspect:
    """A part that is set aside: it fails, and the others do not wait for it.

    Attributes:
        since: When it was first seen to fail.
        stored, failed: The other writes until then.
        seen_stored: The writes stored until its latest attempt.
        lone_failures: Failures that count as proof: with others stored since the attempt before.
    """

    cursor: Cursor
    part: Part
    since: float
    stored: int
    failed: int
    seen_stored: int
    backoff: Backoff
    lone_failures: int = 0

    def halves(self) -> list[Suspect]:
        """Return both halves; what is known of the other writes stays known."""
        fresh = [Backoff(self.backoff.initial, self.backoff.longest) for _ in range(2)]
        return [
            attrs.evolve(self, part=part, backoff=backoff, lone_failures=0)
            for part, backoff in zip(self.part.halves(), fresh, strict=True)
        ]


class SinkMachine:
    """The delivery of one sink. Not thread-safe: every call is made under the driver's lock.

    Args:
        name: The sink's name.
        options: Bounds, batch size and pauses.
        can_ping: Whether the driver can do ``Ping``.
        batch_prefix: Makes batch ids unique among processes and sinks.

    Attributes:
        cursors: Where the sink is in each log; those of earlier processes come first.
    """

    def __init__(self, name: str, options: DeliveryOptions, *, can_ping: bool, batch_prefix: str) -> None:
        self.name = name
        self.options = options
        self.cursors: list[Cursor] = []
        self.backoff = Backoff(options.retry_initial_seconds, options.retry_max_seconds)
        self.suspects: list[Suspect] = []
        self.attempts = 0
        self.retries = 0
        self.commit_unknown = 0
        self.last_error: str | None = None
        self.halted = False
        """Whether the configuration is wrong, so that there are no attempts."""
        self.writing = False
        self._can_ping = can_ping
        self._batch_prefix = batch_prefix
        self._batches = 0
        self._round: Bisection | None = None
        self._alone: Suspect | None = None
        """The suspect that is being written."""
        self._restarts = 0
        self._stored = 0
        self._others_stored = 0
        self._others_failed = 0
        self._attempted_at = -math.inf
        self._waiting_since: float | None = None
        self._draining = 0
        self._unreadable: Cursor | None = None
        self._closing = False

    # --- what to do next

    def poll(self, now: float) -> Write | Read | Ping | Wait:
        """Return the next thing to do at monotonic time ``now``."""
        if self.halted:
            return Wait(None)
        if self._round is None and self._alone is None:
            due = self._when_due(now)
            if due is None or due > now:
                return Wait(due)
        if self.backoff.until is not None:
            if now < self.backoff.until:
                return Wait(self.backoff.until)
            self.backoff.until = None
        if self._round is None and self._alone is None:
            self._alone = self._next_suspect(now)
        if self._round is None and self._alone is None:
            action = self._begin_next()
            if action is not None:
                return action
        self._attempted_at = now
        if self._round is not None and self._round.ping_wanted:
            return Ping()
        return self._write(self._part)

    @property
    def _part(self) -> Part:
        if self._alone is not None:
            return self._alone.part
        assert self._round is not None
        return self._round.part

    def _write(self, part: Part) -> Write:
        self.attempts += 1
        self.retries += part.attempted
        part.attempted = True
        self.writing = True
        return Write(part.batch)

    def _when_due(self, now: float) -> float | None:
        """Return when the next batch or suspect is to be written; None without any."""
        cursor = self._next_cursor()
        if cursor is None:
            self._waiting_since = None
            return min((suspect.backoff.until or now for suspect in self.suspects), default=None)
        if self._waiting_since is None:
            self._waiting_since = now
        recovered = cursor is not self.cursors[-1]
        if self._draining or recovered or self.backoff.failures or cursor.ready:
            return now
        suspects = [suspect.backoff.until or now for suspect in self.suspects if self._stored > suspect.seen_stored]
        return min([self._waiting_since + self.options.flush_interval_seconds, *suspects])

    def _next_cursor(self) -> Cursor | None:
        waiting = [cursor for cursor in self.cursors if cursor.waiting > 0]
        readable = [cursor for cursor in waiting if cursor is not self._unreadable]
        return next(iter(readable or waiting), None)

    def _next_suspect(self, now: float) -> Suspect | None:
        due = [suspect for suspect in self.suspects if suspect.backoff.until is None or suspect.backoff.until <= now]
        idle = self._next_cursor() is None
        return next((suspect for suspect in due if idle or self._stored > suspect.seen_stored), None)

    def _begin_next(self) -> Read | None:
        cursor = self._next_cursor()
        assert cursor is not None
        self._unreadable = None
        on_disk = cursor.next_on_disk()
        if on_disk is not None:
            return Read(cursor, *on_disk, self.options.batch_size)
        self.begin(cursor, cursor.take(self.options.batch_size, self.options.max_batch_bytes))
        return None

    def begin(self, cursor: Cursor, piece: Piece) -> None:
        """Begin to write a batch of events that a cursor took."""
        self._round = Bisection(cursor, len(piece), [Part(self._next_batch_id(), piece)])
        self._waiting_since = None

    def _next_batch_id(self) -> str:
        self._batches += 1
        return f"{self._batch_prefix}-{self._batches}"

    def cannot_read(self, cursor: Cursor, now: float, jitter: float) -> None:
        """Note that a spool could not be read for now; other events do not wait for it."""
        self._unreadable = cursor
        self.backoff.pause(now, jitter)

    def cannot_start(self, error: str) -> None:
        """Note that there is no thread or event loop for the worker yet."""
        self.last_error = error
        self.backoff.failures = max(1, self.backoff.failures)

    def interrupted(self, now: float, jitter: float) -> None:
        """Note that the worker ended in the middle of something, which may happen again."""
        self.backoff.pause(now, jitter)

    # --- what came of it

    def stored(self) -> Resolved:
        """Note that the part just written is stored."""
        part = self._succeed()
        if part is None:  # closed while the write was under way
            return _NOTHING
        if self._alone is not None:
            suspect, self._alone = self._alone, None
            self.suspects.remove(suspect)
            return Resolved([(suspect.cursor, part.piece)])
        round_ = self._round
        assert round_ is not None
        self._others_stored += 1
        round_.todo.pop()
        round_.stored_any = True
        return Resolved([(round_.cursor, part.piece)], self._end_of_round())

    def answered(
        self, refused: Mapping[str, str], stored: AbstractSet[str], error: str, code: str, now: float, jitter: float
    ) -> Resolved:
        """Note a sink's answer for each event of the part just written; what it does not mention is tried again.

        Args:
            refused: The reason for each refused event, by event id.
            stored: The ids of the stored events.
            error: The name of the exception's class.
            code: The sink's own code, for refused events without a reason.
            now: Monotonic seconds.
            jitter: A number drawn uniformly from [0, 1).
        """
        self._into_round()
        round_ = self._round
        if round_ is None:
            return _NOTHING
        self.writing = False
        part = round_.todo.pop()
        ids = [event.event_id for event in part.piece.events]
        kept = part.piece.choose([index for index, one in enumerate(ids) if one in stored])
        bad = [index for index, one in enumerate(ids) if one in refused and one not in stored]
        rest = part.piece.choose([index for index, one in enumerate(ids) if one not in stored and one not in refused])
        round_.proven = round_.proven or bool(bad)  # a backend that answers for each event lives
        for index in bad:
            round_.refuse(part.piece.choose([index]), part.batch_id, error, refused[ids[index]] or code)
        if rest.events:
            round_.todo.append(Part(f"{part.batch_id}.r{part.failures + 1}", rest, part.failures + 1))
        if kept.events:
            round_.stored_any = True
            self._succeed()
            self._others_stored += 1
        else:
            self.last_error = f"{error} {code}".strip()
        dead = self._judge_refused(now, jitter) if bad else self._end_of_round()
        if rest.events:
            self.backoff.pause(now, jitter)
        return Resolved([(round_.cursor, kept)] if kept.events else (), dead)

    def failed(
        self, failure: Failure, error: str, code: str, now: float, jitter: float, *, retry_after: float = 0.0
    ) -> Resolved:
        """Note that the part just written is not stored.

        Args:
            failure: Why.
            error: The name of the exception's class.
            code: The sink's own code of the cause.
            now: Monotonic seconds.
            jitter: A number drawn uniformly from [0, 1), which sets the length of a pause.
            retry_after: The least pause in seconds, if the sink gave one.
        """
        if self._round is None and self._alone is None:
            return _NOTHING
        self.writing = False
        self.last_error = f"{error} {code}".strip()
        self.commit_unknown += failure in {Failure.UNKNOWN, Failure.TIMEOUT}
        if failure is Failure.BAD:
            return self._split(error, code, now, jitter)
        self.backoff.pause(now, jitter, at_least=retry_after)
        if failure is Failure.FATAL:
            self.halted = True
            return _NOTHING
        if self._alone is not None:
            return self._failed_alone(failure, error, code, now, jitter)
        self._others_failed += 1
        assert self._round is not None
        part = self._round.part
        if failure is Failure.TIMEOUT:
            part.timeouts += 1
        elif failure is not Failure.UNAVAILABLE:
            part.failures += 1
        most = 1 if part.suspected else SUSPECT_AFTER
        if failure is not Failure.UNAVAILABLE and max(part.timeouts, part.failures) >= most:
            return Resolved(dead=self._suspect(failure, now))
        return _NOTHING

    def pinged(self, alive: bool, now: float, jitter: float) -> Resolved:
        """Note whether the backend answered."""
        round_ = self._round
        if round_ is None:
            return _NOTHING
        round_.ping_wanted = False
        if alive and not round_.todo:
            return Resolved(dead=self._give_up_all())
        if alive:
            return Resolved(dead=self._take_apart(now))
        if round_.refused:
            self._start_over(now, jitter)
        else:
            self.backoff.pause(now, jitter)
        return _NOTHING

    def _succeed(self) -> Part | None:
        if self._round is None and self._alone is None:
            return None
        self.writing = False
        self._stored += 1
        self.last_error = None
        self.backoff.clear()
        return self._part if self._alone is not None or (self._round is not None and self._round.todo) else None

    # --- content that the sink refuses

    def _into_round(self) -> None:
        """Let a suspect that the sink itself calls bad go the way of any refused content."""
        if self._alone is not None:
            suspect, self._alone = self._alone, None
            self.suspects.remove(suspect)
            self._round = Bisection(suspect.cursor, len(suspect.part), [suspect.part])

    def _split(self, error: str, code: str, now: float, jitter: float) -> Resolved:
        """Halve the part just written, or note that its only event is refused."""
        self._into_round()
        round_ = self._round
        assert round_ is not None
        self.backoff.until = None
        if len(round_.part) > 1:
            round_.halve()
            return _NOTHING
        part = round_.todo.pop()
        round_.refuse(part.piece, part.batch_id, error, code)
        return Resolved(dead=self._judge_refused(now, jitter))

    def _judge_refused(self, now: float, jitter: float) -> tuple[Dead, ...]:
        round_ = self._round
        assert round_ is not None
        if len(round_.refused) <= most_refused(round_.size):
            return self._end_of_round()
        dead = round_.give_up() if round_.lives else ()
        if round_.todo or round_.refused:
            self._start_over(now, jitter)
        else:
            self._finish_round()
        return dead

    def _end_of_round(self) -> tuple[Dead, ...]:
        round_ = self._round
        assert round_ is not None
        if round_.todo:
            return ()
        if not round_.refused:
            self._finish_round()
            return ()
        if round_.lives or round_.size == 1 or not self._can_ping:
            return self._give_up_all()
        round_.ping_wanted = True
        return ()

    def _give_up_all(self) -> tuple[Dead, ...]:
        assert self._round is not None
        dead = self._round.give_up()
        self.backoff.clear()
        self._finish_round()
        return dead

    def _finish_round(self) -> None:
        self._restarts = 0
        self._round = None

    def _start_over(self, now: float, jitter: float) -> None:
        """Try again later what this round left over, with events beside it that wait behind it.

        Refused events come last: others that are stored before them in the same round prove that it is they who are
        bad. So each round either gets further through the others, or gives some refused ones up.
        """
        old = self._round
        assert old is not None
        fresh, refused = old.left()
        room = self.options.batch_size - sum(map(len, fresh))
        if room > 0 and old.cursor.next_on_disk() is None:
            more = old.cursor.take(room, self.options.max_batch_bytes)
            fresh = [*fresh, more] if more.events else fresh
        todo = [Part(self._next_batch_id(), piece, refused=False) for piece in fresh]
        again = _joined(refused, self.options.batch_size)
        todo += [Part(self._next_batch_id(), piece, refused=True) for piece in again]
        size = sum(map(len, todo))
        # With new events beside them, it is those that must prove anew that the backend lives.
        self._round = Bisection(old.cursor, size, todo[::-1], proven=not fresh and old.lives)
        self.backoff.failures = self._restarts
        self._restarts += 1
        self.backoff.pause(now, jitter)

    # --- content that fails otherwise

    def _suspect(self, failure: Failure, now: float) -> tuple[Dead, ...]:
        """Decide about a part that failed too often: ask whether the backend lives, halve it, or set it aside."""
        assert self._round is not None
        suspected = self._round.part.suspected
        if self._can_ping and failure is not Failure.UNEXPECTED and not suspected:
            self._round.ping_wanted = True
            return ()
        return self._take_apart(now) if failure is Failure.TIMEOUT or suspected else self._set_aside(now)

    def _take_apart(self, now: float) -> tuple[Dead, ...]:
        """Halve the part just written since the backend lives; an event that stands alone is set aside."""
        assert self._round is not None
        if len(self._round.part) == 1:
            return self._set_aside(now)
        self.backoff.until = None
        self._round.halve(suspected=True)
        return ()

    def _set_aside(self, now: float) -> tuple[Dead, ...]:
        round_ = self._round
        assert round_ is not None
        if self.set_aside + len(round_.part) > max(MOST_SET_ASIDE, self.options.batch_size):
            return ()  # it is tried again where it stands
        backoff = Backoff(self.backoff.initial, self.backoff.longest, until=self.backoff.until)
        counts = (self._others_stored, self._others_failed, self._stored)
        self.suspects.append(Suspect(round_.cursor, round_.todo.pop(), now, *counts, backoff))
        return self._end_of_round()

    def _failed_alone(self, failure: Failure, error: str, code: str, now: float, jitter: float) -> Resolved:
        suspect, self._alone = self._alone, None
        assert suspect is not None
        self.suspects.remove(suspect)
        self.suspects.append(suspect)  # the others come first
        suspect.backoff.pause(now, jitter)
        others_stored_between = self._stored > suspect.seen_stored
        suspect.seen_stored = self._stored
        if failure is Failure.UNAVAILABLE:
            return _NOTHING
        suspect.part.failures += 1
        suspect.lone_failures += others_stored_between
        stored, failed = self._others_stored - suspect.stored, self._others_failed - suspect.failed
        alone = len(suspect.part) == 1
        failures = suspect.lone_failures if alone else suspect.part.failures
        chance = chance_of_failing(failures, others=stored + failed, others_failed=failed)
        if not alone and (chance <= HALVING_CHANCE or (failures >= SUSPECT_AFTER and not stored + failed)):
            self.suspects.remove(suspect)
            self.suspects += suspect.halves()
        elif (
            alone
            and others_stored_between
            and failures >= LEAST_FAILURES
            and now - suspect.since >= LEAST_SECONDS
            and chance <= MOST_CHANCE
        ):
            self.suspects.remove(suspect)
            return Resolved(dead=[Dead(suspect.cursor, suspect.part.piece, suspect.part.batch_id, error, code)])
        return _NOTHING

    # --- flush, close, accounts

    def drain(self, on: bool) -> None:
        """While on, batches do not wait to be full."""
        self._draining += 1 if on else -1

    def skip_backoff(self, now: float) -> None:
        """End a pause early, since a flush waits for the result; at most once a second, however many wait."""
        if now - self._attempted_at >= 1.0:
            self._end_pauses(now)

    def close_soon(self, now: float) -> None:
        """End a pause at once, and keep the next ones short: there will be no later."""
        self._closing = True
        self._end_pauses(now)
        for backoff in [self.backoff, *(suspect.backoff for suspect in self.suspects)]:
            backoff.longest = CLOSING_PAUSE_SECONDS

    def _end_pauses(self, now: float) -> None:
        for backoff in [self.backoff, *(suspect.backoff for suspect in self.suspects)]:
            backoff.until = None if backoff.until is None else min(backoff.until, now)

    def resume(self, now: float) -> None:
        """Try again after ``Failure.FATAL``."""
        self.halted = False
        self._end_pauses(now)

    def close(self) -> None:
        """End everything; what is still being written may be stored."""
        self.commit_unknown += self.writing
        self._round = self._alone = None
        self.suspects.clear()

    @property
    def set_aside(self) -> int:
        """Events that are set aside."""
        return sum(len(suspect.part) for suspect in self.suspects)

    def oldest_in_flight(self) -> list[FrozenEvent]:
        """Return the first event of each part that is not resolved."""
        parts = [suspect.part for suspect in self.suspects]
        if self._round is not None:
            parts += self._round.todo
            return [dead.event for dead in self._round.refused] + [part.piece.events[0] for part in parts]
        return [part.piece.events[0] for part in parts]

    @property
    def idle(self) -> bool:
        """Whether nothing waits and nothing is in flight."""
        return not any(cursor.pending for cursor in self.cursors)

    @property
    def breaker(self) -> str:
        """``closed`` (all well), ``open`` (pausing), ``half_open`` (trying one batch), or ``halted``."""
        if self.halted:
            return "halted"
        if not self.backoff.failures:
            return "closed"
        return "open" if self.backoff.until is not None else "half_open"


def _joined(pieces: Sequence[Piece], size: int) -> list[Piece]:
    """Return the events of many pieces in pieces of at most ``size``, each in ascending order."""
    ordered = sorted(
        (piece.choose([index]) for piece in pieces for index in range(len(piece))), key=lambda one: one.positions
    )
    return [
        Piece(tuple(one.positions[0] for one in some), tuple(one.events[0] for one in some))
        for some in (ordered[at : at + size] for at in range(0, len(ordered), size))
    ]
