"""An object store through obstore: S3 and its kin, Google Cloud Storage, Azure."""

from __future__ import annotations

import os
from collections.abc import Mapping
from datetime import timedelta
from operator import itemgetter
from typing import Any

from flag_analytics.errors import CommitUnknown, FatalConfiguration, PluginError, SinkUnavailable

__all__ = ["ObjectStore"]

_used_by: list[int] = []
"""The process that has used obstore. Its threads do not come along into a forked child, where every call would hang."""


class ObjectStore:
    """See ``Store``; ``put`` is a request that the store refuses where the name is taken.

    The engine repeats what fails, so a request is tried once here.
    """

    def __init__(self, location: str, settings: Mapping[str, str]) -> None:
        try:
            import obstore
            from obstore.store import from_url
        except ImportError:
            line = "pip install 'flag-analytics-files[objects]'"
            raise PluginError(f"an object store needs obstore: run `{line}`") from None
        self._obstore = obstore
        timeouts: dict[str, Any] = {"connect_timeout": timedelta(seconds=5), "timeout": timedelta(seconds=30)}
        if settings.get("endpoint", "").startswith("http://"):
            timeouts["allow_http"] = True
        once: dict[str, Any] = {"max_retries": 0, "retry_timeout": timedelta(seconds=1)}
        try:
            connect: Any = from_url
            self._store: Any = connect(location, client_options=timeouts, retry_config=once, **dict(settings))
        except Exception as error:
            kind = type(error).__name__
        else:
            return
        raise PluginError(
            f"obstore cannot use the location with these settings ({kind}): expected s3://bucket/path, gs://… or "
            "az://…, and settings by their names in obstore"
        )

    async def put(self, path: str, body: bytes) -> bool:
        self._check_process()
        try:
            await self._obstore.put_async(self._store, path, body, mode="create")
        except self._obstore.exceptions.AlreadyExistsError:
            return False
        except Exception as error:
            problem = error
        else:
            return True
        raise self._described(problem, CommitUnknown)

    async def get(self, path: str) -> bytes | None:
        self._check_process()
        try:
            answer = await self._obstore.get_async(self._store, path)
            return bytes(await answer.bytes_async())
        except FileNotFoundError:
            return None
        except Exception as error:
            problem = error
        raise self._described(problem, SinkUnavailable)

    async def replace(self, path: str, before: bytes, body: bytes) -> bool:
        self._check_process()
        try:
            answer = await self._obstore.get_async(self._store, path)
            if bytes(await answer.bytes_async()) != before:
                return False
            known: Any = {name: text for name in ("e_tag", "version") if (text := answer.meta[name]) is not None}
            await self._obstore.put_async(self._store, path, body, mode=known)
        except (FileNotFoundError, self._obstore.exceptions.PreconditionError):
            return False
        except Exception as error:
            problem = error
        else:
            return True
        raise self._described(problem, CommitUnknown)

    async def paths(self, prefix: str) -> list[str]:
        return list(await self.versions(prefix))

    async def versions(self, prefix: str) -> dict[str, str]:
        """Return the paths that begin with a prefix, in order, each with a text that changes when its file does."""
        self._check_process()
        try:
            listed = [item async for part in self._obstore.list(self._store, prefix or None) for item in part]
        except Exception as error:
            problem = error
        else:
            return {item["path"]: f"{item['e_tag']} {item['size']}" for item in sorted(listed, key=itemgetter("path"))}
        raise self._described(problem, SinkUnavailable)

    async def delete(self, path: str) -> None:
        self._check_process()
        try:
            await self._obstore.delete_async(self._store, path)
        except FileNotFoundError:
            return
        except Exception as error:
            problem = error
        else:
            return
        raise self._described(problem, SinkUnavailable)

    def _described(self, error: Exception, otherwise: type[SinkUnavailable]) -> Exception:
        """Return the error to raise; the library's own words hold the request's URL."""
        known = self._obstore.exceptions
        if isinstance(error, known.UnauthenticatedError | known.PermissionDeniedError):
            return FatalConfiguration("the store refuses access: check `storage`", code=type(error).__name__)
        return otherwise("the store cannot be reached, or fails", code=type(error).__name__)

    def _check_process(self) -> None:
        if not _used_by:
            _used_by.append(os.getpid())
        if _used_by[0] != os.getpid():
            raise FatalConfiguration(
                "an object store cannot be used in a forked child of a process that used one: open the pipeline after "
                "the fork",
                code="forked",
            )
