"""Texts cut into pieces to be marked: words by their evidence, private spans by their type."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from haiftrace.findings import Finding, RecordEvidence
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
_MASKED = re.compile(r"[\w+.@-]*•[\w+.@•-]*")  # a value that was replaced, where none is named


@dataclass(frozen=True)
class Piece:
    """A run of text that looks alike; inert, save for its line breaks.

    Attributes:
        mark: "for1" to "for3", "against1" to "against3", "traced", or empty.
        title: what to say on hover.
        number: what stands beside it, as in the text of the terminal.
    """

    text: str
    mark: str = ""
    title: str = ""
    number: str = ""


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


def record_segments(record: RecordEvidence, peak: float, private: PrivateValues) -> list[Segment]:
    """A record's text with its words marked; `peak` is the evidence that the deepest shade means.

    A word without a mark joins the text around it: most words of a record carry next to nothing.
    """
    words = merge_words(record)
    evidence = [word.evidence for word in words]
    as_percent = has_percentages(record.score, evidence)
    numbered = {id(word) for word in strongest(words, _NUMBERED_FROM)[:_NUMBERED]}
    spans: list[_Span] = []
    for word in words:
        mark = _mark(word, peak)
        if not mark and id(word) not in numbered:
            continue
        number = percent_text(word.evidence, record.score, as_percent=as_percent)
        title = f"{number} of the score" if as_percent else f"evidence {number}"
        spans.extend(_word_spans(word, mark, title, number if id(word) in numbered else ""))
    return list(_segments(record.text, spans, private.find(record.text)))


def text_segments(text: str, traced: str | None, private: PrivateValues) -> list[Segment]:
    """A prompt or a response, the traced span of it marked."""
    start = text.find(traced) if traced else -1
    spans = []
    if traced and start >= 0:
        spans.append(_Span(start, start + len(traced), Piece("", "traced", "the part traced")))
    return list(_segments(text, spans, private.find(text)))


def level(evidence: float, peak: float) -> int:
    """How deep a shade is, from 0 to 3, by the size of evidence relative to the strongest."""
    return sum(peak > 0 and abs(evidence) >= least * peak for least in _LEVELS)


def _mark(word: WordEvidence, peak: float) -> str:
    depth = level(word.evidence, peak)
    direction = "for" if word.evidence > 0 else "against"
    return f"{direction}{depth}" if depth else ""


def _word_spans(word: WordEvidence, mark: str, title: str, number: str) -> Iterator[_Span]:
    opening, core, _ = split_punctuation(word)
    if word.start < word.end and word.text.strip(" "):
        start = word.start + len(opening)
        yield _Span(start, start + len(core), Piece("", mark, title, number))
    else:  # a name stands for what shows no letter
        yield _Span(word.start, word.end, Piece(core, mark, title, number))


def _segments(
    text: str, spans: Sequence[_Span], private: Sequence[tuple[int, int, str]]
) -> Iterator[Segment]:
    """All of the text as segments: private spans with their pieces, and what is between them."""
    at = 0
    for start, end, kind in (*private, (len(text), len(text), "")):
        outside = tuple(_pieces(text, spans, at, start, is_last=start == len(text)))
        if outside:
            yield Segment("", outside)
        if start < end:
            yield Segment(inert(kind), tuple(_pieces(text, spans, start, end, is_last=False)))
        at = max(at, end)


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
