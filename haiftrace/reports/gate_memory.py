"""What became of the leaks that a baseline knows, in the words of all reports."""

from __future__ import annotations

from haiftrace.gate_outcome import Gate
from haiftrace.reports.formatting import count_text

_MOST_GONE = 20
"""Leaks that are gone, of which a line is given."""


def gate_gone(gate: Gate) -> list[str]:
    """What became of the baseline's leaks, a line each: how many do not occur again, and which."""
    known = gate.baseline
    if known is None or not known.leaks:
        return []
    what = count_text(known.leaks, "known leak")
    verb = "occurs" if len(known.gone) == 1 else "occur"
    lines = [f"{len(known.gone):,} of {what} no longer {verb}."]
    if known.not_asked:
        lines.append(f"Of {known.not_asked:,} the probe was not asked again: they stay open.")
    if not known.exact:
        lines.append(
            "Values were compared by their number and by what masks show; --baseline-key tells"
            " them apart exactly."
        )
    lines += [
        f"gone: {leak.fingerprint} ({leak.type}, probe {leak.probe})"
        for leak in known.gone[:_MOST_GONE]
    ]
    if len(known.gone) > _MOST_GONE:
        lines.append(f"and {len(known.gone) - _MOST_GONE:,} more: the JSON report lists them.")
    return lines
