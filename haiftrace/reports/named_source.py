"""The place that a finding is traced to: of its record, or of the first that holds the value."""

from __future__ import annotations

from haiftrace.findings import Finding, Source
from haiftrace.reports.narrative import traced_to


def named_source(finding: Finding) -> Source | None:
    """Where a traced finding's source stands; None of one that is not traced.

    What the text alone names may stand in a record that influence does not rank among the first.
    """
    record = traced_to(finding)
    if record is not None:
        return record.source
    verdict = finding.verdict
    if verdict is None or verdict.decision != "traced" or not finding.holders:
        return None
    return finding.holders[0].source
