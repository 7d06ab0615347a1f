"""Statsig's newer server SDK (``statsig-python-core``): ``instrument(statsig, pipeline)``.

Its ``subscribe("*")`` does not say for whom.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from flag_analytics.recording import Recorder

from .adapter import Adapter, guarded
from .statsig_values import attributes_of, reason_of
from .wrapping import observe

__all__ = ["StatsigAdapter", "instrument"]

_METHODS = ("check_gate", "get_feature_gate", "get_dynamic_config", "get_experiment", "get_layer")


class StatsigAdapter(Adapter):
    """Records gates, dynamic configs, experiments and layers; the variant is the name of the group.

    Private attributes of the user are left out.
    """

    provider_name = "Statsig"

    @guarded
    def tell(self, answer: Any, _: Exception | None, started: int, user: Any, name: str, *__: Any, **___: Any) -> None:
        """Record what a method answered; the SDK answers None where something was raised in it."""
        if isinstance(answer, bool):
            self.record(name, answer, user=user.user_id, attributes=attributes_of(user), started=started)
            return
        details = "" if answer is None else answer.details.reason
        error_type = "GENERAL" if answer is None else _error_type(details)
        group = getattr(answer, "group_name", None)
        read = getattr(answer, "get_value", None)
        self.record(
            name,
            getattr(answer, "value", None) if read is None else read(),
            variant=group,
            reason="ERROR" if error_type else _reason(answer, details, group),
            user=getattr(user, "user_id", None),
            attributes=attributes_of(user),
            started=started,
            error_type=error_type,
        )


def instrument(
    client: Any, pipeline: Recorder, *, context_attributes: bool | Iterable[str] = True, targeting_key: bool = True
) -> StatsigAdapter:
    """Have every evaluation of a ``Statsig`` recorded, and return the adapter; the arguments are ``Adapter``'s."""
    adapter = StatsigAdapter(pipeline, context_attributes=context_attributes, targeting_key=targeting_key)
    for method in _METHODS:
        observe(client, method, adapter.tell)
    return adapter


def _error_type(details: str) -> str | None:
    if details.endswith("Unrecognized"):
        return "FLAG_NOT_FOUND"
    if details in {"Uninitialized", "NoValues"}:
        return "PROVIDER_NOT_READY"
    return "GENERAL" if details.startswith("Error") or details.endswith("Unsupported") else None


def _reason(answer: Any, details: str, group: str | None) -> str:
    return reason_of(answer.rule_id, group, overridden=details.startswith("LocalOverride"))
