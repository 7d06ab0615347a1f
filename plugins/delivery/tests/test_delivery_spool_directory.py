"""Spools lie where only their user can write: links, other users' files and other databases are left as they are."""

from __future__ import annotations

import os
import sqlite3
import stat
import subprocess
import sys
import textwrap

import pytest
from flag_analytics.errors import SinkUnavailable
from flag_analytics.reports import DeliveryOptions
from flag_analytics.testing.faults import ScriptedSink
from flag_analytics.testing.samples import plain_event
from flag_analytics_delivery import Delivery
from flag_analytics_delivery.spool import Spool, SpoolForeignError
from flag_analytics_delivery.spool_directory import SpoolError, make_private, private_in, sweep

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="owners and modes of POSIX")


def spooling(directory):
    return DeliveryOptions(
        durability="spool", spool_directory=directory, spool_interval_seconds=0.005, retry_initial_seconds=0.01
    )


def spooled_once(directory):
    """Spool an event for a sink that is down; return what happened to the spool."""
    delivery = Delivery({"sink": ScriptedSink(always=SinkUnavailable())}, spooling(directory))
    delivery.record_nowait(plain_event())
    delivery.persist()
    delivery.close_sync(0.1)
    return delivery.stats().spool


def recovered(directory):
    sink = ScriptedSink()
    delivery = Delivery({"sink": sink}, spooling(directory))
    delivery.flush_sync(10.0)
    delivery.close_sync()
    return len(sink.stored), delivery.stats().spool


def foreign_database(path):
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE theirs (id INTEGER)")
    connection.close()
    return path.read_bytes()


def give_away(path, monkeypatch):
    """Let a directory be another user's."""
    if os.geteuid() == 0:
        os.chown(path, 12_345, -1)
    else:
        monkeypatch.setattr(os, "geteuid", lambda: path.stat().st_uid + 1)


@pytest.mark.parametrize("mode", [0o777, 0o1777, 0o775])
def test_in_a_directory_that_others_can_write_to_spools_lie_in_a_private_folder(tmp_path, mode):
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(mode)
    assert not spooled_once(shared).get("errors")
    assert list(shared.glob("*.spool")) == []
    (private,) = shared.iterdir()
    assert stat.S_IMODE(private.stat().st_mode) == 0o700
    assert recovered(shared)[0] == 1


def test_a_directory_of_the_users_own_is_used_as_it_is(tmp_path):
    assert private_in(tmp_path / "missing") == make_private(tmp_path / "missing") == tmp_path / "missing"
    assert stat.S_IMODE((tmp_path / "missing").stat().st_mode) == 0o700


@pytest.mark.parametrize("planted", ["link", "open", "file"])
def test_a_planted_folder_is_refused_and_delivery_goes_on(tmp_path, planted):
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o1777)
    folder = private_in(shared)
    if planted == "link":
        (tmp_path / "target").mkdir()
        folder.symlink_to(tmp_path / "target")
    elif planted == "open":
        folder.mkdir()
        folder.chmod(0o777)
    else:
        folder.touch()
    with pytest.raises((SpoolError, OSError)):
        make_private(shared)
    assert spooled_once(shared)["errors"] > 0
    assert not list(tmp_path.rglob("*.spool"))


def test_a_directory_of_another_user_is_refused(tmp_path, monkeypatch):
    directory = tmp_path / "theirs"
    directory.mkdir()
    give_away(directory, monkeypatch)
    with pytest.raises(SpoolError, match="belongs to another user"):
        make_private(directory)
    assert spooled_once(directory)["errors"] > 0
    assert list(directory.iterdir()) == []


@pytest.mark.parametrize("kind", ["link", "database"])
def test_a_planted_spool_changes_no_other_database_and_is_counted(tmp_path, kind):
    directory = tmp_path / "spool"
    spooled_once(directory)
    target = tmp_path / "theirs.db" if kind == "link" else directory / "1-abc.spool"
    before = foreign_database(target)
    if kind == "link":
        (directory / "1-abc.spool").symlink_to(target)
    delivered, spool = recovered(directory)
    assert (delivered, spool["skipped"]) == (1, 1)
    assert target.read_bytes() == before
    with pytest.raises(SpoolForeignError):
        Spool(directory / "1-abc.spool", {}, max_bytes=2**20)


def test_a_planted_lock_is_not_followed(tmp_path):
    (tmp_path / "1-abc.lock").symlink_to(tmp_path / "made")
    with pytest.raises(SpoolError):
        Spool(tmp_path / "1-abc.spool", {}, max_bytes=2**20)
    assert not (tmp_path / "made").exists()


KILLED = """
    import os, sys
    from pathlib import Path
    from flag_analytics_delivery import spool

    def kill(*_, **__):
        os._exit(9)

    if sys.argv[2] == "made":
        spool._connect = kill
    else:
        spool.FileLock.release = kill
    made = spool.Spool.create(Path(sys.argv[1]), {}, max_bytes=2**20, fsync="normal")
    made.close()
"""


@pytest.mark.parametrize("at", ["made", "deleted"])
def test_a_kill_between_lock_and_file_leaves_nothing_for_good(tmp_path, at):
    code = subprocess.run([sys.executable, "-c", textwrap.dedent(KILLED), str(tmp_path), at], check=False).returncode
    assert code == 9
    (left,) = tmp_path.iterdir()
    assert left.suffix == ".lock"
    spooled_once(tmp_path)
    assert recovered(tmp_path)[0] == 1
    assert list(tmp_path.iterdir()) == []


def test_parts_of_a_living_process_are_not_swept(tmp_path):
    mine = Spool.create(tmp_path, {}, max_bytes=2**20, fsync="normal")
    code = "import sys; from pathlib import Path; from flag_analytics_delivery.spool_directory import sweep; "
    mine.path.rename(tmp_path / "elsewhere")  # its lock stands alone, and is held
    subprocess.run([sys.executable, "-c", f"{code}sweep(Path(sys.argv[1]))", str(tmp_path)], check=True)
    assert mine.path.with_suffix(".lock").exists()
    (tmp_path / "elsewhere").rename(mine.path)
    mine.close()
    sweep(tmp_path)
    assert list(tmp_path.iterdir()) == []
