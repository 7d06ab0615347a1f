"""The planned arms of an experiment, as they stand on the command line."""

from __future__ import annotations

import math

__all__ = ["parse_expected"]


def parse_expected(text: str) -> dict[str, float]:
    """Return the share of each arm from ``control=50,treatment=50``; shares of any sum, as ratios 0–1.

    Raises:
        ValueError: the text is no such list, or names fewer than two arms.
    """
    weights: dict[str, float] = {}
    for part in text.split(","):
        name, equals, number = part.rpartition("=")
        try:
            weight = float(number)
        except ValueError:
            weight = math.nan
        if not equals or not name.strip() or not 0 < weight < math.inf or name.strip() in weights:
            raise ValueError(f"{text!r} is no list of arms: expected for example control=50,treatment=50")
        weights[name.strip()] = weight
    if len(weights) < 2:
        raise ValueError(f"{text!r} has one arm: expected at least two, for example control=50,treatment=50")
    total = sum(weights.values())
    return {name: weight / total for name, weight in weights.items()}
