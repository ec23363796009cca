"""Which records a finding names as sources: the ones to remove, in every report and file."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from haiftrace.findings import Finding, Source

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
