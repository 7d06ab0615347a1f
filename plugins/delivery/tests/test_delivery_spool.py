"""The spool on bad disks (bounded, full, corrupt, read-only, shared): delivery goes on, and everything is counted."""

from __future__ import annotations

import os
import shutil
import sqlite3
import stat
import subprocess
import sys
import textwrap
import threading

import pytest
from flag_analytics.errors import BadBatch, SinkUnavailable
from flag_analytics.freezer import Freezer
from flag_analytics.frozen import decode_event, encode_event
from flag_analytics.reports import DeliveryOptions
from flag_analytics.testing.faults import ScriptedSink, wait_until
from flag_analytics.testing.samples import plain_event, plain_events
from flag_analytics_delivery import Delivery
from flag_analytics_delivery.spool import Spool

posix = pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX files")


def spooling(directory, **changes):
    options = DeliveryOptions(
        durability="spool", spool_directory=directory, flush_interval_seconds=0.01, spool_interval_seconds=0.005,
        retry_initial_seconds=0.01, retry_max_seconds=0.05,
    )  # fmt: skip
    return options.evolve(**changes)


def leave_behind(directory, events=100):
    """Spool events for a sink that is down, as a process that ends would; return their ids."""
    delivery = Delivery({"sink": ScriptedSink(always=SinkUnavailable())}, spooling(directory))
    mine = list(plain_events(events))
    for event in mine:
        delivery.record_nowait(event)
    assert delivery.persist()
    assert delivery.close_sync(0.1).spooled >= events
    return [event.event_id for event in mine]


def start(directory, **changes):
    sink = ScriptedSink()
    return sink, Delivery({"sink": sink}, spooling(directory, **changes))


# --- the file


def test_an_event_comes_back_out_of_a_spool_as_it_went_in():
    event = Freezer(traceparent=lambda: "00-ab-cd-01").freeze(
        plain_event(
            value={"a": [1, None, "é"]}, context_attributes={"b": {"c": 1.5}}, error_message="no", sample_rate=0.5
        )
    )
    assert decode_event(encode_event(event)) == event


def test_a_thousand_events_are_written_in_a_few_steps(tmp_path):
    # At each step of a statement sqlite3 gives the interpreter's lock away, and may wait long to get it back.
    spool = Spool.create(tmp_path, {"sink": 0}, max_bytes=2**24, fsync="normal")
    statements = []
    spool._connection.set_trace_callback(statements.append)
    events = [Freezer().freeze(event) for event in plain_events(1_000)]
    spool.append(0, events)
    assert len(statements) <= 5
    assert list(spool.read(0, 1_000, 1_000, 2**24).events) == events
    spool.close()


@pytest.mark.parametrize("harm", [b"{", b"a\nb", b"\xff\xfe", b"", b"\0", "text", 5])
def test_a_line_that_is_no_event_costs_no_other_event(tmp_path, harm):
    spool = Spool.create(tmp_path, {"sink": 0}, max_bytes=2**24, fsync="normal")
    events = [Freezer().freeze(event) for event in plain_events(3)]
    spool.append(0, events)
    with spool._connection:
        spool._connection.execute("UPDATE events SET body = ? WHERE seq = 2", (harm,))
        if harm == "text":  # which is no UTF-8 either
            spool._connection.execute("UPDATE events SET body = CAST(x'ff' AS TEXT) WHERE seq = 2")
    loaded = spool.read(0, 3, 500, 2**24)
    assert (list(loaded.events), loaded.positions, loaded.end) == ([events[0], events[2]], ((0, 1), (2, 3)), 3)
    spool.close()


def test_what_is_recorded_after_a_sink_came_to_rest_is_spooled_and_delivered_too(tmp_path):
    _, delivery = start(tmp_path)
    accounts = delivery._engine.accounts
    for stored in range(1, 6):
        delivery.record_nowait(plain_event())
        assert wait_until(lambda stored=stored: accounts.sinks["sink"].ledger.delivered == stored)
        # Nothing is left to do: the sink's worker and the spool's thread both fall asleep, in either order.
        assert wait_until(lambda: accounts.log.newcomer is not None)
    delivery.close_sync()


@posix
def test_a_spool_is_readable_by_its_user_alone(tmp_path):
    leave_behind(tmp_path / "spool")
    assert stat.S_IMODE((tmp_path / "spool").stat().st_mode) == 0o700
    files = list((tmp_path / "spool").iterdir())
    assert files
    assert {stat.S_IMODE(file.stat().st_mode) & 0o077 for file in files} == {0}


def test_a_spool_that_is_empty_at_the_end_is_deleted(tmp_path):
    _, delivery = start(tmp_path)
    delivery.record_nowait(plain_event())
    assert delivery.flush_sync(10.0)
    delivery.close_sync()
    assert wait_until(lambda: not list(tmp_path.iterdir()))


# --- bounds


def test_a_full_spool_keeps_further_events_in_memory_and_counts_what_has_no_room_there(tmp_path):
    sink = ScriptedSink(always=SinkUnavailable())
    delivery = Delivery({"sink": sink}, spooling(tmp_path, spool_max_bytes=2**20, max_events=1_000))
    for _ in range(30):
        for event in plain_events(200, context_attributes={"text": "x" * 500}):
            delivery.record_nowait(event)
        delivery.persist()
    stats = delivery.stats()
    mine = stats.sinks["sink"]
    assert stats.balanced()
    assert mine.spooled > 500
    assert mine.queued + mine.in_flight <= 1_000
    assert mine.dropped["spool_full"] > 0
    assert stats.spool["errors"] > 0
    assert sum(file.stat().st_size for file in tmp_path.iterdir()) < 8 * 2**20
    sink.always = None
    delivery.flush_sync(30.0)
    stats = delivery.stats()
    assert stats.balanced()
    assert (
        len(sink.stored)
        == stats.sinks["sink"].delivered
        == stats.sinks["sink"].accepted - sum(stats.sinks["sink"].dropped.values())
    )
    delivery.record_nowait(plain_event())
    assert delivery.persist()  # there is room again
    (path,) = tmp_path.glob("*.spool")
    assert is_sound(path)
    delivery.close_sync()


def is_sound(path):
    with sqlite3.connect(path) as connection:
        (answer,) = connection.execute("PRAGMA integrity_check").fetchone()
    connection.close()
    return answer == "ok"


@posix
def test_a_disk_that_takes_no_more_breaks_nothing(tmp_path):
    """RLIMIT_FSIZE makes writes fail as a full disk does."""
    code = """
        import resource, signal, sqlite3, sys, time
        from pathlib import Path
        from flag_analytics import Delivery, DeliveryOptions
        from flag_analytics.errors import SinkUnavailable
        from flag_analytics.testing.faults import ScriptedSink
        from flag_analytics.testing.samples import plain_events

        resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, resource.RLIM_INFINITY))
        sink = ScriptedSink(always=SinkUnavailable())
        options = DeliveryOptions(durability="spool", spool_directory=sys.argv[1], retry_max_seconds=0.05)
        delivery = Delivery({"sink": sink}, options)
        for _ in range(20):
            for event in plain_events(200):
                assert delivery.record_nowait(event)
            delivery.persist()
        stats = delivery.stats()
        assert stats.balanced() and stats.spool["errors"] > 0, stats
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        started = time.monotonic()
        for event in plain_events(10):
            delivery.record_nowait(event)
        errors = delivery.stats().spool["errors"]
        assert delivery.persist(), "what waited in memory is durable now too"
        assert delivery.stats().spool["errors"] == errors, "the disk has room again"
        assert time.monotonic() - started <= 1.0
        (path,) = Path(sys.argv[1]).glob("*.spool")
        connection = sqlite3.connect(path)
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        connection.close()
        sink.always = None
        assert delivery.flush_sync(20.0)
        stats = delivery.stats()
        assert stats.balanced()
        assert len(sink.stored) == 4010, len(sink.stored)
        delivery.close_sync()
        print("well")
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), str(tmp_path / "spool")],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.stdout.split() == ["well"], done.stderr


SMALL_DISK = """
    import os, sqlite3, sys, time
    from pathlib import Path
    from flag_analytics import Delivery, DeliveryOptions
    from flag_analytics.errors import SinkUnavailable
    from flag_analytics.testing.faults import ScriptedSink
    from flag_analytics.testing.samples import plain_events

    disk = Path(sys.argv[1])
    others = disk / "what-others-wrote"

    def fill():
        with others.open("ab", buffering=0) as file:
            try:
                while True:
                    file.write(bytes(4096))
            except OSError:
                pass

    def record(count):
        errors = delivery.stats().spool.get("errors", 0)
        for event in plain_events(count):
            assert delivery.record_nowait(event)
        delivery.persist()
        return delivery.stats().spool.get("errors", 0) == errors

    sink = ScriptedSink(always=SinkUnavailable())
    options = DeliveryOptions(durability="spool", spool_directory=disk / "spool", retry_max_seconds=0.05)
    delivery = Delivery({"sink": sink}, options)
    spooled = record(1_000)
    fill()
    kept = not record(1_000)
    errors = delivery.stats().spool["errors"]
    sink.always = None  # delivered while the disk does not even take the note that it was
    delivery.flush_sync(20.0)
    arrived = len(sink.stored)
    sink.always = SinkUnavailable()
    kept = not record(1_000) and kept
    others.unlink()
    started = time.monotonic()
    back = record(1_000)
    recovered = time.monotonic() - started
    sink.always = None
    assert delivery.flush_sync(20.0)
    stats = delivery.stats()
    assert stats.balanced() and not stats.refused and not stats.sinks["sink"].dropped, stats
    (path,) = (disk / "spool").glob("*.spool") if spooled or back else [":memory:"]
    with sqlite3.connect(path) as connection:
        sound = connection.execute("PRAGMA integrity_check").fetchone()[0]
    connection.close()
    delivery.close_sync()
    print(spooled, kept, errors > 0, arrived, back, recovered <= 1.0, len(sink.stored), sink.repeated, sound)
"""


def on_a_disk_of(megabytes, directory, code):
    """Run a program with a real file system of this size at ``directory``, that no other program sees."""
    own = ["unshare", "--mount"] if os.geteuid() == 0 else ["unshare", "--user", "--map-root-user", "--mount"]
    mount = f'mount -t tmpfs -o size={megabytes}m none "$0" && exec "$@"'
    command = [*own, "sh", "-c", mount, str(directory)]
    if not shutil.which("unshare") or subprocess.run([*command, "true"], capture_output=True, check=False).returncode:
        pytest.skip("this user may not mount a file system: RLIMIT_FSIZE and max_page_count stand in for a full disk")
    return subprocess.run(
        [*command, sys.executable, "-c", textwrap.dedent(code), str(directory)],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="mounts a tmpfs")
@pytest.mark.parametrize(("megabytes", "has_room"), [(16, True), (4, False)])
def test_a_disk_that_others_fill_up_loses_and_breaks_nothing(tmp_path, megabytes, has_room):
    """With 4 MiB there is never more room than the reserve that is left to others: everything stays in memory."""
    done = on_a_disk_of(megabytes, tmp_path, SMALL_DISK)
    said = f"{has_room} True True 2000 {has_room} True 4000 0 ok"
    assert done.stdout.strip() == said, done.stdout + done.stderr
    assert "Traceback" not in done.stderr


@posix
def test_a_directory_that_cannot_be_written_to_leaves_events_in_memory(tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("a file where the directory should be")
    sink, delivery = start(blocked / "spool")
    for event in plain_events(10):
        assert delivery.record_nowait(event)
    assert not delivery.persist()
    delivery.flush_sync(10.0)
    assert len(sink.stored) == 10
    assert delivery.stats().spool["errors"] >= 1
    delivery.close_sync()


# --- corruption


def truncate(path):
    path.write_bytes(path.read_bytes()[:5_000])


def zero_the_header(path):
    path.write_bytes(b"\0" * 100 + path.read_bytes()[100:])


def flip_a_byte_in_every_page(path):
    data = bytearray(path.read_bytes())
    for at in range(200, len(data), 4_096):
        data[at] ^= 0xFF
    path.write_bytes(data)


def empty(path):
    path.write_bytes(b"")


def another_version(path):
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE meta SET value = '99' WHERE name = 'version'")
    connection.close()


def unreadable_rows(path):
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE events SET body = 'not an event' WHERE seq % 2")
    connection.close()


@pytest.mark.parametrize(
    "harm", [truncate, zero_the_header, flip_a_byte_in_every_page, empty, another_version, unreadable_rows]
)
def test_a_spool_that_is_not_sound_stops_nobody(tmp_path, harm):
    ids = leave_behind(tmp_path)
    (path,) = tmp_path.glob("*.spool")
    for suffix in ("-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)
    harm(path)
    sink, delivery = start(tmp_path)
    fresh = plain_event()
    assert delivery.record_nowait(fresh)
    delivery.flush_sync(10.0)
    assert fresh.event_id in sink.stored
    assert set(sink.stored) <= {fresh.event_id, *ids}
    stats = delivery.stats()
    assert stats.balanced()
    if harm is unreadable_rows:
        assert stats.sinks["sink"].dropped["spool_corrupt"] == 50
        assert len(sink.stored) == 51
    delivery.close_sync()


def test_a_spool_that_turns_bad_in_use_is_set_aside_and_accounted_for(tmp_path):
    sink = ScriptedSink(always=SinkUnavailable())
    delivery = Delivery({"sink": sink}, spooling(tmp_path))
    for event in plain_events(50):
        delivery.record_nowait(event)
    assert delivery.persist()
    (path,) = tmp_path.glob("*.spool")
    with path.open("r+b") as file:
        file.write(b"\0" * path.stat().st_size)
    path.with_name(path.name + "-wal").write_bytes(b"")
    for event in plain_events(50):
        delivery.record_nowait(event)
    delivery.persist()
    sink.always = None
    delivery.flush_sync(10.0)
    fresh = plain_event()
    delivery.record_nowait(fresh)
    delivery.flush_sync(10.0)
    assert fresh.event_id in sink.stored
    assert delivery.stats().balanced()
    delivery.close_sync()


# --- several processes, several sinks


def test_processes_that_start_at_once_share_out_what_was_left(tmp_path):
    ids = {event_id for _ in range(4) for event_id in leave_behind(tmp_path, 25)}
    sinks, deliveries = zip(*(start(tmp_path) for _ in range(3)), strict=True)
    threads = [threading.Thread(target=delivery.flush_sync, args=[10.0]) for delivery in deliveries]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    stored = [event_id for sink in sinks for event_id in sink.stored]
    assert sorted(stored) == sorted(ids)
    for delivery in deliveries:
        delivery.close_sync()


def test_a_slow_sink_keeps_no_event_from_a_quick_one_and_loses_none_itself(tmp_path):
    quick, slow = ScriptedSink(), ScriptedSink(always=SinkUnavailable())
    delivery = Delivery({"quick": quick, "slow": slow}, spooling(tmp_path))
    for event in plain_events(300):
        delivery.record_nowait(event)
    assert quick.wait_for(lambda: len(quick.stored) == 300)
    assert delivery.close_sync(0.1).sinks["slow"].spooled == 300
    quick, slow = ScriptedSink(), ScriptedSink()
    delivery = Delivery({"quick": quick, "slow": slow}, spooling(tmp_path))
    assert delivery.flush_sync(10.0)
    assert (len(quick.stored), len(slow.stored)) == (0, 300)
    delivery.close_sync()


def test_dead_letters_are_kept_on_disk(tmp_path):
    async def picky(batch):
        if any(event.variant == "bad" for event in batch):
            raise BadBatch(code="22001")
        return True

    class WithoutAPlaceForThem(ScriptedSink):
        write_dead_letters = None

    delivery = Delivery({"sink": WithoutAPlaceForThem(always=picky)}, spooling(tmp_path))
    bad = plain_event(variant="bad")
    for event in [bad, *plain_events(5)]:
        delivery.record_nowait(event)
    delivery.flush_sync(10.0)
    delivery.close_sync()
    (path,) = tmp_path.glob("*.spool")
    spool = Spool(path, (), max_bytes=2**20)
    (letter,) = spool.dead_letters()
    spool.close()
    assert (letter.event.event_id, letter.code) == (bad.event_id, "22001")


@pytest.mark.parametrize("fail", range(1, 6))
def test_an_error_of_any_write_to_the_spool_loses_nothing(tmp_path, monkeypatch, fail):
    """The n-th append fails, for every n: what it held stays in memory."""
    calls = []
    append = Spool.append

    def failing(self, events):
        calls.append(len(events))
        if len(calls) == fail:
            raise sqlite3.OperationalError("disk I/O error")
        append(self, events)

    monkeypatch.setattr(Spool, "append", failing)
    sink, delivery = start(tmp_path)
    ids = []
    for _ in range(6):
        for event in plain_events(10):
            delivery.record_nowait(event)
            ids.append(event.event_id)
        delivery.persist()
    assert delivery.flush_sync(10.0)
    assert sorted(sink.stored) == sorted(ids)
    assert delivery.stats().balanced()
    delivery.close_sync()
