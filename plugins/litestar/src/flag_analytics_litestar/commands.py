"""``litestar flag-analytics …``: the commands of flag-analytics-cli, with the application's configuration."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .config import FlagAnalyticsConfig

if TYPE_CHECKING:
    from click import Context, Group

__all__ = ["add_commands"]

_AS_THEY_ARE: dict[str, Any] = {"ignore_unknown_options": True, "allow_extra_args": True, "help_option_names": []}
_CONFIG = "FLAG_ANALYTICS_CONFIG"
_PACKAGE = "flag_analytics_cli"


def add_commands(cli: Group, config: FlagAnalyticsConfig) -> None:
    """Add the command, which hands all its arguments on."""
    import click

    @cli.command("flag-analytics", context_settings=_AS_THEY_ARE, help="What are our feature flags really doing?")
    @click.pass_context
    def flag_analytics(context: Context) -> None:
        if importlib.util.find_spec(_PACKAGE) is None:
            raise click.ClickException(f"{_PACKAGE} is not installed: run `pip install 'flag-analytics-litestar[cli]'`")
        environment = dict(os.environ)
        if isinstance(config.source, str | Path):
            environment.setdefault(_CONFIG, os.fspath(config.source))
        elif config.source is not None:
            click.echo("the application's configuration is not a file: that of this directory is used", err=True)
        # In a process of its own: the command sets up streams, signals and logs as it needs them.
        command = [sys.executable, "-m", _PACKAGE, *context.args]
        context.exit(subprocess.call(command, env=environment))  # noqa: S603 - its own user's words, without a shell
