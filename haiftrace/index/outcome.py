"""What making an index came to."""

from __future__ import annotations

from dataclasses import dataclass

from haiftrace.store import Totals


@dataclass(frozen=True)
class IndexOutcome:
    """What came of it.

    Attributes:
        totals: records, windows and label tokens of the index, or of the part that was made.
        left_out: records without a label (a single token), and empty ones.
        bad_lines: lines left out as unreadable.
        seconds: of this run.
        already_complete: True where the directory held this very index already.
    """

    totals: Totals
    left_out: int
    bad_lines: int
    seconds: float
    already_complete: bool = False
