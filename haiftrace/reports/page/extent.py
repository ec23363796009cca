"""How much of a report the page holds, by its number of findings: it has to open at once."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from haiftrace.reports.marks import Piece, Segment

_FEW, _MANY = 20, 200
MOST_FINDINGS = 2_000
"""Findings that the page shows; the JSON report holds all of them."""


@dataclass(frozen=True)
class Extent:
    """What is shown of a finding.

    Attributes:
        records: how many of the records that stand out are shown with text and evidence.
        has_chance: whether those that do not stand out are shown with theirs, too.
        text: characters of a prompt and of a response.
        stretch: characters of a record that no evidence marks, in a row, before they are left out.
    """

    records: int
    has_chance: bool
    text: int
    stretch: int | None


def extent_of(findings: int) -> Extent:
    """What to show of each, where there are so many findings."""
    if findings <= _FEW:
        return Extent(records=1_000, has_chance=True, text=20_000, stretch=None)
    if findings <= _MANY:
        return Extent(records=3, has_chance=False, text=4_000, stretch=600)
    return Extent(records=2, has_chance=False, text=800, stretch=200)


def excerpt(text: str, most: int, kept: tuple[int, int] | None) -> tuple[str, int]:
    """At most so many characters of a text, and how far they are shifted.

    Args:
        kept: start and end of what must be in it, if it fits; without, its end is.
    """
    if len(text) <= most:
        return text, 0
    start = len(text) - most
    if kept is not None:
        start = min(max(kept[0] - most // 2, 0), start)
    left = "…" if start else ""
    right = "…" if start + most < len(text) else ""
    return f"{left}{text[start : start + most]}{right}", len(left) - start


def shortened(segments: Iterable[Segment], most: int | None) -> Iterator[Segment]:
    """The segments with the middle of long stretches left out that bear no mark."""
    for segment in segments:
        if most is None or segment.private:
            yield segment
        else:
            yield replace(segment, pieces=tuple(_shortened(p, most) for p in segment.pieces))


def _shortened(piece: Piece, most: int) -> Piece:
    if piece.mark or piece.link or len(piece.text) <= most:
        return piece
    left, right = piece.text[: most // 2], piece.text[-(most // 2) :]
    return replace(piece, text=f"{left} […] {right}")
