"""In a process that is monkey-patched, threads and loops of ours are real; elsewhere they are the library's own."""

from __future__ import annotations

import subprocess
import sys
import textwrap
import threading

import pytest
from flag_analytics import processes

PATCHED = """
    import _thread, select, selectors, socket, threading, time

    def forbidden(*_, **__):
        raise AssertionError("a patched part of the standard library was used by a thread of ours")

    started = []
    real_start, real_sleep = _thread.start_new_thread, time.sleep

    def start_greenlet(function, arguments=(), keywords=None):
        started.append(function)
        return real_start(function, arguments, keywords or {})

    _thread.start_new_thread = start_greenlet
    for name in ("_start_new_thread", "_start_joinable_thread"):
        if hasattr(threading, name):
            setattr(threading, name, forbidden)
    for name in ("epoll", "poll", "kqueue", "select"):
        if hasattr(select, name):
            setattr(select, name, forbidden)
    selectors.DefaultSelector = socket.socketpair = socket.getaddrinfo = forbidden

    polls = []

    def sleep_and_let_others_run(seconds):
        polls.append(seconds)
        real_sleep(seconds)

    time.sleep = sleep_and_let_others_run

    import asyncio
    from flag_analytics import processes
    from flag_analytics.processes import (
        DaemonExecutor, in_greenlet, is_patched, new_condition, new_event_loop, new_lock, new_rlock, sleep,
        start_thread, submit, wait, wait_for_end,
    )

    assert is_patched() and in_greenlet()
    with new_lock(), new_rlock(), new_condition():
        pass
    loop = new_event_loop()
    loop.set_default_executor(DaemonExecutor())

    def run():
        loop.run_forever()
        loop.close()

    thread = start_thread(run, name="loop")

    async def work():
        assert not in_greenlet()
        sleep(0.001)
        await asyncio.sleep(0.001)
        found = await loop.getaddrinfo("127.0.0.1", 80)
        return found[0][4][0]

    async def broken():
        raise KeyError("broken")

    assert wait(submit(work(), loop), 20.0) == "127.0.0.1"
    try:
        wait(submit(broken(), loop), 20.0)
    except KeyError as error:
        assert error.args == ("broken",)

    async def endless():
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(True)

    ended = []
    future = submit(endless(), loop)
    try:
        wait(future, 0.05)
    except TimeoutError:
        future.cancel()
    wait(submit(asyncio.sleep(0), loop), 20.0)
    assert ended == [True]
    loop.call_soon_threadsafe(loop.stop)
    wait_for_end(thread, 20.0)
    assert not thread.is_alive()
    assert not started, "a greenlet was started"
    assert polls, "a greenlet that waits lets others run"
"""


def test_in_a_monkey_patched_process_threads_of_ours_use_nothing_that_was_patched():
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(PATCHED)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_elsewhere_everything_is_the_standard_librarys_own():
    assert not processes.is_patched()
    assert not processes.in_greenlet()
    assert type(processes.new_lock()) is type(threading.Lock())
    assert type(processes.new_rlock()) is type(threading.RLock())
    loop = processes.new_event_loop()
    assert type(loop).__module__.startswith("asyncio.")
    loop.close()
    assert not [name for name in sys.modules if name.startswith("flag_analytics.unpatched.")]


def test_a_future_without_a_result_in_time_is_a_timeout():
    with pytest.raises(TimeoutError):
        processes.wait(processes.new_future(), 0.0)
