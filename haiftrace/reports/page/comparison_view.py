"""What has changed since an earlier report, as the page shows it."""

from __future__ import annotations

from dataclasses import dataclass

from haiftrace.findings import Report
from haiftrace.reports.comparison_words import (
    change_text,
    comparison_counts,
    comparison_notes,
    places_text,
)
from haiftrace.reports.sanitize import inert

_MOST_ROWS = 500


@dataclass(frozen=True)
class ComparedRow:
    """A value that leaks in either report: new, gone or still there, its class and place."""

    state: str
    probe: str
    type: str
    value: str
    change: str
    place: str


@dataclass(frozen=True)
class ComparisonView:
    """How many leaks are in which state, notes on the comparison, and the leaks.

    Attributes:
        left_out: rows beyond those that are shown.
    """

    counts: str
    notes: tuple[str, ...]
    rows: tuple[ComparedRow, ...]
    left_out: int


def comparison_view(report: Report) -> ComparisonView | None:
    """The comparison of a report; None without one."""
    comparison = report.comparison
    if comparison is None:
        return None
    rows = [
        ComparedRow(
            *map(
                inert,
                (
                    leak.state,
                    leak.probe,
                    leak.type,
                    leak.value,
                    change_text(leak),
                    places_text(leak),
                ),
            )
        )
        for state in ("new", "gone", "still there")
        for leak in comparison.leaks
        if leak.state == state
    ]
    return ComparisonView(
        inert(comparison_counts(comparison)),
        tuple(inert(note) for note in comparison_notes(comparison, report)),
        tuple(rows[:_MOST_ROWS]),
        max(0, len(rows) - _MOST_ROWS),
    )
