"""Sinks that take each event at once, in the caller's thread: no queue, no thread, no delivery engine."""

from __future__ import annotations

import asyncio
import inspect
import itertools
import time
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any, Literal

import attrs

from .logs import get_logger, warn
from .processes import new_rlock
from .protocols import InlineSink, RecordResult
from .reports import SinkStats

__all__ = ["InlineSinks", "run_inline"]

logger = get_logger("flag_analytics.pipeline")

_ACCEPTED = RecordResult.ACCEPTED


@attrs.define
class _Account:
    """One inline sink and its ledger; events that all of them took are counted once, for all."""

    name: str
    sink: InlineSink
    take: Callable[[Any], RecordResult | None]
    delivered: int = 0
    dropped: Counter[str] = attrs.field(factory=Counter[str])


class _Tally:
    """Counts calls of ``add`` from any thread, in one step of the interpreter: a lock takes several times as long.

    ``read`` must not run twice at a time.
    """

    def __init__(self) -> None:
        self.add = itertools.count().__next__
        self._reads = 0

    def read(self) -> int:
        count = self.add() - self._reads
        self._reads += 1
        return count


class InlineSinks:
    """Hands each event to every inline sink and keeps their ledgers. Every method is safe from any thread.

    Attributes:
        refused: Events that no sink took, by reason.
        closed: Whether further events are refused.
    """

    closed = False

    def __init__(self, sinks: Mapping[str, InlineSink]) -> None:
        self._accounts = [_Account(name, sink, sink.record_nowait) for name, sink in sinks.items()]
        self._to_close = list(self._accounts)
        self.after_fork_in_child()

    def __len__(self) -> int:
        return len(self._accounts)

    def after_fork_in_child(self) -> None:
        """Start the ledger over; the sinks themselves decide what they keep."""
        # Re-entrant, since a finaliser or signal handler that runs while it is held may record an event.
        self._lock = new_rlock()
        self._handed = _Tally()
        self._kept_out = 0
        """Events that some sink, or every one, did not take."""
        self._taken_by_none = 0
        self.refused: Counter[str] = Counter()
        for account in self._accounts:
            account.delivered = 0
            account.dropped.clear()

    def record(self, event: Any) -> RecordResult:
        """Hand an event to each sink; return whether any took it, else the first one's reason."""
        self._handed.add()  # before anything else, so that the report of a close that comes between has it
        if self.closed:
            return self._refuse_late()
        refusals: dict[str, RecordResult] | None = None
        ending: BaseException | None = None
        for account in self._accounts:
            try:
                taken = account.take(event)
            except BaseException as error:
                if isinstance(error, KeyboardInterrupt | SystemExit):
                    ending = error  # most likely out of a signal handler; the other sinks get the event all the same
                taken = RecordResult.ERROR
                warn(logger, "%s raised %s", account.name, type(error).__name__)
            if taken is not _ACCEPTED and taken is not None:
                refusals = refusals or {}
                refusals[account.name] = taken if isinstance(taken, RecordResult) else RecordResult.ERROR
        result = _ACCEPTED if refusals is None else self._count_refusals(refusals)
        if ending is not None:
            raise ending
        return result

    def _count_refusals(self, refusals: Mapping[str, RecordResult]) -> RecordResult:
        with self._lock:
            self._kept_out += 1
            for account in self._accounts:
                refusal = refusals.get(account.name)
                if refusal is None:
                    account.delivered += 1
                else:
                    account.dropped[refusal.value] += 1
            if len(refusals) < len(self._accounts):
                return _ACCEPTED
            result = next(iter(refusals.values()))
            self._taken_by_none += 1
            self.refused[result.value] += 1
            return result

    def _refuse_late(self) -> RecordResult:
        with self._lock:
            self._kept_out += 1
            self._taken_by_none += 1
            self.refused["closed"] += 1
        return RecordResult.CLOSED

    def refuse(self, reason: RecordResult) -> RecordResult:
        """Count an event that no sink gets to see."""
        with self._lock:
            self.refused[reason.value] += 1
        return reason

    @property
    def accepted(self) -> int:
        """Events that at least one sink took."""
        with self._lock:
            return self._handed.read() - self._taken_by_none

    def stats(self) -> dict[str, SinkStats]:
        """Return the ledger of each sink."""
        with self._lock:
            taken_by_all = self._handed.read() - self._kept_out
            return {account.name: self._stats(account, taken_by_all) for account in self._accounts}

    def _stats(self, account: _Account, taken_by_all: int) -> SinkStats:
        delivered = taken_by_all + account.delivered
        dropped = dict(account.dropped)
        accepted = delivered + sum(dropped.values())
        return SinkStats(accepted=accepted, delivered=delivered, dropped=dropped, position=accepted)

    async def flush(self, ends: float) -> bool:
        """Flush every sink, at once, until a monotonic time; return whether all of them could."""
        return await self._finish(list(self._accounts), "flush", ends)

    async def close(self, ends: float) -> bool:
        """Close each sink once; after a call that was cancelled the next one goes on with the rest."""
        return await self._finish(self._to_close, "close", ends)

    def flush_sync(self) -> bool:
        """``flush`` for callers without an event loop."""
        return self._finish_sync(list(self._accounts), "flush")

    def close_sync(self) -> bool:
        """``close`` for callers without an event loop."""
        return self._finish_sync(self._to_close, "close")

    async def _finish(self, accounts: list[_Account], method: Literal["flush", "close"], ends: float) -> bool:
        return all(await asyncio.gather(*(self._finish_one(accounts, one, method, ends) for one in tuple(accounts))))

    async def _finish_one(
        self, accounts: list[_Account], account: _Account, method: Literal["flush", "close"], ends: float
    ) -> bool:
        if account not in accounts:
            return True  # another call is at it
        accounts.remove(account)
        try:
            result = getattr(account.sink, method)()
            if inspect.isawaitable(result):
                await asyncio.wait_for(result, max(0.05, ends - time.monotonic()))
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:
            task = asyncio.current_task()
            if isinstance(error, asyncio.CancelledError) and task is not None and task.cancelling():
                accounts.append(account)
                raise
            return _failed(account, method, error)
        return True

    def _finish_sync(self, accounts: list[_Account], method: Literal["flush", "close"]) -> bool:
        done = True
        while accounts:
            try:
                account = accounts.pop(0)
            except IndexError:  # another thread took the last one
                break
            try:
                synchronous = getattr(account.sink, f"{method}_sync", None)
                run_inline(synchronous() if callable(synchronous) else getattr(account.sink, method)())
            except (KeyboardInterrupt, SystemExit):
                raise
            except BaseException as error:
                done = _failed(account, method, error)
        return done


def _failed(account: _Account, method: str, error: BaseException) -> bool:
    warn(logger, "%s: %s raised %s", account.name, method, type(error).__name__)
    return False


def run_inline(coroutine: Any) -> Any:
    """Run a coroutine that is not expected to wait, where there may be no loop.

    Raises:
        RuntimeError: it waits.
    """
    if not inspect.iscoroutine(coroutine):
        return coroutine
    try:
        coroutine.send(None)
    except StopIteration as stop:
        return stop.value
    coroutine.close()
    raise RuntimeError("an inline sink waited in flush or close: expected it to return at once")
