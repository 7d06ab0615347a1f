"""Which plugins a command loads."""

from __future__ import annotations

import pytest
from flag_analytics_cli.settings import chosen_plugins


@pytest.mark.parametrize(
    ("toml", "environ", "expected"),
    [
        ("[collectors.memory]\n[exporters.'prometheus/web']\n", {}, {"memory", "prometheus"}),
        ("[collectors]\nmemory = 5\n[exporters]\n", {}, {"memory"}),
        (
            "plugins = ['audit']\n[collectors.memory]\n[[processors]]\ntype = 'sample'\n[[processors]]\ntype = 'geo'\n",
            {},
            {"memory", "audit", "geo"},
        ),
        ("plugins = 5\nprocessors = [5]\n[collectors.memory]\n", {}, {"memory"}),
        ("[collectors.memory]\n", {"FLAG_ANALYTICS__PLUGINS": "audit, trace"}, {"memory", "audit", "trace"}),
        ("[collectors.memory]\n", {"FLAG_ANALYTICS__EXPORTERS__OTEL": "true"}, {"memory", "otel"}),
        ("[collectors.memory]\n", {"FLAG_ANALYTICS__PROCESSORS__0__TYPE": "geo"}, {"memory", "geo"}),
    ],
)
def test_the_plugins_that_a_configuration_names_are_known_without_loading_them(
    tmp_path, monkeypatch, toml, environ, expected
):
    monkeypatch.chdir(tmp_path)
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    (tmp_path / "flag-analytics.toml").write_text(toml)
    assert chosen_plugins(None) == expected
