"""A litestar-flags client whose evaluations are observed by a hook."""

from __future__ import annotations

from typing import Any, Protocol, Self

__all__ = ["ObservedClient"]


class Observer(Protocol):
    """A hook, as far as a client needs one."""

    def start_evaluation_span(self, flag_key: str, context: Any, flag_type: str | None) -> Any: ...

    def end_evaluation_span(self, span: Any, result: Any) -> None: ...

    def end_with_error(self, span: Any, error: Exception, flag_key: str) -> None: ...

    def record_evaluation(self, flag_key: str, result: Any, context: Any) -> None: ...


class ObservedClient:
    """Wraps a litestar-flags client: evaluations go through the hook, everything else straight to the client.

    It holds no state of its own, so it lives as long as the client does. Bulk evaluations are recorded one by one, once
    they are over, without a duration.
    """

    def __init__(self, client: Any, hook: Observer) -> None:
        self._client = client
        self._hook = hook

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)

    async def get_boolean_details(self, flag_key: str, default: bool = False, context: Any = None) -> Any:
        return await self._observed("boolean", self._client.get_boolean_details, flag_key, default, context)

    async def get_string_details(self, flag_key: str, default: str = "", context: Any = None) -> Any:
        return await self._observed("string", self._client.get_string_details, flag_key, default, context)

    async def get_number_details(self, flag_key: str, default: float = 0.0, context: Any = None) -> Any:
        return await self._observed("number", self._client.get_number_details, flag_key, default, context)

    async def get_object_details(self, flag_key: str, default: dict[str, Any], context: Any = None) -> Any:
        return await self._observed("json", self._client.get_object_details, flag_key, default, context)

    async def get_boolean_value(self, flag_key: str, default: bool = False, context: Any = None) -> Any:
        return (await self.get_boolean_details(flag_key, default, context)).value

    async def get_string_value(self, flag_key: str, default: str = "", context: Any = None) -> Any:
        return (await self.get_string_details(flag_key, default, context)).value

    async def get_number_value(self, flag_key: str, default: float = 0.0, context: Any = None) -> Any:
        return (await self.get_number_details(flag_key, default, context)).value

    async def get_object_value(self, flag_key: str, default: dict[str, Any] | None = None, context: Any = None) -> Any:
        return (await self.get_object_details(flag_key, default or {}, context)).value

    async def is_enabled(self, flag_key: str, context: Any = None) -> Any:
        return await self.get_boolean_value(flag_key, default=False, context=context)

    async def get_flags(self, flag_keys: list[str], context: Any = None) -> Any:
        return self._recorded(await self._client.get_flags(flag_keys, context), context)

    async def get_all_flags(self, context: Any = None) -> Any:
        return self._recorded(await self._client.get_all_flags(context), context)

    async def __aenter__(self) -> Self:
        await self._client.__aenter__()
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self._client.__aexit__(*exception)

    async def _observed(self, flag_type: str, evaluate: Any, flag_key: str, default: Any, context: Any) -> Any:
        span = self._hook.start_evaluation_span(flag_key, context, flag_type)
        try:
            details = await evaluate(flag_key, default, context)
        except Exception as error:
            self._hook.end_with_error(span, error, flag_key)
            raise
        self._hook.end_evaluation_span(span, details)
        return details

    def _recorded(self, results: dict[str, Any], context: Any) -> dict[str, Any]:
        for flag_key, details in results.items():
            self._hook.record_evaluation(flag_key, details, context)
        return results
