"""The command knows of sources that are no collectors."""

from __future__ import annotations

import json

from flag_analytics_cli.main import main


def test_check_shows_the_sources_of_a_configuration(tmp_path, capsys):
    path = tmp_path / "flag-analytics.toml"
    path.write_text(f"[collectors.memory]\n\n[sources.files]\nlocation = '{tmp_path.as_posix()}'\n", "utf-8")
    assert main(["check", str(path)]) == 0
    assert "source    files" in capsys.readouterr().out
    assert main(["check", str(path), "--format", "json"]) == 0
    assert json.loads(capsys.readouterr().out)["sources"] == ["files"]
