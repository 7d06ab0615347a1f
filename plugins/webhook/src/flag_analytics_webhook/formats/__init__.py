"""The forms of a request's body, by their names in configuration."""

from __future__ import annotations

from collections.abc import Mapping

from . import amplitude, cloudevents, events_json, go_feature_flag, mixpanel, posthog, segment
from .form import Answer, Form

__all__ = ["FORMS", "Answer", "Form"]

FORMS: Mapping[str, Form] = {
    "json": events_json.FORM,
    "cloudevents": cloudevents.FORM,
    "go_feature_flag": go_feature_flag.FORM,
    "posthog": posthog.FORM,
    "segment": segment.FORM,
    "amplitude": amplitude.FORM,
    "mixpanel": mixpanel.FORM,
}
