"""Which word of the answer belongs to which words of the records, for the page to light up."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from haiftrace.findings import Finding, PairEvidence, RecordEvidence, ResponseToken
from haiftrace.reports.marks import level
from haiftrace.reports.word_evidence import split_text_punctuation

_FROM = 0.05
"""Of a record's strongest pair: a weaker one lights up nothing."""


@dataclass(frozen=True)
class AnswerWord:
    """A word of the answer that pairs name: `Finding.response[start:end]`."""

    start: int
    end: int
    positions: tuple[int, ...]


def answer_words(finding: Finding, records: Sequence[RecordEvidence]) -> list[AnswerWord]:
    """The words of the answer that a record shown taught, in the answer's order.

    A word whose place in the response is not known (its tokens are not those of the response, or
    are pieces of a character) is left out.
    """
    offsets = _offsets(finding)
    words: dict[tuple[int, ...], AnswerWord] = {}
    for record in records:
        for pair in strong_pairs(record):
            positions = pair.response_positions
            place = None if positions in words else _place(pair, finding.response, offsets)
            if place is not None:
                words[positions] = AnswerWord(*place, positions)
    kept: list[AnswerWord] = []
    for word in sorted(words.values(), key=lambda word: (word.start, word.end)):
        if not kept or word.start >= kept[-1].end:
            kept.append(word)
    return kept


def record_links(record: RecordEvidence, words: Sequence[AnswerWord]) -> dict[int, str]:
    """For each word of a record, by its start, what it taught: `0:3 2:1`, an answer word's number
    and how strongly, 1 to 3.
    """
    numbers = {word.positions: number for number, word in enumerate(words)}
    pairs = strong_pairs(record)
    peak = max((pair.evidence for pair in pairs), default=0.0)
    links: dict[int, list[str]] = {}
    for pair in pairs:
        number = numbers.get(pair.response_positions)
        if number is not None and pair.start < pair.end:
            links.setdefault(pair.start, []).append(f"{number}:{level(pair.evidence, peak)}")
    return {start: " ".join(of_word) for start, of_word in links.items()}


def strong_pairs(record: RecordEvidence) -> list[PairEvidence]:
    """The pairs that speak for the record, near enough to its strongest one."""
    peak = max((pair.evidence for pair in record.pairs), default=0.0)
    return [p for p in record.pairs if p.evidence > 0 and p.evidence >= _FROM * peak]


def _offsets(finding: Finding) -> Mapping[int, tuple[int, int]]:
    """Where in the response each of its tokens stands, by position; empty where that is open."""
    tokens: Sequence[ResponseToken] = sorted(finding.response_tokens, key=lambda t: t.position)
    joined = "".join(token.text for token in tokens)
    begun = len(joined) - len(joined.lstrip())
    at = finding.response.find(joined.strip()) - begun if joined.strip() else -len(joined) - 1
    if at < -begun:
        return {}
    places = {}
    for token in tokens:
        places[token.position] = (max(at, 0), max(at + len(token.text), 0))
        at += len(token.text)
    return places


def _place(
    pair: PairEvidence, response: str, offsets: Mapping[int, tuple[int, int]]
) -> tuple[int, int] | None:
    core = split_text_punctuation(pair.response_text)[1]
    tokens = [offsets[at] for at in pair.response_positions if at in offsets]
    if tokens and len(tokens) == len(pair.response_positions):
        start, end = min(a for a, _ in tokens), max(b for _, b in tokens)
        inner = response.find(core, start, end)
        if inner >= 0:
            return inner, inner + len(core)
    if response.count(core) == 1:
        start = response.index(core)
        return start, start + len(core)
    return None
