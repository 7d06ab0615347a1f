"""Serves the page with uvicorn until Ctrl-C."""

from __future__ import annotations

import asyncio
import ipaddress
import os
import socket
import sys
import webbrowser
from typing import Any

from flag_analytics.config.plan import Plan
from flag_analytics.errors import PluginNotInstalledError, SourceError
from flag_analytics.pipeline import Pipeline, open_pipeline

from .stored import check_file
from .terminal import note, results

__all__ = ["PageError", "dashboard_of", "is_loopback", "listen", "serve_page", "serve_stored", "until_interrupted"]

_LAST_PORT = 65_535
_LAST_REQUEST_SECONDS = 1


class PageError(SourceError):
    """The page cannot be served."""


def serve_stored(plan: Plan, *, host: str, port: int, token: str | None, show_people: bool) -> None:
    """Show what the collectors of a plan keep, until interrupted.

    Raises:
        PageError: the port cannot be had.
        PluginNotInstalledError: the page's distributions are not installed.
        ConfigError: the token is too short.
        SourceError: no collector can be asked.
    """

    async def serving() -> None:
        async with open_pipeline(plan) as pipeline:
            source = pipeline.event_source
            for name, collector in pipeline.collectors.items():
                if source in (collector, getattr(collector, "event_source", None)):
                    check_file(plan, name)
            page = dashboard_of(pipeline, plan, token=token, show_people=show_people)
            await serve_page(page, listen(host, port))

    until_interrupted(serving())


def until_interrupted(serving: Any) -> None:
    """Run a coroutine that serves; Ctrl-C is its usual end."""
    try:
        asyncio.run(serving)
    except KeyboardInterrupt:
        pass


def dashboard_of(pipeline: Pipeline, plan: Plan, *, token: str | None = None, show_people: bool = False) -> Any:
    """Return the page over a pipeline.

    Raises:
        PluginNotInstalledError: it is not installed.
        ConfigError: the token is too short.
    """
    try:
        import uvicorn  # noqa: F401 - whether it is there
        from flag_analytics_api import ApiOptions
        from flag_analytics_dashboard import create_dashboard
    except ModuleNotFoundError as error:
        raise PluginNotInstalledError(
            f"the page needs {error.name}, which is not installed: run `pip install 'flag-analytics-cli[serve]'`"
        ) from None
    options = ApiOptions(token=token, loopback=token is None, show_people=show_people)
    return create_dashboard(pipeline, options, plan=plan)


def listen(host: str, port: int) -> socket.socket:
    """Return a socket that listens.

    Raises:
        PageError: the port is taken or not allowed.
    """
    if not 0 <= port <= _LAST_PORT:
        raise PageError(f"there is no port {port}: choose one from 0 to {_LAST_PORT} with --port")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family)
    except OSError as error:
        raise PageError(f"cannot serve on {host} port {port} ({error.strerror}): choose another with --port") from None


async def serve_page(page: Any, listening: socket.socket) -> None:
    """Serve until a signal ends it; say where, and open it in the browser of a person who looks on."""
    import uvicorn

    config = uvicorn.Config(
        page,
        log_level="warning",
        access_log=False,
        lifespan="off",
        timeout_graceful_shutdown=_LAST_REQUEST_SECONDS,
    )
    host, port, *_ = listening.getsockname()
    url = f"http://{f'[{host}]' if ':' in host else host}:{port}/"
    note(f"Serving {url}  (Ctrl-C ends it)", "bold")
    if results().is_terminal and _has_browser():
        webbrowser.open(url)
    await uvicorn.Server(config).serve(sockets=[listening])
    try:
        # The server raises the signal that ended it once more, which cancels this task.
        await asyncio.sleep(0)
    except asyncio.CancelledError:
        task = asyncio.current_task()
        if task is not None:
            task.uncancel()


def _has_browser() -> bool:
    """Return whether a browser would open in a window, and not in the terminal."""
    return sys.platform in ("win32", "darwin") or bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))


def is_loopback(host: str) -> bool:
    """Return whether an address is of this machine alone."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
