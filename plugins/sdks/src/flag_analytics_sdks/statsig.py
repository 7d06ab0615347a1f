"""Statsig's older server SDK (``statsig``): ``instrument(statsig, pipeline)``.

Its ``evaluation_callback`` does not say for whom.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from flag_analytics.recording import Recorder
from statsig.evaluation_details import DataSource, EvaluationReason

from .adapter import Adapter, guarded
from .statsig_values import attributes_of, reason_of
from .wrapping import observe

__all__ = ["StatsigAdapter", "instrument"]


class StatsigAdapter(Adapter):
    """Records gates, dynamic configs, experiments and layers; the variant is the name of the group.

    Private attributes of the user are left out.
    """

    provider_name = "Statsig"

    @guarded
    def tell(self, answer: Any, _: Exception | None, started: int, user: Any, name: str, *__: Any, **___: Any) -> None:
        """Record what a method of the server answered; the SDK itself catches what is raised in it."""
        value = answer.get_values() if hasattr(answer, "get_values") else getattr(answer, "value", answer)
        error_type = _error_type(getattr(answer, "evaluation_details", None))
        group = getattr(answer, "group_name", None)
        self.record(
            name,
            value,
            variant=group,
            reason="ERROR" if error_type else _reason(answer, group),
            user=getattr(user, "user_id", None),
            attributes=attributes_of(user),
            started=started,
            error_type=error_type,
        )


def instrument(
    client: Any, pipeline: Recorder, *, context_attributes: bool | Iterable[str] = True, targeting_key: bool = True
) -> StatsigAdapter:
    """Have every evaluation recorded, and return the adapter; ``client`` is the module ``statsig`` or a server."""
    adapter = StatsigAdapter(pipeline, context_attributes=context_attributes, targeting_key=targeting_key)
    server = getattr(client, "__instance", client)
    for method in ("get_feature_gate", "get_config", "get_experiment", "get_layer"):
        observe(server, method, adapter.tell)
    return adapter


def _error_type(details: Any) -> str | None:
    if details is None:
        return "GENERAL"
    if details.reason == EvaluationReason.local_override:
        return None
    if details.source == DataSource.UNINITIALIZED:
        return "PROVIDER_NOT_READY"
    if details.reason == EvaluationReason.unrecognized:
        return "FLAG_NOT_FOUND"
    return "GENERAL" if details.reason in {EvaluationReason.error, EvaluationReason.unsupported} else None


def _reason(answer: Any, group: str | None) -> str:
    overridden = answer.evaluation_details.reason == EvaluationReason.local_override
    return reason_of(answer.rule_id, group, overridden=overridden)
