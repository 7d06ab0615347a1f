"""``serve``: the page and the JSON API over stored events."""

from __future__ import annotations

import os
from pathlib import Path

from ..parameters import DEFAULT_PORT, OK, Config, Switch, UsageError

__all__ = ["serve"]

_TOKEN = "FLAG_ANALYTICS_TOKEN"  # noqa: S105 - the name of a variable


def serve(
    *,
    host: str = "127.0.0.1",
    port: int = DEFAULT_PORT,
    token_file: Path | None = None,
    show_people: Switch = False,
    collector: str | None = None,
    config: Config = None,
) -> int:
    """Show the stored events on a page in the browser, and answer questions about them as JSON under /api/v1.

    Without a token, to this machine alone. A token is read from --token-file or the variable FLAG_ANALYTICS_TOKEN.

    Args:
        host: The address to serve on; one that others can reach needs a token.
        port: The port; 0 means any that is free.
        token_file: A file with the token that clients need, of at least 16 characters.
        show_people: Show targeting keys and context attributes.
        collector: The collector to ask; by default the first that outlives a process and can be asked.
        config: A configuration file.
    """
    from ..page import is_loopback, serve_stored
    from ..stored import Place, lasting_plan

    token = token_file.read_text("utf-8").strip() if token_file is not None else os.environ.get(_TOKEN)
    if token is None and not is_loopback(host):
        raise UsageError(
            f"--host {host} can be reached from other machines, and anyone could read the events: give a token in "
            f"--token-file or {_TOKEN}"
        )
    serve_stored(lasting_plan(Place(config, collector)), host=host, port=port, token=token, show_people=show_people)
    return OK
