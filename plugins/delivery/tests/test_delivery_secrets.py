"""A canary in every place a secret or a user's data can be: it never appears in a log, a repr or an exception."""

from __future__ import annotations

import logging
import pickle
import traceback

import pytest
from flag_analytics.config.reading import read_config
from flag_analytics.errors import BadBatch, CommitUnknown, ConfigError, SinkUnavailable
from flag_analytics.reports import DeadLetter, DeliveryOptions
from flag_analytics.testing.faults import ScriptedSink
from flag_analytics.testing.samples import plain_event
from flag_analytics_delivery import Delivery

CANARY = "canary-7f3a"
MAIL = "canary-7f3a@example.org"
QUICK = DeliveryOptions(flush_interval_seconds=0.01, retry_initial_seconds=0.001, retry_max_seconds=0.01, batch_size=2)


def driver_errors():
    """Six errors as drivers make them: the words quote the address and the row."""
    words = f"could not insert ('{MAIL}') via postgresql://app:{CANARY}@db/x?password={CANARY}"
    cause = ValueError(words)
    chained = RuntimeError(words)
    chained.__cause__ = cause
    return [
        BadBatch(words, code="22001"),
        SinkUnavailable(words, code="08001"),
        CommitUnknown(words, code="08006"),
        OSError(5, words),
        chained,
        ExceptionGroup(words, [cause]),
    ]


@pytest.mark.parametrize("error", driver_errors(), ids=lambda error: type(error).__name__)
def test_nothing_of_an_event_or_an_address_is_logged_or_shown(error, caplog, capfd):
    caplog.set_level(logging.DEBUG)
    letters: list[DeadLetter] = []
    sink = ScriptedSink([error] * 8)
    delivery = Delivery({"sink": sink}, QUICK, on_dead_letters=lambda name, kind, dead: letters.extend(dead))
    for _ in range(2):
        delivery.record_nowait(
            plain_event(targeting_key=MAIL, context_attributes={"mail": MAIL}, value=MAIL, error_message=MAIL)
        )
    delivery.flush_sync(2.0)
    shown = [
        caplog.text, *capfd.readouterr(), repr(delivery), repr(delivery.stats()), repr(delivery.health()),
        repr(delivery.dead_letters()), repr(letters), repr(sink.writes), repr(delivery.close_sync()),
    ]  # fmt: skip
    assert CANARY not in "".join(shown)
    assert caplog.records


def test_a_hostile_event_is_refused_or_normalised_without_a_word_of_it(caplog, capfd):
    class Leaky:
        def __getattr__(self, name):
            raise RuntimeError(MAIL)

        def __repr__(self):
            return MAIL

    caplog.set_level(logging.DEBUG)
    delivery = Delivery({"sink": ScriptedSink()}, QUICK)
    for event in (Leaky(), plain_event(value=Leaky()), None, object(), MAIL, {"mail": MAIL}):
        delivery.record_nowait(event)
    delivery.flush_sync(2.0)
    assert CANARY not in caplog.text + "".join(capfd.readouterr())
    assert delivery.stats().balanced()
    delivery.close_sync()


def test_a_configuration_error_does_not_quote_a_secret():
    table = {
        "collectors": {"memory": {"max_size": f"postgresql://u:{CANARY}@h/x?password={CANARY}", "passwrd": CANARY}}
    }
    with pytest.raises(ConfigError) as caught:
        read_config(table)
    words = "".join(traceback.format_exception(caught.value)) + repr(pickle.loads(pickle.dumps(caught.value)))
    assert f":{CANARY}@" not in words
    assert f"password={CANARY}" not in words
