"""What an answer of Statsig means, alike in both of its SDKs."""

from __future__ import annotations

from typing import Any

__all__ = ["attributes_of", "reason_of"]

_ATTRIBUTES = ("email", "ip", "user_agent", "country", "locale", "app_version", "custom_ids")


def reason_of(rule_id: str, group: str | None, *, overridden: bool) -> str:
    """Return the reason of an answer without an error; ``group`` is the name of the user's group, if any."""
    if overridden:
        return "OVERRIDE"
    if rule_id in {"disabled", "default", ""}:
        return "DISABLED" if rule_id == "disabled" else "DEFAULT"
    return "SPLIT" if group else "TARGETING_MATCH"


def attributes_of(user: Any) -> dict[str, Any]:
    """Return the attributes of a user without the private ones; a custom one replaces a standard one of its name."""
    if user is None:
        return {}
    found = {name: value for name in _ATTRIBUTES if (value := getattr(user, name, None)) is not None}
    return {**found, **(user.custom or {})}
