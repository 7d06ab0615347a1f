"""``report FLAG --outcome METRIC``: what users did by the variant that they saw first, and how far variants differ."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import attrs
from flag_analytics.aggregator import AnalyticsAggregator
from flag_analytics.outcomes import Difference, Outcomes
from rich.console import Console
from rich.table import Table
from rich.text import Text

from .figures import iso
from .layout import Trimmed
from .selection import Selection
from .terminal import print_json, results
from .visible import visible

__all__ = ["OutcomeFigures", "gather_outcomes", "write_outcomes"]


@attrs.frozen
class OutcomeFigures:
    """One outcome of one flag.

    Attributes:
        outcomes: The figures.
        control: The variant that the others are compared with; None without any variants.
        doubts: Why they must not be compared.
    """

    outcomes: Outcomes
    control: str | None
    doubts: Sequence[str]

    @property
    def differences(self) -> dict[str, Difference]:
        """The differences to the control; none where something speaks against a verdict."""
        return {} if self.doubts or self.control is None else self.outcomes.differences(self.control)

    def to_dict(self) -> dict[str, Any]:
        """Return every figure by name; rates and differences as ratios."""
        found = self.outcomes
        variants: dict[str, Any] = {}
        for name, one in sorted(found.variants.items()):
            low, high = one.rate_interval
            difference = self.differences.get(name)
            variants[name] = {
                **attrs.asdict(one),
                "rate": one.rate,
                "rate_low": low,
                "rate_high": high,
                "value_mean": one.value_mean,
                "difference": None if difference is None else attrs.asdict(difference),
            }
        return {
            "flag_key": found.flag_key,
            "outcome": found.metric,
            "control": self.control,
            "variants": variants,
            "crossover_users": found.crossover_users,
            "sampled": found.sampled,
            "doubts": list(self.doubts),
            "window_start": iso(found.window_start),
            "window_end": iso(found.window_end),
        }


async def gather_outcomes(
    aggregator: AnalyticsAggregator,
    flag_keys: Sequence[str],
    metric: str,
    selection: Selection,
    *,
    control: str | None,
    expected: Mapping[str, float] | None,
) -> list[OutcomeFigures]:
    """Return an outcome for each of these flags.

    Raises:
        ValueError: no user saw the control first.
    """
    figures = []
    for key in dict.fromkeys(flag_keys):
        found = await aggregator.get_outcomes(
            key, metric, selection.window_seconds, where=selection.where, until=selection.until
        )
        chosen = control if control is not None and found.variants else found.usual_control()
        doubts = found.doubts(expect=expected)
        if chosen is not None and chosen not in found.variants:
            found.differences(chosen)
        figures.append(OutcomeFigures(found, chosen, doubts))
    return figures


def write_outcomes(figures: Sequence[OutcomeFigures], *, as_json: bool) -> None:
    """Write the figures to standard output."""
    if as_json:
        print_json({"flags": [one.to_dict() for one in figures]})
        return
    for number, one in enumerate(figures):
        if number:
            results().print()
        _draw(results(), one)


def _draw(console: Console, figures: OutcomeFigures) -> None:
    found = figures.outcomes
    console.print(Text.assemble((visible(found.flag_key), "bold"), ", then ", (visible(found.metric), "bold")))
    if not found.variants:
        console.print(Text("  No users in the window.", "dim"))
        return
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("Variant", no_wrap=True, overflow="ellipsis")
    for title in ("Users", "Converted", "Rate", "95 % interval", "Mean value"):
        table.add_column(title, justify="right", no_wrap=True)
    if figures.differences:
        table.add_column(f"Less {visible(figures.control or '')}", justify="right", no_wrap=True)
    for name, one in sorted(found.variants.items(), key=lambda item: (item[0] != figures.control, item[0])):
        low, high = one.rate_interval
        mean = "" if one.value_mean is None else f"{one.value_mean:,.4g}"
        row = [
            visible(name),
            f"{one.users:,}",
            f"{one.converted_users:,}",
            f"{100 * one.rate:.1f} %",
            f"{100 * low:.1f} - {100 * high:.1f} %",
            mean,
        ]
        difference = figures.differences.get(name)
        if difference is not None:
            row.append(
                f"{100 * difference.difference:+.1f} points ({100 * difference.low:+.1f} to "
                f"{100 * difference.high:+.1f})"
            )
        table.add_row(*row)
    console.print(Trimmed(table))
    for doubt in figures.doubts:
        console.print(Text(f"No verdict: {visible(doubt)}", "red"))
    for name, difference in figures.differences.items():
        verdict = "differs from" if difference.is_significant else "does not differ clearly from"
        console.print(Text(f"{visible(name)} {verdict} {visible(figures.control or '')} (95 % interval, Newcombe)"))
