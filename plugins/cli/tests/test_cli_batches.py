"""Every import is a batch with a name, which can be listed, undone and replaced."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import attrs
import pytest
from flag_analytics.config.plan import Plan, PlannedSink
from flag_analytics.errors import BadBatch
from flag_analytics.protocols import Backend, Batch
from flag_analytics_cli import settings, storing
from flag_analytics_cli.batches import OTHER_CONTENT, ImportBatches, name_of
from flag_analytics_cli.main import main


@attrs.frozen
class NoOptions:
    pass


@attrs.frozen
class Known:
    name: str
    started_at: datetime
    events: int


class Shelf:
    """The rows of a store of batches: content and batch by event id."""

    def __init__(self) -> None:
        self.rows: dict[str, tuple[str | None, str]] = {}
        self.batches: dict[str, datetime] = {}


class Batched:
    """A collector that keeps imports apart, and refuses other content under an id that it has."""

    def __init__(self, shelf: Shelf) -> None:
        self._shelf = shelf
        self._name = ""

    async def write(self, batch: Batch) -> None:
        for event in batch:
            if self._shelf.rows.get(event.event_id, (event.variant, ""))[0] != event.variant:
                raise BadBatch("stored with other content", code=OTHER_CONTENT)
        for event in batch:
            self._shelf.rows.setdefault(event.event_id, (event.variant, self._name))

    async def close(self) -> None:
        pass

    async def start_import(self, name: str) -> None:
        self._name = name
        self._shelf.batches.setdefault(name, datetime.now(UTC))

    async def list_imports(self) -> Sequence[Known]:
        names = [name for _, name in self._shelf.rows.values()]
        return [Known(name, at, names.count(name)) for name, at in self._shelf.batches.items()]

    async def undo_import(self, name: str) -> int | None:
        if self._shelf.batches.pop(name, None) is None:
            return None
        ids = [event_id for event_id, (_, batch) in self._shelf.rows.items() if batch == name]
        for event_id in ids:
            del self._shelf.rows[event_id]
        return len(ids)


class Plain(Batched):
    """One that does not."""

    start_import = list_imports = undo_import = None  # type: ignore[assignment]


ROWS = "flag,timestamp,user_id,arm,group\n" + "".join(f"f,2026-01-{day:02d},u{day},a,b\n" for day in range(1, 6))


@pytest.fixture
def shelf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Shelf:
    monkeypatch.chdir(tmp_path)
    shelf = Shelf()
    use(monkeypatch, shelf, Batched)
    Path("rows.csv").write_text(ROWS)
    return shelf


def use(monkeypatch: pytest.MonkeyPatch, shelf: Shelf, collector: type[Batched]) -> None:
    backend = Backend("shelf", NoOptions, lambda _: collector(shelf))
    plan = Plan("test", (PlannedSink("shelf", "collector", backend, NoOptions()),))
    monkeypatch.setattr(settings, "chosen_plan", lambda *_: plan)


def imports(capsys: pytest.CaptureFixture[str]) -> dict[str, int]:
    assert main(["imports", "--format", "json"]) == 0
    return {batch["name"]: batch["events"] for batch in json.loads(capsys.readouterr().out)["imports"]}


def test_an_import_has_the_name_of_its_file_or_the_one_it_is_given(shelf, capsys):
    assert main(["import", "rows.csv"]) == 0
    Path("rows.csv").write_text(ROWS + "f,2026-01-09,u9,a,b\n")
    assert main(["import", "rows.csv", "--name", "later"]) == 0
    capsys.readouterr()
    assert imports(capsys) == {"rows.csv": 5, "later": 1}
    assert main(["imports"]) == 0
    assert "rows.csv" in capsys.readouterr().out
    assert name_of("-", None) == "standard input"


def test_undoing_an_import_removes_its_events_and_only_those(shelf, capsys):
    assert main(["import", "rows.csv"]) == 0
    Path("rows.csv").write_text(ROWS + "f,2026-01-09,u9,a,b\n")
    assert main(["import", "rows.csv", "--name", "later"]) == 0
    capsys.readouterr()
    assert main(["imports", "undo", "rows.csv"]) == 0
    assert capsys.readouterr().out == "shelf: 5 events removed\n"
    assert imports(capsys) == {"later": 1}
    assert main(["imports", "undo", "rows.csv"]) == 1
    assert "there is no import named 'rows.csv'" in capsys.readouterr().err


def test_other_content_under_a_stored_id_is_refused_with_the_cure(shelf, capsys, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(storing, "_GIVE_UP_SECONDS", 0.0)
    assert main(["import", "rows.csv", "--map", "variant=arm"]) == 0
    capsys.readouterr()
    assert main(["import", "rows.csv", "--map", "variant=group"]) == 1
    said = capsys.readouterr().err
    assert "5 events were refused" in said
    assert "import with --replace" in said
    assert main(["import", "rows.csv", "--map", "variant=group", "--replace"]) == 0
    assert "shelf: 5 events of the import before removed" in capsys.readouterr().err
    assert {variant for variant, _ in shelf.rows.values()} == {"b"}


def test_a_collector_without_batches_takes_imports_and_says_that_none_can_be_undone(
    shelf, capsys, monkeypatch: pytest.MonkeyPatch
):
    use(monkeypatch, shelf, Plain)
    assert main(["import", "rows.csv"]) == 0
    assert len(shelf.rows) == 5
    for arguments in (["imports"], ["imports", "undo", "rows.csv"], ["import", "rows.csv", "--replace"]):
        capsys.readouterr()
        assert main(arguments) == 1
        assert "imports apart" in capsys.readouterr().err


def test_the_protocol_is_found_by_its_methods():
    collector: Any = Batched(Shelf())
    assert isinstance(collector, ImportBatches)


def test_a_database_keeps_imports_apart(tmp_path: Path, capsys, monkeypatch: pytest.MonkeyPatch):
    pytest.importorskip("flag_analytics_database")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(storing, "_GIVE_UP_SECONDS", 0.0)
    Path("rows.csv").write_text(ROWS)
    Path("more.csv").write_text("flag,timestamp,user_id\nf,2026-02-01,u9\n")
    assert main(["import", "rows.csv", "--map", "variant=arm"]) == 0
    assert main(["import", "more.csv", "--name", "later"]) == 0
    capsys.readouterr()
    assert imports(capsys) == {"rows.csv": 5, "later": 1}
    assert main(["import", "rows.csv", "--map", "variant=group"]) == 1
    assert "5 events were refused" in capsys.readouterr().err
    assert main(["import", "rows.csv", "--map", "variant=group", "--replace"]) == 0
    capsys.readouterr()
    assert main(["imports", "undo", "rows.csv"]) == 0
    assert capsys.readouterr().out == "database: 5 events removed\n"
    assert main(["report", "--format", "json"]) == 0
    [flag] = json.loads(capsys.readouterr().out)["flags"]
    assert (flag["total_evaluations"], flag["unique_users"]) == (1, 1)
