"""Words of a text laid in lines of a figure, each at its place and of its width."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace

from haiftrace.reports.glyph_widths import text_width
from haiftrace.reports.sanitize import inert

_GAP = 0.34  # of the font's size: words in frames and shades stand apart
_CONTEXT = 10  # words before and after one that must be seen, where a text is cut
ELLIPSIS = "…"


@dataclass(frozen=True)
class Piece:
    """A word of a text, not yet placed.

    Attributes:
        text: inert.
        start, end: character offsets in its text; equal for what stands for words left out.
        gap: whether white space stands before it.
    """

    text: str
    start: int
    end: int
    gap: bool = True


@dataclass(frozen=True)
class Placed:
    """A word of a figure: its left edge, its baseline and its width, in pixels."""

    piece: Piece
    x: float
    baseline: float
    width: float

    @property
    def middle(self) -> float:
        """X of its middle."""
        return self.x + self.width / 2


@dataclass(frozen=True)
class Column:
    """Where lines stand.

    Attributes:
        left, width: of the lines, in pixels.
        size: of the font.
        leading: from baseline to baseline.
    """

    left: float
    width: float
    size: float
    leading: float


def pieces_of(text: str, words: Sequence[tuple[int, int]]) -> list[Piece]:
    """A text as words, those given and what stands between them.

    Args:
        words: (start, end) of words that are one piece each, in order, none overlapping.
    """
    pieces: list[Piece] = []
    at = 0
    for start, end in (*words, (len(text), len(text))):
        if start < at:
            continue
        for match in re.finditer(r"\S+", text[at:start]):
            pieces.append(_piece(text, at + match.start(), at + match.end()))
        if start < end:
            pieces.append(_piece(text, start, end))
        at = max(at, end)
    return pieces


def _piece(text: str, start: int, end: int) -> Piece:
    gap = start == 0 or text[start - 1].isspace() or text[start].isspace()
    return Piece(inert(text[start:end].strip()) or "␣", start, end, gap)


def cut(pieces: Sequence[Piece], most: int, keys: Collection[int]) -> list[Piece]:
    """At most about `most` pieces: those around the ones that must be seen, or the first.

    Args:
        keys: indices of those.
    """
    if len(pieces) <= most:
        return list(pieces)
    around = {n for key in keys for n in range(key - _CONTEXT, key + _CONTEXT + 1)}
    kept: list[Piece] = []
    for number, piece in enumerate(pieces):
        if number in around or (not keys and number < most):
            kept.append(piece)
        elif not kept or kept[-1].text != ELLIPSIS:
            kept.append(Piece(ELLIPSIS, piece.start, piece.start))
    return kept


def laid(pieces: Sequence[Piece], column: Column, top: float) -> tuple[list[Placed], float]:
    """The pieces in lines, and where the next line's baseline would be.

    A text whose first letter is of a script from right to left begins at the right.

    Args:
        top: the first baseline.
    """
    space = _GAP * column.size
    placed: list[Placed] = []
    x, baseline = 0.0, top
    for piece in _fitting(pieces, column):
        width = text_width(piece.text, column.size)
        gap = space if piece.gap and x else 0.0
        if x and x + gap + width > column.width:
            x, gap = 0.0, 0.0
            baseline += column.leading
        placed.append(Placed(piece, column.left + x + gap, baseline, width))
        x += gap + width
    if _is_leftward("".join(piece.text for piece in pieces)):
        right = 2 * column.left + column.width
        placed = [replace(word, x=right - word.x - word.width) for word in placed]
    return placed, baseline + column.leading


def _fitting(pieces: Sequence[Piece], column: Column) -> Iterator[Piece]:
    """The pieces, one that is wider than a line without its middle."""
    for piece in pieces:
        text = piece.text
        kept = len(text)
        while kept > 1 and text_width(text, column.size) > column.width:
            kept = kept * 3 // 4
            text = f"{piece.text[: kept // 2]}{ELLIPSIS}{piece.text[len(piece.text) - kept // 2 :]}"
        yield replace(piece, text=text)


def _is_leftward(text: str) -> bool:
    directions = (unicodedata.bidirectional(sign) for sign in text)
    return next((d for d in directions if d in {"L", "R", "AL"}), "L") != "L"
