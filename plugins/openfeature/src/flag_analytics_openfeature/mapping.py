"""How an OpenFeature evaluation reads as an event.

==========================  ==============================================================================
event                       OpenFeature
==========================  ==============================================================================
``flag_key``, ``value``     of the evaluation details
``variant``, ``reason``     of the evaluation details; no reason is ``UNKNOWN``
``targeting_key``           ``contextId`` of the flag metadata, else the evaluation context's targeting key
``flag_set_id``             ``flagSetId`` of the flag metadata
``flag_version``            ``version`` of the flag metadata
``error_type``              the error code; ``GENERAL`` for an error without one
``error_message``           of the evaluation details
``provider_name``           of the provider's metadata
``context_attributes``      the merged evaluation context's attributes
==========================  ==============================================================================

The names in the flag metadata are those of OpenFeature's telemetry appendix
(https://openfeature.dev/specification/appendix-d).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flag_analytics.protocols import RecordResult
from flag_analytics.recording import Recorder, record_evaluation
from openfeature.flag_evaluation import FlagEvaluationDetails
from openfeature.hook import HookContext

__all__ = ["ContextChoice", "record"]

ContextChoice = bool | frozenset[str]
"""Which context attributes to keep: all, none, or those named."""


def record(
    recorder: Recorder,
    hook_context: HookContext,
    details: FlagEvaluationDetails[Any],
    started: int | None,
    *,
    context_attributes: ContextChoice = True,
    targeting_key: bool = True,
) -> RecordResult:
    """Record an evaluation that has just ended; ``started`` is None where it was not measured.

    A provider may put anything into its metadata and a caller anything into the context: a value of an unexpected type
    is left out, or passed on for the canonical form to deal with, and never raises here.
    """
    context = hook_context.evaluation_context
    context_id, set_id, version = _metadata(details.flag_metadata)
    reason = details.reason
    error_type = None if details.error_code is None else str(details.error_code)
    if error_type is None and reason == "ERROR":
        error_type = "GENERAL"
    return record_evaluation(
        recorder,
        details.flag_key,
        details.value,
        variant=details.variant,
        reason=reason,
        user=(context_id or getattr(context, "targeting_key", None)) if targeting_key else None,
        attributes=_attributes(getattr(context, "attributes", None), context_attributes),
        started=started,
        error_type=error_type,
        error_message=details.error_message,
        flag_version=version,
        flag_set_id=set_id,
        provider_name=getattr(hook_context.provider_metadata, "name", None),
    )


def _metadata(metadata: Any) -> tuple[str | None, str | None, str | None]:
    """Return the context's id, the flag set's id and the flag's version."""
    if type(metadata) is dict:
        if not metadata:  # as nearly always
            return None, None, None
    elif not isinstance(metadata, Mapping):
        return None, None, None
    try:
        return _text(metadata.get("contextId")), _text(metadata.get("flagSetId")), _text(metadata.get("version"))
    except Exception:  # a mapping of the provider's own, which may do anything: the event is worth more
        return None, None, None


def _text(value: Any) -> str | None:
    if value is None or isinstance(value, str):
        return value or None
    if isinstance(value, int | float):
        return str(value)
    return None


def _attributes(attributes: Any, chosen: ContextChoice) -> dict[str, Any]:
    # A copy of its own: the evaluation context stays the caller's, who may go on changing it.
    if chosen is False or not (type(attributes) is dict or isinstance(attributes, Mapping)):
        return {}
    if chosen is True:
        return dict(attributes)
    return {name: value for name, value in attributes.items() if name in chosen}
