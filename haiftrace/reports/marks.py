"""Texts cut into pieces to be marked: words by their evidence, private spans by their type."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from haiftrace.findings import Finding, RecordEvidence
from haiftrace.reports.chat_markup import Markup, find_markup
from haiftrace.reports.formatting import has_percentages, percent_text
from haiftrace.reports.sanitize import inert
from haiftrace.reports.word_evidence import (
    WordEvidence,
    merge_words,
    split_punctuation,
    strongest,
)

# A word's level, by its evidence relative to the strongest word of all records of the finding.
_LEVELS = (0.05, 0.2, 0.5)
_NUMBERED = 4  # words of a record that bear their number in the text
_NUMBERED_FROM = 0.1  # of the strongest word's evidence
_ADDRESS = r"(?=[\w+.@•-]*•)[\w+.•-]+@[\w.•-]*[\w•]"
_WORD = r"[\w+.-]*•(?:[\w.•-]*[\w•])?"
_MASKED = re.compile(rf"{_ADDRESS}|{_WORD}(?:,? {_WORD})*")
"""A value that was replaced, where none is named: of several words if it is no address."""


@dataclass(frozen=True)
class Piece:
    """A run of text that looks alike; inert, save for its line breaks.

    Attributes:
        mark: "for1" to "for3", "against1" to "against3", "traced", or empty; " markup" behind
            it, or alone, for what is a chat template's.
        title: what to say on hover.
        number: what stands beside it, as in the text of the terminal.
        link: which words it lights up, as `haiftrace.reports.page.word_links` numbers them.
    """

    text: str
    mark: str = ""
    title: str = ""
    number: str = ""
    link: str = ""


@dataclass(frozen=True)
class Segment:
    """Pieces that are one private value of a type, or, with an empty type, plain text."""

    private: str
    pieces: tuple[Piece, ...]


@dataclass(frozen=True)
class _Span:
    start: int
    end: int
    piece: Piece


class PrivateValues:
    """Finds in a text the private values that a run is about.

    Args:
        findings: their leaked and protected values are looked for.
        masked: whether anything with a masking sign in it is taken for one too.
    """

    def __init__(self, findings: Iterable[Finding], *, masked: bool) -> None:
        types: dict[str, str] = {}
        for finding in findings:
            protected = finding.probe.protected if finding.probe is not None else ()
            for value in (*finding.leaked, *protected):
                if value.value.strip():
                    types.setdefault(value.value, value.type)
        self._types = types
        longest_first = sorted(types, key=len, reverse=True)
        self._pattern = re.compile("|".join(map(re.escape, longest_first))) if types else None
        self._masked = masked

    def find(self, text: str) -> list[tuple[int, int, str]]:
        """(start, end, type) of each, in order, none overlapping another."""
        spans: list[tuple[int, int, str]] = []
        if self._pattern is not None:
            for match in self._pattern.finditer(text):
                spans.append((*match.span(), self._types[match[0]]))
        if self._masked and "•" in text:
            for match in _MASKED.finditer(text):
                start, end = match.span()
                if not any(left < end and start < right for left, right, _ in spans):
                    spans.append((start, end, "private"))
        return sorted(spans)


def shown(text: str) -> str:
    """Inert text that keeps its line breaks, each with a sign."""
    lines = re.split(r"\r\n|\n|\r", text)
    return "↵\n".join(inert(line) for line in lines)


def peak_evidence(records: Sequence[RecordEvidence]) -> float:
    """The strongest word of all records, by size."""
    return max(
        (abs(word.evidence) for record in records for word in merge_words(record)), default=0.0
    )


def record_segments(
    record: RecordEvidence,
    peak: float,
    private: PrivateValues,
    links: Mapping[int, str] | None = None,
) -> list[Segment]:
    """A record's text with its words marked; `peak` is the evidence that the deepest shade means.

    A word without a mark joins the text around it: most words of a record carry next to nothing.

    Args:
        links: of words, by the offset that they start at; see `Piece`.
    """
    words = merge_words(record)
    evidence = [word.evidence for word in words]
    as_percent = has_percentages(record.score, evidence)
    numbered = {id(word) for word in strongest(words, _NUMBERED_FROM)[:_NUMBERED]}
    spans: list[_Span] = []
    for word in words:
        mark = _mark(word, peak)
        link = (links or {}).get(word.start, "") if word.start < word.end else ""
        if not mark and not link and id(word) not in numbered:
            continue
        number = percent_text(word.evidence, record.score, as_percent=as_percent)
        title = f"{number} of the score" if as_percent else f"evidence {number}"
        own = number if id(word) in numbered else ""
        spans.append(_word_span(word, Piece("", mark, title, own, link)))
    return list(_segments(record.text, spans, private.find(record.text)))


def text_segments(
    text: str,
    traced: tuple[int, int] | None,
    private: PrivateValues,
    words: Sequence[tuple[int, int]] = (),
    asked: tuple[int, int] | None = None,
) -> list[Segment]:
    """A prompt or a response with its marks.

    Args:
        traced: start and end of what was traced.
        words: start and end of each word that lights up others, in order; numbered from 0.
        asked: start and end of what a template was put around.
    """
    start, end = traced or (0, 0)
    cuts = sorted({start, end, *(place for word in words for place in word)})
    numbers = {word[0]: str(number) for number, word in enumerate(words)}
    ends = dict(words)
    spans = []
    for left, right in pairwise(cuts):
        mark = "traced" if start <= left < end else ""
        within = [a for a, b in ends.items() if a <= left < b]
        link = numbers[within[0]] if within else ""
        if mark or link:
            title = "the part traced" if mark else ""
            spans.append(_Span(left, right, Piece("", mark, title, "", link)))
    around = () if asked is None else _around(text, asked)
    return list(_segments(text, spans, private.find(text), around))


def _around(text: str, asked: tuple[int, int]) -> tuple[Markup, ...]:
    """What a template put before and behind, as its markup."""
    before, behind = Markup(0, asked[0], None), Markup(asked[1], len(text), None)
    return tuple(mark for mark in (before, behind) if mark.start < mark.end)


def level(evidence: float, peak: float) -> int:
    """How deep a shade is, from 0 to 3, by the size of evidence relative to the strongest."""
    return sum(peak > 0 and abs(evidence) >= least * peak for least in _LEVELS)


def _mark(word: WordEvidence, peak: float) -> str:
    depth = level(word.evidence, peak)
    direction = "for" if word.evidence > 0 else "against"
    return f"{direction}{depth}" if depth else ""


def _word_span(word: WordEvidence, piece: Piece) -> _Span:
    opening, core, _ = split_punctuation(word)
    if word.start < word.end and word.text.strip(" "):
        start = word.start + len(opening)
        return _Span(start, start + len(core), piece)
    # A name stands for what shows no letter.
    return _Span(word.start, word.end, replace(piece, text=core))


def _segments(
    text: str,
    spans: Sequence[_Span],
    private: Sequence[tuple[int, int, str]],
    around: Sequence[Markup] = (),
) -> Iterator[Segment]:
    """All of the text as segments: private spans with their pieces, and what is between them."""
    spans = list(_with_markup(spans, around or find_markup(text)))
    at = 0
    for start, end, kind in (*private, (len(text), len(text), "")):
        outside = tuple(_pieces(text, spans, at, start, is_last=start == len(text)))
        if outside:
            yield Segment("", outside)
        if start < end:
            yield Segment(inert(kind), tuple(_pieces(text, spans, start, end, is_last=False)))
        at = max(at, end)


def _with_markup(spans: Sequence[_Span], markup: Sequence[Markup]) -> Iterator[_Span]:
    """The spans, cut where the template's tokens begin and end, and these as spans of their own."""
    at = 0  # end of the markup that is a span already
    rest = list(markup)
    for span in spans:
        while rest and rest[0].end <= span.start:
            yield from _markup_span(rest.pop(0), at)
        left = span.start
        if span.piece.text or span.start == span.end:  # stands for text, and is never cut
            for mark in rest:
                if mark.start < left:
                    yield from _markup_span(replace(mark, end=left), at)
            at = max(at, span.end)
            yield span
            continue
        for mark in [mark for mark in rest if mark.start < span.end]:
            if mark.start < left:
                yield from _markup_span(replace(mark, end=left), at)
            elif left < mark.start:
                yield _Span(left, mark.start, replace(span.piece, number=""))
            both = min(mark.end, span.end)
            start = max(mark.start, left)
            piece = replace(span.piece, mark=f"{span.piece.mark} markup".strip())
            yield _Span(start, both, piece if both == span.end else replace(piece, number=""))
            left = at = both
        if left < span.end:
            yield replace(span, start=left)
    for mark in rest:
        yield from _markup_span(mark, at)


def _markup_span(mark: Markup, at: int) -> Iterator[_Span]:
    start = max(mark.start, at)
    if start < mark.end:
        yield _Span(start, mark.end, Piece("", "markup"))


def _pieces(
    text: str, spans: Sequence[_Span], start: int, end: int, *, is_last: bool
) -> Iterator[Piece]:
    """The pieces of `text[start:end]`; a span that is cut bears its number in its last piece."""
    at = start
    for span in spans:
        if span.start == span.end:
            if not (start <= span.start < end or (is_last and span.start == end)):
                continue
        elif span.end <= start or span.start >= end:
            continue
        left, right = max(span.start, start), min(span.end, end)
        if at < left:
            yield Piece(shown(text[at:left]))
        piece = span.piece
        yield replace(
            piece,
            text=inert(piece.text) if piece.text else shown(text[left:right]),
            number=piece.number if right == span.end else "",
        )
        at = max(at, right)
    if at < end:
        yield Piece(shown(text[at:end]))
