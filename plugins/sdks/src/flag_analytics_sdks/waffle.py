"""django-waffle: ``instrument(pipeline)``, in the ``ready`` of an ``AppConfig``."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import waffle
from django.utils.functional import empty  # type: ignore[import-untyped]
from flag_analytics.recording import Recorder

from .adapter import Adapter, guarded
from .wrapping import observe

__all__ = ["WaffleAdapter", "instrument"]


class WaffleAdapter(Adapter):
    """Records every evaluation of a flag, switch or sample, also of models of the application's own.

    For whom is known where the request's user has been loaded: to record an evaluation makes no query of its own.
    """

    provider_name = "django-waffle"

    @guarded
    def flag(
        self, active: Any, error: Exception | None, started: int, flag: Any, request: Any, *_: Any, **__: Any
    ) -> None:
        """Record the evaluation of a flag."""
        drawn = flag.percent and flag.name in getattr(request, "waffles", {})
        static = {True: "STATIC", False: "DISABLED", None: "SPLIT" if drawn else None}[flag.everyone]
        self._tell(flag, active, error, started, reason=static, user=_user_id(request))

    @guarded
    def other(self, active: Any, error: Exception | None, started: int, entry: Any) -> None:
        """Record the evaluation of a switch or a sample."""
        self._tell(entry, active, error, started, reason="SPLIT" if hasattr(entry, "percent") else "STATIC")

    def _tell(self, entry: Any, active: Any, error: Exception | None, started: int, **fields: Any) -> None:
        # One that the database does not hold has no primary key.
        missing = "FLAG_NOT_FOUND" if not entry.pk else None
        error_type = missing if error is None else "GENERAL"
        fields["reason"] = "ERROR" if error_type else fields["reason"]
        self.record(entry.name, active, started=started, error_type=error_type, **fields)


def instrument(
    pipeline: Recorder, *, context_attributes: bool | Iterable[str] = True, targeting_key: bool = True
) -> WaffleAdapter:
    """Have every evaluation recorded, and return the adapter; the arguments are those of ``Adapter``."""
    adapter = WaffleAdapter(pipeline, context_attributes=context_attributes, targeting_key=targeting_key)
    observe(waffle.get_waffle_flag_model(), "is_active", adapter.flag)
    observe(waffle.get_waffle_switch_model(), "is_active", adapter.other)
    observe(waffle.get_waffle_sample_model(), "is_active", adapter.other)
    return adapter


def _user_id(request: Any) -> Any:
    user = request.__dict__.get("user")
    if user is None or getattr(user, "_wrapped", None) is empty:
        return None
    return user.pk
