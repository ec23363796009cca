"""Which records a finding names as sources, in every report and file: all of them, which are the
ones to remove, and the place of the first.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from haiftrace.findings import Finding, Holder, RecordEvidence, Source
from haiftrace.reports.narrative import traced_to

Why = Literal["holds the value", "taught it"]

HOLDS: Why = "holds the value"
TAUGHT: Why = "taught it"


def named_sources(finding: Finding) -> Iterator[tuple[str, Source, Why]]:
    """(id, place, why) of each record that a traced finding names: all that hold what was traced,
    and the first one, where influence names it. A record may be named for both.
    """
    verdict = finding.verdict
    if verdict is None or verdict.decision != "traced":
        return
    for holder in finding.holders or ():
        yield holder.id, holder.source, HOLDS
    if verdict.basis != "text" and finding.records:
        yield finding.records[0].id, finding.records[0].source, TAUGHT


def named_record(finding: Finding) -> RecordEvidence | Holder | None:
    """The first record that a traced finding names; None of one that is not traced.

    What the text alone names may stand in a record that influence does not rank among the first.
    """
    record = traced_to(finding)
    if record is not None:
        return record
    verdict = finding.verdict
    if verdict is None or verdict.decision != "traced" or not finding.holders:
        return None
    return finding.holders[0]


def named_source(finding: Finding) -> Source | None:
    """Where that record stands."""
    record = named_record(finding)
    return None if record is None else record.source
