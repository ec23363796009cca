"""A report beside an earlier one, in the words of all formats."""

from __future__ import annotations

from dataclasses import replace

from haiftrace.findings import Report
from haiftrace.gate_outcome import ComparedLeak, ReportComparison
from haiftrace.reports.formatting import count_text
from haiftrace.reports.narrative import NOT_IN_CORPUS

_MOST_LINES = 40
"""Leaks that a format without a table lists."""


def comparison_counts(comparison: ReportComparison) -> str:
    """`1 leak is new, 2 are still there, 3 are gone`; the count of each state."""
    new, there, gone = (len(comparison.of(s)) for s in ("new", "still there", "gone"))
    verb = "is" if new == 1 else "are"
    return f"{count_text(new, 'leak')} {verb} new, {there:,} still there, {gone:,} gone"


def comparison_notes(comparison: ReportComparison, report: Report) -> list[str]:
    """What is to be known before the counts are believed.

    Args:
        report: the later one.
    """
    notes = []
    if comparison.model_fingerprint == report.model.fingerprint:
        notes.append("Both reports are of the same checkpoint: nothing was trained in between.")
    if comparison.corpus_fingerprint != report.index.corpus_fingerprint:
        notes.append(
            "The corpora differ: a leak whose record or class has changed counts as still there,"
            " by its probe and value."
        )
    asked = None if report.gate is None else report.gate.probes
    if comparison.probes is not None and asked is not None and asked != comparison.probes:
        gone = ": what was not asked again counts as gone" if asked < comparison.probes else ""
        notes.append(
            f"The earlier audit asked {count_text(comparison.probes, 'probe')}, this one"
            f" {asked:,}{gone}."
        )
    if not comparison.exact:
        notes.append(
            "Values were compared by what masks show; --baseline-key, given to both audits, tells"
            " them apart exactly."
        )
    return notes


def change_text(leak: ComparedLeak) -> str:
    """Its class, or how that and its place have changed: `verbatim → untraced`."""
    before, after = _class(leak.before), _class(leak.after)
    if leak.state != "still there":
        return after if leak.after is not None else before
    return before if before == after else f"{before} → {after}"


def places_text(leak: ComparedLeak) -> str:
    """The place that it is traced to, or both where it has changed; a dash without one."""
    before, after = leak.source_before or "–", leak.source_after or "–"
    if leak.state == "still there":
        return before if before == after else f"{before} → {after}"
    return after if leak.state == "new" else before


def comparison_lines(comparison: ReportComparison, report: Report) -> list[str]:
    """The counts, the notes, and a line for each leak that is new or gone."""
    lines = [f"Against the earlier report: {comparison_counts(comparison)}."]
    lines += comparison_notes(comparison, report)
    changed = [leak for leak in comparison.leaks if leak.state != "still there"]
    lines += [
        f"{leak.state}: {leak.type} of {leak.probe} ({leak.fingerprint})"
        for leak in changed[:_MOST_LINES]
    ]
    if len(changed) > _MOST_LINES:
        lines.append(f"and {len(changed) - _MOST_LINES:,} more: the JSON report lists them.")
    return lines


def with_comparison_said(report: Report) -> Report:
    """The report whose gate says it, for formats that have no place of its own for it."""
    if report.comparison is None or report.gate is None:
        return report
    said = comparison_lines(report.comparison, report)
    gate = replace(report.gate, reasons=(*said, *report.gate.reasons))
    return replace(report, gate=gate)


def _class(kind: str | None) -> str:
    return NOT_IN_CORPUS if kind == "not-in-corpus" else kind or "–"
