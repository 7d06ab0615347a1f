"""One duplicate-log filter: each distinct message once a minute, from threads, signal handlers and forks."""

from __future__ import annotations

import logging
import os
import signal
import threading

import pytest
from flag_analytics import logs


@pytest.fixture
def now(monkeypatch):
    """Return a list whose member is the monotonic time, in seconds."""
    now = [1_000.0]
    monkeypatch.setattr(logs.time, "monotonic", lambda: now[0])
    return now


@pytest.fixture
def logger(now, caplog):
    return logs.get_logger("flag_analytics.test_logs")


def test_a_message_passes_once_a_minute(logger, now, caplog):
    for seconds in (0, 59, 60, 61, 119.5, 120):
        now[0] = 1_000.0 + seconds
        logger.warning("sink %s is down", "warehouse")
    assert [record.getMessage() for record in caplog.records] == ["sink warehouse is down"] * 3


def test_other_arguments_templates_and_loggers_are_other_causes(logger, caplog):
    for sink in ("a", "b", "a"):
        logger.warning("sink %s is down", sink)
    logger.warning("sink %s is up", "a")
    logs.get_logger("flag_analytics.test_logs.other").warning("sink %s is down", "a")
    assert len(caplog.records) == 4


def test_unhashable_arguments_are_compared_by_their_text(logger, caplog):
    for _ in range(2):
        logger.warning("sinks %s are down", ["a", "b"])
    assert len(caplog.records) == 1


def test_the_filter_is_attached_once(logger):
    assert logs.get_logger(logger.name) is logger
    assert logger.filters.count(logs._once_a_minute) == 1


def test_the_number_of_remembered_causes_is_bounded(logger, caplog):
    for number in range(5_000):
        logger.warning("cause %d", number)
        assert len(logs._once_a_minute.passes) <= 1_000
    assert len(caplog.records) == 5_000


def test_a_message_that_cannot_be_formatted_is_left_to_logging(logger, monkeypatch):
    monkeypatch.setattr(logging, "raiseExceptions", False)
    logs.warn(logger, "%d events", "many")
    assert ("flag_analytics.test_logs", "%d events") not in logs._once_a_minute.passes


def test_warn_names_the_line_that_called_it(logger, caplog):
    logs.warn(logger, "sink %s is down", "a")
    assert caplog.records[0].filename == "test_logs.py"
    assert caplog.records[0].levelno == logging.WARNING


def test_warn_survives_a_broken_filter_and_a_broken_handler(logger):
    class Broken(logging.Handler):
        def emit(self, record):
            raise RuntimeError

    def refuse(record):
        raise RuntimeError

    for add, remove, broken in (
        (logger.addFilter, logger.removeFilter, refuse),
        (logger.addHandler, logger.removeHandler, Broken()),
    ):
        add(broken)
        try:
            logs.warn(logger, "one broken %s", add.__name__)
        finally:
            remove(broken)


def test_of_many_threads_one_passes(logger, now, caplog):
    for minute in range(20):
        now[0] = 1_000.0 + minute * 60
        barrier = threading.Barrier(8)

        def log(barrier=barrier):
            barrier.wait()
            logger.warning("sink %s is down", "warehouse")

        threads = [threading.Thread(target=log) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(caplog.records) == minute + 1


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="needs interval timers")
def test_a_signal_handler_may_log_while_the_filter_works(logger):
    handled = []

    def handle(*_):
        handled.append(None)
        logs.warn(logger, "signal %d", len(handled))

    previous = signal.signal(signal.SIGALRM, handle)
    signal.setitimer(signal.ITIMER_REAL, 0.0005, 0.0005)
    try:
        number = 0
        while len(handled) < 50:
            number += 1
            logs.warn(logger, "cause %d", number % 100)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)


@pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_logs_while_its_parent_does(logger):
    stop = threading.Event()

    def log():
        number = 0
        while not stop.is_set():
            number += 1
            logs.warn(logger, "cause %d", number)

    thread = threading.Thread(target=log)
    thread.start()
    try:
        for child in range(10):
            pid = os.fork()
            if pid == 0:
                signal.alarm(10)
                logger.handlers, logger.propagate = [logging.NullHandler()], False
                logs.warn(logger, "child %d", child)
                os._exit(0)
            assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    finally:
        stop.set()
        thread.join()
