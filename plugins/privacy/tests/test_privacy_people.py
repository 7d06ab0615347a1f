"""Erasing and exporting one person, in every kind of place; and the command line."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
from flag_analytics import FlagEvaluationEvent, open_pipeline
from flag_analytics.config.reading import read_config
from flag_analytics.errors import BadBatch
from flag_analytics.freezer import Freezer
from flag_analytics.reports import DeadLetter, DeliveryOptions
from flag_analytics.testing.doubles import RecordingSink
from flag_analytics_delivery import Delivery
from flag_analytics_delivery.spool import Spool
from flag_analytics_delivery.spool_reader import SpoolReader, UnreadableError
from flag_analytics_privacy import forget, person
from flag_analytics_privacy.people import forms_of
from flag_analytics_privacy.spools import erase_from_spool

KEY, OLD = "a-key-of-thirty-two-characters-00", "an-older-key-of-enough-characters"


def event(user, number=0):
    return FlagEvaluationEvent.now("f", number, "STATIC", targeting_key=user, context_attributes={"email": user})


def hashed(key_id, **further):
    key = KEY if key_id == "2" else OLD
    return {"type": "hash_targeting_key", "key": key, "key_id": key_id, **further}


def config(tmp_path, **further):
    return {
        "plugins": ["privacy"],
        "collectors": {
            "memory": {},
            "database": {"connection_string": f"sqlite+aiosqlite:///{tmp_path / 'flags.db'}", **further},
        },
    }


async def test_a_person_is_erased_from_every_store_and_others_stay(tmp_path):
    async with open_pipeline(config(tmp_path)) as pipeline:
        for number in range(5):
            pipeline.record_nowait(event("user-1", number))
            pipeline.record_nowait(event("user-2", number))
        receipt = await forget(pipeline, "user-1")
        again = await forget(pipeline, "user-1")
        left = [
            [each.targeting_key for each in await collector.get_events()] for collector in pipeline.collectors.values()
        ]
        assert pipeline.stats().balanced()
    assert {place.name: place.erased for place in receipt.places} == {"memory": 5, "database": 5, "dead letters": 0}
    assert receipt.complete
    assert "user-1" not in json.dumps(receipt.to_dict())
    assert {place.erased for place in again.places} == {0}
    assert left == [["user-2"] * 5] * 2


async def test_a_person_is_found_in_files_and_erased_from_them(tmp_path):
    source = config(tmp_path)
    source["collectors"]["files"] = {"location": str(tmp_path / "kept"), "format": "parquet"}
    async with open_pipeline(source) as pipeline:
        for user in ("user-1", "user-2"):
            pipeline.record_nowait(event(user))
        found = await person(pipeline, "user-1")
        receipt = await forget(pipeline, "user-1")
        left = await person(pipeline, "user-2")
    assert {name: len(events) for name, events in found.items()} == {
        "memory": 1, "database": 1, "files": 1, "dead letters": 0,
    }  # fmt: skip
    assert {place.name: place.erased for place in receipt.places} == {
        "memory": 1, "database": 1, "files": 1, "dead letters": 0,
    }  # fmt: skip
    assert receipt.complete
    assert len(left["files"]) == 1
    assert not any(b"user-1" in path.read_bytes() for path in (tmp_path / "kept").rglob("*") if path.is_file())


async def test_pseudonyms_by_the_key_and_by_the_one_before_are_found(tmp_path):
    async with open_pipeline(config(tmp_path, processors=[hashed("1")])) as pipeline:
        pipeline.record_nowait(event("user-1"))
        await pipeline.flush()
    rotated = hashed("2", previous_keys={"1": OLD})
    async with open_pipeline(config(tmp_path, processors=[rotated])) as pipeline:
        pipeline.record_nowait(event("user-1"))
        pipeline.record_nowait(event("user-2"))
        found = await person(pipeline, "user-1")
        assert sorted(each["targeting_key"][:2] for each in found["database"]) == ["1:", "2:"]
        assert [each["targeting_key"] for each in found["memory"]] == ["user-1"]
        receipt = await forget(pipeline, "user-1")
        assert {place.name: place.erased for place in receipt.places} == {"memory": 1, "database": 2, "dead letters": 0}
        assert len(await pipeline.collectors["database"].get_events()) == 1


def test_every_form_of_a_key_is_known_for_each_sink():
    plan = read_config(
        {
            "plugins": ["privacy"],
            "processors": [
                {"type": "sample", "rate": 1e-9},
                {"type": "hash_targeting_key", "key": "a-key-of-enough-characters"},
            ],
            "collectors": {"memory/plain": {}, "memory/twice": {"processors": [hashed("1")]}},
        }
    )
    plain, twice = forms_of(plan, "memory/plain", "user-1"), forms_of(plan, "memory/twice", "user-1")
    assert len(plain) == 2
    assert plain < twice
    assert len(twice) == 3
    assert "user-1" in plain
    assert forms_of(plan, "memory/plain", "user-2").isdisjoint(plain)


async def test_what_was_sent_on_or_cannot_be_erased_is_said(tmp_path):
    source = config(tmp_path) | {"exporters": {"webhook": {"url": "http://127.0.0.1:9/"}}}
    async with open_pipeline(source) as pipeline:
        pipeline.collectors["memory"] = object()
        receipt = await forget(pipeline, "user-2")
        found = await person(pipeline, "user-2")
    notes = {place.name: place.note for place in receipt.places if place.erased is None}
    assert set(notes) == {"memory", "webhook"}
    assert "cannot erase" in notes["memory"]
    assert found["memory"] is None
    assert not receipt.complete


async def test_dead_letters_in_memory_are_forgotten():
    class Refusing(RecordingSink):
        async def write(self, batch):
            raise BadBatch("no", refused={each.event_id: "no" for each in batch})

    delivery = Delivery({"s": Refusing()}, DeliveryOptions(flush_interval_seconds=0.01))
    for user in ("user-1", "user-2", "user-1"):
        delivery.record_nowait(event(user))
    await delivery.flush()
    assert delivery.forget_dead_letters({"user-1"}) == 2
    assert [letter.event.targeting_key for letter in delivery.dead_letters()] == ["user-2"]
    await delivery.close()


def test_a_spool_keeps_places_and_no_person(tmp_path):
    freeze = Freezer().freeze
    spool = Spool.create(tmp_path, {"s": 0}, max_bytes=2**24, fsync="normal")
    path = spool.path
    spool.append(0, [freeze(event(user)) for user in ("user-1", "user-2", "user-1")])
    spool.add_dead([DeadLetter("s", freeze(event("user-1")), "BadBatch", "no", "b", 0.0)])
    assert erase_from_spool(path, {"user-1"}) is None, "a process uses it"
    spool.close()
    assert erase_from_spool(path, {"user-1"}) == 3
    assert erase_from_spool(path, {"user-1"}) == 0
    with SpoolReader(path) as reader:
        (stretch,) = reader.waiting("s")
        assert [each.targeting_key for each in stretch.events] == [None, "user-2", None]
        assert list(reader.dead_letters()) == []
    assert b"user-1" not in path.read_bytes()


def test_nothing_of_what_a_spool_has_delivered_is_left_in_its_file(tmp_path):
    freeze = Freezer().freeze
    spool = Spool.create(tmp_path, {"s": 0}, max_bytes=2**24, fsync="normal")
    path = spool.path
    spool.append(0, [freeze(event("user-1")) for _ in range(50)])
    spool.append(50, [freeze(event("user-2"))])
    spool.close()
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("PRAGMA secure_delete = OFF")  # as most builds of SQLite have it
        connection.execute("DELETE FROM events WHERE seq <= 50")
    assert b"user-1" in path.read_bytes()
    assert erase_from_spool(path, {"user-1"}) == 0
    assert b"user-1" not in path.read_bytes()


def test_a_spool_with_events_that_cannot_be_read_is_not_taken_for_erased(tmp_path):
    spool = Spool.create(tmp_path, {"s": 0}, max_bytes=2**24, fsync="normal")
    path = spool.path
    spool.append(0, [Freezer().freeze(event("user-1")) for _ in range(2)])
    spool.close()
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("UPDATE events SET body = substr(body, 1, length(body) - 1) WHERE seq = 1")
    for _ in range(2):
        with pytest.raises(UnreadableError, match="cannot be read"):
            erase_from_spool(path, {"user-1"})
    with SpoolReader(path) as reader:
        (stretch,) = reader.waiting("s")
        assert [each.targeting_key for each in stretch.events] == [None]


CONFIG = """
plugins = ["privacy"]

[collectors.memory]

[collectors.database]
connection_string = "sqlite+aiosqlite:///flags.db"

[[collectors.database.processors]]
type = "hash_targeting_key"
key = "a-key-of-thirty-two-characters-00"
key_id = "1"

[exporters.prometheus]

[exporters.webhook]
url = "http://127.0.0.1:9/"

[[exporters.webhook.processors]]
type = "allow_attributes"
attributes = ["plan"]

[[exporters.webhook.processors]]
type = "truncate"
max_chars = 20
"""


@pytest.fixture
def run(tmp_path):
    (tmp_path / "flag-analytics.toml").write_text(CONFIG, "utf-8")

    def command(*words, **environment):
        program = Path(sys.executable).with_name("flag-analytics")
        return subprocess.run(
            [program, *words],
            cwd=tmp_path,
            env={**os.environ, **environment},
            capture_output=True,
            encoding="utf-8",
            timeout=60,
            check=False,
        )

    return command


def test_the_review_says_what_reaches_which_of_four_sinks(run):
    done = run("privacy", "--format", "json")
    assert done.returncode == 0, done.stderr
    sinks = {sink["name"]: sink for sink in json.loads(done.stdout)["sinks"]}
    assert sinks["memory"]["rules"] == []
    assert sinks["database"]["fields"]["targeting_key"] == "HMAC-SHA-256 with the key 1"
    assert sinks["database"]["rules"] == ["all-attributes", "free-text", "value"]
    assert set(sinks["prometheus"]["fields"].values()) == {"not sent"}
    assert sinks["webhook"]["fields"]["context_attributes"] == "only plan, cut to 20 characters"
    assert sinks["webhook"]["rules"] == ["raw-targeting-key", "value"]
    assert KEY not in done.stdout


def test_a_rule_that_is_broken_fails_the_command(run):
    assert run("privacy", "--fail-on", "unkeyed-hash").returncode == 0
    done = run("privacy", "--fail-on", "raw-targeting-key")
    assert done.returncode == 1
    assert "webhook breaks raw-targeting-key" in done.stdout


def test_a_person_is_exported_and_erased_by_the_command(run, tmp_path):
    with open_pipeline(config(tmp_path, processors=[hashed("2") | {"key_id": "1"}])) as pipeline:
        pipeline.record_nowait(event("user-1"))
        pipeline.record_nowait(event("user-2"))
        assert pipeline.flush_sync()
    done = run("person", "user-1")
    assert done.returncode == 0, done.stderr
    assert [each["context_attributes"] for each in json.loads(done.stdout)["database"]] == [{"email": "user-1"}]
    done = run("forget", "user-1", "--format", "json")
    receipt = json.loads(done.stdout)
    assert done.returncode == 1, "what a webhook has sent is not erased"
    assert {place["name"]: place["erased"] for place in receipt["places"]} == {
        "memory": 0,
        "database": 1,
        "dead letters": 0,
        "prometheus": 0,
        "webhook": None,
    }
    assert "call forget there" in next(place["note"] for place in receipt["places"] if place["name"] == "memory")
    assert "user-1" not in done.stdout
    assert json.loads(run("person", "user-1").stdout)["database"] == []


def left_spool(directory):
    spool = Spool.create(directory, {"s": 0}, max_bytes=2**24, fsync="normal")
    spool.append(0, [Freezer().freeze(event("user-1"))])
    spool.close()
    return spool


@pytest.mark.skipif(sys.platform == "win32", reason="it has no modes of directories")
def test_spools_in_a_directory_that_others_can_write_to_are_erased(run, tmp_path):
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o777)
    spool = left_spool(shared)
    assert spool.path.parent != shared
    receipt = json.loads(run("forget", "user-1", "--spools", str(shared), "--format", "json").stdout)
    assert {place["name"]: place["erased"] for place in receipt["places"]}[str(spool.path)] == 1
    assert b"user-1" not in spool.path.read_bytes()


@pytest.mark.skipif(sys.platform != "linux", reason="the environment does not say where the place for state is")
@pytest.mark.parametrize("durability", ["spool", "memory"])
def test_the_receipt_names_the_usual_places_of_spools(run, tmp_path, durability):
    folder = tmp_path / "state" / "flag-analytics" / "spool" / "0123456789abcdef"
    left_spool(folder)
    written = (tmp_path / "flag-analytics.toml").read_text("utf-8")
    (tmp_path / "flag-analytics.toml").write_text(f'{written}\n[delivery]\ndurability = "{durability}"\n', "utf-8")
    done = run("forget", "user-1", "--format", "json", XDG_STATE_HOME=str(tmp_path / "state"))
    erased = {place["name"]: place["erased"] for place in json.loads(done.stdout)["places"]}
    assert (str(folder) in erased) == (durability == "spool")
    assert erased.get(str(folder)) is None


def test_the_receipt_names_spools_that_were_set_aside(run, tmp_path):
    spool = left_spool(tmp_path)
    aside = spool.path.rename(tmp_path / f"{spool.path.name}.corrupt-20261130-000000")
    receipt = json.loads(run("forget", "user-1", "--spools", str(tmp_path), "--format", "json").stdout)
    (place,) = [place for place in receipt["places"] if "corrupt" in place["name"]]
    assert Path(place["name"]).name == aside.name
    assert (place["erased"], place["note"]) == (None, "it is corrupt: delete the file")
